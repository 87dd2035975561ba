"""The verb ``data show``: a contact sheet of the model's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.data.datasets.base import TableDataModule
from medsoft.data.datasets.contact_sheet import transforms_sheet
from medsoft.data.datasets.image_module import ImageDataModule
from medsoft.data.images.pixel_facts import PixelFacts
from medsoft.data.images.read import read_sample
from medsoft.errors import InputError, ReadError
from medsoft.inference.detection.read import boxed_truth
from medsoft.inference.images.mask_pictures import outlined_truth
from medsoft.parsing.lightning_cli import CommandLine
from medsoft.training.silence_warnings import silence_warnings


def show(argv: Sequence[str]) -> None:
    """Draw some samples as read, as the model sees them, and augmented: one of each class first, then at random."""
    silence_warnings()
    line = CommandLine("show", argv)
    out = Path(line.config.out or "contact_sheet.png")
    samples = line.datamodule.samples
    order = np.random.default_rng(line.config.seed_everything).permutation(len(samples))
    frame = samples.frame.iloc[order]
    columns = [column for column in samples.task.target_columns if column in frame and samples.task.of_whole_samples]
    first_of_each = ~frame.duplicated(columns) if columns else pd.Series(True, index=frame.index)
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
        facts = PixelFacts()
        for path, image in zip(frame["path"], images, strict=True):
            facts.look(path, image)
        if note := data.depth_note(facts):
            print(f"WARNING: {note}")
        if data.task.has_masks:
            images = _with_masks(data, frame, images)
        if data.task.has_boxes:
            images = _with_boxes(data, frame, images)
        transforms_sheet(images, captions, data.transforms, title, out)
        return
    from medsoft.data.datasets.volume_module import VolumeDataModule  # MONAI takes seconds

    if not isinstance(data, VolumeDataModule):
        raise InputError(f"data show draws images and volumes, not what {type(data).__name__} reads")
    from medsoft.data.datasets.volume_sheet import UnreadableError, volumes_sheet

    try:
        volumes_sheet(data.rows_of(replace(data.samples, frame=frame)), captions, data.reader, title, out)
    except UnreadableError as error:
        raise _of_row(data, frame["row"].iloc[error.number], error.reason) from None


def _image(data: ImageDataModule, row: int, path: str) -> np.ndarray:
    """An image as read, once it is sure that it can be prepared.

    Raises:
        InputError: it cannot; names the row, and not the file, whose name may be a patient's.
    """
    try:
        image = read_sample(path, max_pixels=data.max_pixels, voi=data.voi)
        data.transforms.prepare(image)
    except ReadError as error:
        raise _of_row(data, row, error.reason) from None
    except ValueError as error:
        raise _of_row(data, row, str(error)) from None
    return image


def _with_masks(data: Any, frame: pd.DataFrame, images: list[np.ndarray]) -> list[np.ndarray]:
    """Images with the outlines of their masks, which are scaled and moved with them.

    Raises:
        InputError: a mask cannot be read; names the row.
    """
    shown: list[np.ndarray] = []
    masks = data.mask_paths(replace(data.samples, frame=frame))
    for row, image, mask in zip(frame["row"], images, masks, strict=True):
        try:
            shown.append(outlined_truth(data, image, mask))
        except ReadError as error:
            raise _of_row(data, row, f"the mask {error.reason}") from None
    return shown


def _with_boxes(data: Any, frame: pd.DataFrame, images: list[np.ndarray]) -> list[np.ndarray]:
    """Images with their true boxes, which are scaled and moved with them.

    Raises:
        InputError: a box cannot be used; names the row.
    """
    shown: list[np.ndarray] = []
    for row, path, image in zip(frame["row"], frame["path"], images, strict=True):
        boxes = data.boxes_of(path)
        if boxes is not None and (reason := boxes.wrong((image.shape[0], image.shape[1]))):
            raise _of_row(data, row, reason)
        shown.append(boxed_truth(image, boxes))
    return shown


def _of_row(data: TableDataModule[Any], row: int, reason: str) -> InputError:
    return InputError(f"{data.samples.source}: row {row} cannot be drawn: {reason}")
