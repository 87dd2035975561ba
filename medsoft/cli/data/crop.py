"""The verb ``data crop``: images are cut to their masks, and a table leads to what is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.data.datasets.segmentation.module import file_names
from medsoft.data.images.read import MAX_PIXELS, read_sample
from medsoft.data.masks.crop import Box, box_around, cropped
from medsoft.data.masks.read import read_values
from medsoft.data.masks.write import write_picture
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.reading import load_source, text, write_table
from medsoft.data.tables.sample_table import SampleTable, read_table
from medsoft.errors import InputError, ReadError, check_range
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.runs.checkpoint_paths import is_crossval
from medsoft.runs.crossval_folder import CrossvalFolder
from medsoft.runs.run_folder import RunFolder
from medsoft.system.progress import progress

TABLE = "cropped.csv"
PLACE = ("crop_x0", "crop_y0", "crop_x1", "crop_y1", "mask_fraction", "crop_of")
"""Columns that are added: the rectangle in pixels of the image, how much of the image the mask holds, and its file."""


def crop(
    table: str,
    masks: str,
    out: str,
    margin: float = 0.1,
    square: bool = False,
    outside: Literal["keep", "black"] = "keep",
    values: list[int] | None = None,
    empty: Literal["error", "whole"] = "error",
    path: str = "path",
    root: str | None = None,
    id: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Cut images to their masks: what a segmentation found, or masks of the table itself.

    Writes ``images/<id>.png`` and ``cropped.csv``: the table with the paths of the cut images, for every other command.
    Columns with the place of the rectangle, in pixels of the image, with the fraction of its pixels that are in the
    mask, and with the image that was cut are added. A column of masks is left out: they fit the whole images.

    Args:
        table: CSV, Parquet or Excel (.xlsx) with one row per image.
        masks: Column with the masks, or the folder of a prediction, of a run or of a cross-validation that has
            predicted the masks of these images.
        out: Folder to create.
        margin: What is kept around the mask on each side, as a fraction of the longer side of the rectangle.
        square: Make the rectangle square where the image is large enough.
        outside: What becomes of pixels of the rectangle outside of the mask: keep, or black.
        values: Mask values that count, such as 2; all values above 0 if not given.
        empty: What to do with images whose mask is empty: error, or whole to keep them as they are.
        path: Column with the image paths.
        root: Folder that relative paths start from; the table's folder if not given.
        id: Column with a unique id for each image; taken from the file name if not given.
        max_pixels: Images with more pixels than this are refused.

    Raises:
        InputError: the options or the table are wrong.
        TableError: images or masks of some rows cannot be used; all are listed, and nothing is written.
    """
    check_range("--margin", margin, 0)
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {out}: already exists; name a new folder")
    source = load_source(table)
    samples = read_table(table, source=source, root=root, path=path, id=id, label=None, require_labels=False)
    if twice := [name for name in PLACE if name in source]:
        raise InputError(f"{table}: has a column {twice[0]!r} already; delete or rename it first")
    mask_of = _in_table(source, masks, table, root) if masks in source else _predicted(Path(masks), samples)
    paths, ids, rows = (samples.frame[name].tolist() for name in ("path", "id", "row"))
    reasons: dict[str, list[int]] = {}
    boxes: list[Box] = []
    fractions: list[float] = []

    def inside(index: int, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        file = mask_of(index)
        if not file:
            raise ReadError("has no mask")
        mask = read_values(file, max_pixels)
        if mask.shape != size:
            raise ReadError(
                f"is {size[1]} x {size[0]} px, and its mask is of an image of {mask.shape[1]} x {mask.shape[0]}"
            )
        return np.isin(mask, values) if values else mask > 0

    with progress("reading masks", len(paths)) as step:
        for index, file in enumerate(paths):
            try:
                size = read_sample(file, max_pixels=max_pixels).shape[:2]
                found = inside(index, size)
                box = box_around(found, margin, square)
                if box is None and empty == "error":
                    raise ReadError("has an empty mask; --empty whole keeps such images as they are")
                boxes.append(box or Box(0, 0, size[1], size[0]))
                fractions.append(float(found.mean()))
            except ReadError as error:
                reasons.setdefault(error.reason, []).append(rows[index])
            step()
    if reasons:
        kind, advice = "unusable mask or image", "correct these rows"
        raise TableError(
            table, [Problem(kind, tuple(of), reason, advice, skippable=False) for reason, of in reasons.items()]
        )
    names = [f"images/{name}.png" for name in file_names("", ids)]
    with progress("writing images", len(paths)) as step:
        for index, (file, box) in enumerate(zip(paths, boxes, strict=True)):
            image = read_sample(file, max_pixels=max_pixels)
            black = outside == "black" and fractions[index] > 0
            write_picture(folder / names[index], cropped(image, inside(index, image.shape[:2]), box, black))
            step()
    places = pd.DataFrame(boxes, columns=list(PLACE[:4]), index=source.index)
    places["mask_fraction"] = np.round(fractions, 6)
    places["crop_of"] = [os.path.relpath(file, folder) for file in paths]
    frame = pd.concat([source.drop(columns=[masks] if masks in source else []), places], axis=1)
    write_table(frame.assign(**{path: names}), folder / TABLE)
    whole = sum(fraction == 0 for fraction in fractions)
    print(f"{len(paths)} images; the masks hold {100 * np.median(fractions):.2g} % of an image in the median")
    if whole:
        print(f"Note: {whole} images have an empty mask and are kept as they are")
    print(f"Wrote {folder / TABLE}")


def _in_table(source: pd.DataFrame, column: str, table: str, root: str | None) -> Callable[[int], str]:
    base = Path(os.path.abspath(root or Path(table).parent))  # noqa: PTH100 (as read_table)
    files = text(source[column]).tolist()
    return lambda index: str(base / files[index]) if files[index] else ""


def _predicted(folder: Path, samples: SampleTable) -> Callable[[int], str]:
    """The masks that models predicted, by the ids of the images.

    Of a cross-validation those of the test part of each fold, whose model has not seen the image.
    """
    if not folder.is_dir():
        raise InputError(f"--masks {folder}: no column of {samples.source}, and no folder")
    runs = [RunFolder(folder)]
    if is_crossval(folder):
        runs = [
            RunFolder(CrossvalFolder.existing(folder).run(fold.number).path)
            for fold in CrossvalFolder.existing(folder).folds
        ]
    files: dict[str, str] = {}
    for run in runs:
        frame, task = read_predictions(run.predictions)
        if not task.has_masks:
            raise InputError(f"--masks {folder}: predictions of a {task.kind} task, which has no masks")
        if len(runs) > 1:
            frame = frame[frame["split"] == "test"]
        for split, rows in frame.groupby("split"):
            names = file_names(str(split), rows["id"].tolist())
            files |= {one: str(run.masks / f"{name}.png") for one, name in zip(rows["id"], names, strict=True)}
    ids = samples.frame["id"].tolist()
    if not any(one in files for one in ids):
        raise InputError(
            f"--masks {folder}: none of its images is in {samples.source}; they are found by their ids, such as "
            f"{next(iter(files), '')!r} there and {ids[0]!r} here"
        )
    return lambda index: files.get(ids[index], "")
