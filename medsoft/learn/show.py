"""``medsoft data show``: a contact sheet of what the model will see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.data.contact_sheet import transforms_sheet
from medsoft.data.decode import ReadError
from medsoft.data.images import ImageDataModule
from medsoft.data.read import read_image
from medsoft.data.table_module import TableDataModule
from medsoft.errors import InputError
from medsoft.learn.command_line import CommandLine
from medsoft.learn.quiet import quieten


def show(argv: Sequence[str]) -> None:
    """Draw some samples as read, as the model sees them, and augmented: one of each class first, then at random."""
    quieten()
    if argv and not argv[0].startswith("-"):
        argv = [f"--data.table={argv[0]}", *argv[1:]]
    line = CommandLine("show", argv)
    out = Path(line.config.out or "contact_sheet.png")
    samples = line.datamodule.samples
    order = np.random.default_rng(line.config.seed_everything).permutation(len(samples))
    frame = samples.frame.iloc[order]
    columns = [column for column in samples.task.target_columns if column in frame]
    first_of_each = ~frame.duplicated(columns)
    frame = frame.assign(_later=~first_of_each).sort_values("_later", kind="stable").head(line.config.n)
    captions = ["  ".join([row["id"], *(str(row[c]) for c in columns if row[c] != "")]) for _, row in frame.iterrows()]
    title = f"{line.config.name}: {type(line.datamodule.transforms).__name__} ({len(samples)} samples)"
    if line.datamodule.note:
        title += f": {line.datamodule.note}"
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist")
    _draw(line.datamodule, frame, captions, title, out)
    print(f"Contact sheet: {out}")


def _draw(data: TableDataModule[Any], frame: pd.DataFrame, captions: list[str], title: str, out: Path) -> None:
    if isinstance(data, ImageDataModule):
        images = [_image(data, row, path) for row, path in zip(frame["row"], frame["path"], strict=True)]
        transforms_sheet(images, captions, data.transforms, title, out)
        return
    from medsoft.data.volumes.module import VolumeDataModule  # MONAI takes seconds

    if not isinstance(data, VolumeDataModule):
        raise InputError(f"data show draws images and volumes, not what {type(data).__name__} reads")
    from medsoft.data.volumes.sheet import UnreadableError, volumes_sheet

    try:
        volumes_sheet([data.files.of(row) for row in frame["row"]], captions, data.reader, title, out)
    except UnreadableError as error:
        raise _of_row(data, frame["row"].iloc[error.number], error.reason) from None


def _image(data: ImageDataModule, row: int, path: str) -> np.ndarray:
    """An image as read, once it is sure that it can be prepared.

    Raises:
        InputError: it cannot; names the row, and not the file, whose name may be a patient's.
    """
    try:
        image = read_image(path, max_pixels=data.max_pixels, voi=data.voi)
        data.transforms.prepare(image)
    except ReadError as error:
        raise _of_row(data, row, error.reason) from None
    except ValueError as error:
        raise _of_row(data, row, str(error)) from None
    return image


def _of_row(data: TableDataModule[Any], row: int, reason: str) -> InputError:
    return InputError(f"{data.samples.source}: row {row} cannot be drawn: {reason}")
