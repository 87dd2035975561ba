"""The files behind a row of a table of volumes: one path or several, each a file or the folder of a series."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medsoft.data.problems import Problem
from medsoft.data.read import locate
from medsoft.data.source import require_columns, text
from medsoft.data.volumes.geometry import Box, Side
from medsoft.data.volumes.read import locate_series
from medsoft.errors import InputError

SIDES: dict[str, Side] = {"left": "left", "l": "left", "right": "right", "r": "right"}
BOX_COLUMNS = 6


@dataclass(frozen=True)
class VolumeRow:
    """What is read for one sample.

    Attributes:
        paths: absolute, one a path column; "" for a missing one.
        box: see ``geometry.Box``; None for none.
        side: of the patient, "" where it is not asked for.
    """

    paths: tuple[str, ...]
    box: Box | None
    side: Side


def path_columns(source: pd.DataFrame, path: str | Sequence[str]) -> list[str]:
    """The columns that name the volumes of a row.

    Args:
        source: the table.
        path: a column, several, or several with commas between. Where the table has no column ``path``, those that
            begin with ``path_`` are meant, in the table's order.
    """
    if not isinstance(path, str):
        return list(path)
    if path not in source and "," in path:
        return [name.strip() for name in path.split(",")]
    if path == "path" and path not in source:
        return [str(name) for name in source.columns if str(name).startswith("path_")] or [path]
    return [path]


class VolumeFiles:
    """Finds and checks the files of a table of volumes (a ``medsoft.data.table.SampleFiles``).

    Args:
        table: for messages.
        source: the table as loaded.
        base: folder that relative paths start from.
        columns: that name the volumes; the first one must be there unless ``missing`` is zeros.
        missing: error or zeros: what an empty path means where another is given.
        laterality: column with left or right (or L, R), or None.
        box: six columns x0, y0, z0, x1, y1, z1, or None.

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
    ) -> None:
        if box is not None and len(box) != BOX_COLUMNS:
            raise InputError(f"data.box names {len(box)} columns; give six: x0, y0, z0, x1, y1, z1 in voxels")
        wanted = {"path": list(columns), "laterality": [laterality] if laterality else [], "box": list(box or [])}
        require_columns(table, source.columns, wanted)
        self.missing = missing
        self._base = base
        self._paths = {column: text(source[column]).map(self._absolute).tolist() for column in columns}
        self._sides = text(source[laterality]).str.lower().tolist() if laterality else None
        self._box = source[list(box)].apply(text).to_numpy() if box else None

    def _absolute(self, value: str) -> str:
        return os.path.normpath(self._base / value) if value else ""

    def locate(self, value: str, id: str) -> str:
        """The absolute path of a row's first volume."""
        return self._absolute(value)

    def of(self, row: int) -> VolumeRow:
        """What is read for a row of the source, counted from 1, once ``check`` found nothing wrong with it."""
        paths = tuple(paths[row - 1] for paths in self._paths.values())
        side = SIDES.get(self._sides[row - 1], "") if self._sides else ""
        return VolumeRow(paths, self._box_of(row), side)

    def check(self, frame: pd.DataFrame) -> list[Problem]:
        """Files that are not there, sides and boxes that are none, and rows that are there twice."""
        problems = []
        first_with: dict[tuple[str, ...], int] = {}
        for row in frame["row"]:
            problems += self._check_paths(row)
            problems += self._check_place(row)
            side = self._sides[row - 1] if self._sides else ""
            place = "" if self._box is None else " ".join(self._box[row - 1])
            key = (*(paths[row - 1] for paths in self._paths.values()), side, place)
            first = first_with.setdefault(key, row)
            if first != row and any(key):
                advice = "keep one row of each, or tell them apart with data.laterality or data.box"
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
