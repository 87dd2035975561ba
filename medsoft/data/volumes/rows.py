"""The files behind a row of a table of volumes: one path or several, each a file or the folder of a series."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medsoft.data.formats.arrays import npz_shapes
from medsoft.data.images.read import locate
from medsoft.data.tables.problems import Problem
from medsoft.data.tables.reading import require_columns, text
from medsoft.data.volumes.read import NIFTI, NRRD, locate_series
from medsoft.data.volumes.volume import Box, Side
from medsoft.errors import InputError, ReadError
from medsoft.storage.fingerprints import array_hash, row_hash

SIDES: dict[str, Side] = {"left": "left", "l": "left", "right": "right", "r": "right"}
BOX_COLUMNS = 6
IMAGES = (".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".webp", ".tif", ".tiff")
"""Endings of files that hold an image and no volume."""
Kind = Literal["auto", "image", "volume"]
"""What the rows of a table are."""


@dataclass(frozen=True)
class VolumeRow:
    """What is read for one sample.

    Attributes:
        paths: absolute, one a path column; "" for a missing one.
        box: see ``geometry.Box``; None for none.
        side: of the patient, "" where it is not asked for.
        mask: absolute path of the mask, "" for none.
    """

    paths: tuple[str, ...]
    box: Box | None
    side: Side
    mask: str = ""

    def known_by(self, volumes: Sequence[np.ndarray], mask: np.ndarray | None) -> str:
        """What is equal for rows that show the same: a hash of voxels, mask, box and side, however files are written.

        Args:
            volumes: arrays of the paths that are there, as read.
            mask: its array; None for none.
        """
        return row_hash(*map(array_hash, volumes), "" if mask is None else array_hash(mask), self.box, self.side)


def path_columns(source: pd.DataFrame, path: str | Sequence[str]) -> list[str]:
    """The columns that name the volumes of a row.

    Args:
        source: the table.
        path: a column, several, or several separated by commas. Where the table has no column ``path``, those that
            begin with ``path_`` are meant, in the table's order.
    """
    if not isinstance(path, str):
        return list(path)
    if path not in source and "," in path:
        return [name.strip() for name in path.split(",")]
    if path == "path" and path not in source:
        return [str(name) for name in source.columns if str(name).startswith("path_")] or [path]
    return [path]


def holds_volumes(source: pd.DataFrame, columns: Sequence[str], base: Path) -> bool:
    """Whether a table is of volumes.

    It is if a column ``kind`` says so (as ``medsoft data index`` writes it), or if a path is NIfTI, NRRD, an array of
    ``.npz`` that holds volumes, a folder, or a series in one. A DICOM file alone may be either, and does not count. A
    folder among image files is a mistake in the table, and does not count either.

    Args:
        source: the table.
        columns: that name the files.
        base: folder that relative paths start from.
    """
    if "kind" in source and set(kinds := text(source["kind"])) <= {"volume", "image"}:
        return bool((kinds == "volume").any())
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    folders = images = False
    for value in (value for column in columns if column in source for value in text(source[column]) if value):
        path = os.path.normpath(base / value)
        file, key, _ = locate(path)
        if key and Path(file).is_file():
            if file not in shapes:
                shapes[file] = _shapes(file)
            shape = shapes[file].get(key, ())
            if len(shape) == 4 and shape[3] not in (1, 3):  # (N, X, Y, Z); pictures in colour are (N, H, W, 3)
                return True
        place = locate_series(path)[0]
        if place.lower().endswith((*NIFTI, *NRRD)):
            return True
        folders = folders or (not key and Path(place).is_dir())
        images = images or file.lower().endswith(IMAGES)
    return folders and not images


def volume_files(
    table: str,
    source: pd.DataFrame,
    kind: Kind,
    root: str | None,
    path: str,
    missing: Literal["error", "zeros"],
    laterality: str | None,
    box: Sequence[str],
    mask: str | None,
) -> VolumeFiles | None:
    """The files of a table of volumes; None of a table of images.

    Args:
        table: for messages, and the folder of its files where there is no ``root``.
        source: the table as loaded.
        kind: auto asks ``holds_volumes``.
        root: folder that relative paths start from.
        path: as for ``path_columns``.
        missing: as for ``VolumeFiles``.
        laterality: as for ``VolumeFiles``.
        box: as for ``VolumeFiles``, empty for none.
        mask: as for ``VolumeFiles``.

    Raises:
        InputError: as ``VolumeFiles``, or options for volumes where there are none.
    """
    base = Path(os.path.abspath(root or Path(table).parent))  # noqa: PTH100 (as read_table does)
    columns = path_columns(source, path)
    if kind == "volume" or (kind == "auto" and holds_volumes(source, columns, base)):
        return VolumeFiles(table, source, base, columns, missing, laterality, box or None, mask)
    if laterality or box or mask:
        raise InputError("laterality, box and mask are for volumes: leave them out, or say --kind volume")
    return None


def _shapes(file: str) -> dict[str, tuple[int, ...]]:
    try:
        return npz_shapes(file)
    except (OSError, ReadError):  # said where it is read
        return {}


class VolumeFiles:
    """Finds and checks the files of a table of volumes (a ``medsoft.data.tables.sample_table.SampleFiles``).

    Args:
        table: for messages.
        source: the table as loaded.
        base: folder that relative paths start from.
        columns: that name the volumes; the first one must be there unless ``missing`` is zeros.
        missing: error or zeros: what an empty path means where another is given.
        laterality: column with left or right (or L, R), or None.
        box: six columns x0, y0, z0, x1, y1, z1, or None.
        mask: column with masks, or None.

    Raises:
        InputError: a column does not exist, or there are not six of the box.
    """

    def __init__(
        self,
        table: str,
        source: pd.DataFrame,
        base: Path,
        columns: Sequence[str],
        missing: Literal["error", "zeros"],
        laterality: str | None,
        box: Sequence[str] | None,
        mask: str | None = None,
    ) -> None:
        if box is not None and len(box) != BOX_COLUMNS:
            raise InputError(
                f"box names {len(box)} columns (fit: --data.box); give six: x0, y0, z0, x1, y1, z1 in voxels"
            )
        one = {"laterality": laterality, "mask": mask}
        wanted = {"path": list(columns), "box": list(box or [])} | {k: [v] for k, v in one.items() if v}
        require_columns(table, source.columns, wanted)
        self.columns, self.missing = tuple(columns), missing
        self._base = base
        self._paths = {column: text(source[column]).map(self._absolute).tolist() for column in columns}
        self._masks = text(source[mask]).map(self._absolute).tolist() if mask else None
        self._sides = text(source[laterality]).str.lower().tolist() if laterality else None
        self._box = source[list(box)].apply(text).to_numpy() if box else None

    def _absolute(self, value: str) -> str:
        return os.path.normpath(self._base / value) if value else ""

    def locate_all(self, values: Sequence[str], ids: Sequence[str]) -> list[str]:
        """The absolute path of each row's first volume."""
        return [self._absolute(value) for value in values]

    def of(self, row: int) -> VolumeRow:
        """What is read for a row of the source, counted from 1, once ``check`` found nothing wrong with it."""
        paths = tuple(paths[row - 1] for paths in self._paths.values())
        side = SIDES.get(self._sides[row - 1], "") if self._sides else ""
        return VolumeRow(paths, self._box_of(row), side, self._masks[row - 1] if self._masks else "")

    def check(self, frame: pd.DataFrame, answers: Sequence[object]) -> list[Problem]:
        """Files that are not there, sides, boxes and masks that are none, and rows that are there twice."""
        problems = []
        first_with: dict[tuple[str, ...], int] = {}
        for row in frame["row"]:
            problems += self._check_paths(row)
            problems += self._check_place(row)
            problems += self._check_mask(row)
            side = self._sides[row - 1] if self._sides else ""
            place = "" if self._box is None else " ".join(self._box[row - 1])
            mask = self._masks[row - 1] if self._masks else ""
            key = (*(paths[row - 1] for paths in self._paths.values()), side, place, mask)
            first = first_with.setdefault(key, row)
            if first != row and any(key):
                advice = "keep one row of each, or tell them apart with laterality, box or mask (fit: --data.mask)"
                problems.append(Problem("duplicate", (row,), f"the same volume as row {first}", advice))
        return problems

    def _check_paths(self, row: int) -> list[Problem]:
        problems = []
        there = False
        for column, paths in self._paths.items():
            path = paths[row - 1]
            if not path:
                continue
            there = True
            file = locate(path)[0]
            place, _ = locate_series(file)
            if not Path(place).exists():
                advice = f"paths start from {self._base}: correct them, or the option root (fit: --data.root)"
                problems.append(Problem("missing file", (row,), f"{column}: no such file or folder", advice))
            elif Path(place).is_file() and not Path(place).stat().st_size:
                problems.append(Problem("empty file", (row,), f"{column}: 0 bytes", "copy it again"))
        if not there:
            problems.append(Problem("empty path", (row,), "the path is empty", "fill it in or delete the row"))
        elif self.missing == "error":
            absent = [column for column, paths in self._paths.items() if not paths[row - 1]]
            advice = "fill it in, delete the row, or have it taken for 0 with --data.missing zeros"
            problems += [Problem("missing volume", (row,), f"{column} is empty", advice) for column in absent]
        return problems

    def _check_place(self, row: int) -> list[Problem]:
        problems = []
        if self._sides is not None and self._sides[row - 1] not in SIDES:
            problems.append(Problem("unknown side", (row,), repr(self._sides[row - 1]), "write left or right"))
        if self._box is not None and self._box_of(row) is None:
            values = " ".join(self._box[row - 1])
            advice = "give six whole numbers in voxels, x0, y0, z0, x1, y1, z1, each end beyond its start"
            problems.append(Problem("no box", (row,), repr(values), advice))
        return problems

    def _check_mask(self, row: int) -> list[Problem]:
        if self._masks is None:
            return []
        mask = self._masks[row - 1]
        if not mask:
            advice = "fill it in, delete the row, or leave out the option mask"
            return [Problem("missing mask", (row,), "the mask is empty", advice)]
        if not Path(locate_series(locate(mask)[0])[0]).exists():
            advice = f"paths start from {self._base}: correct them, or the option root (fit: --data.root)"
            return [Problem("missing file", (row,), "mask: no such file", advice)]
        if mask in (paths[row - 1] for paths in self._paths.values()):
            advice = "name the column with the segmentations with the option mask (fit: --data.mask)"
            return [Problem("no mask", (row,), "the mask is the volume itself", advice)]
        return []

    def _box_of(self, row: int) -> Box | None:
        if self._box is None:
            return None
        try:
            numbers = [float(value) for value in self._box[row - 1]]
        except ValueError:
            return None
        if not np.isfinite(numbers).all() or any(number != int(number) for number in numbers):
            return None
        x0, y0, z0, x1, y1, z1 = map(int, numbers)
        return (x0, y0, z0, x1, y1, z1) if x1 > x0 and y1 > y0 and z1 > z0 else None
