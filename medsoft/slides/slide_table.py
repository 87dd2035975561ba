"""Slides named by a table, one row per slide, checked before work starts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medsoft.data.features.names import OF_BAGS, PICTURES, SCANNED
from medsoft.data.tables import checks
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.reading import load_source, require_columns, text
from medsoft.errors import InputError
from medsoft.slides.reading.resolution import STATED_LIMITS
from medsoft.slides.source import LONGEST_ID, SlideInput, SlideSource, is_too_long, make_ids
from medsoft.storage.remote import as_path, check_address, is_remote, without_file_scheme


def read_slide_table(which: SlideInput) -> list[SlideSource]:
    """Read the table that ``which.slides`` names; raises as ``medsoft.slides.find`` does."""
    (table,) = map(Path, which.slides)
    path, id, slide_mpp = which.path, which.id, which.slide_mpp
    source = load_source(table)
    mpp_column = None if which.slide_mpp_column == "mpp" and "mpp" not in source else which.slide_mpp_column
    wanted = {"path": path, "id": id, "slide_mpp_column": mpp_column}
    require_columns(table, source.columns, {option: [name] for option, name in wanted.items() if name is not None})
    root = without_file_scheme(str(which.root or table.parent))
    away = root if is_remote(root) else ""
    base = Path(os.path.abspath(table.parent if away else root))  # noqa: PTH100 (resolve() would follow links to other names)
    if not base.is_dir():
        raise InputError(f"{base}: the root of the paths is not a folder")
    rows = pd.DataFrame({str(name): text(source[name]) for name in source.columns})
    urls = rows[path].map(lambda value: _address(away, value))
    for url in filter(None, urls):
        check_address(url)
    cells = zip(urls, rows[path], strict=True)
    paths = pd.Series([str(as_path(url)) if url else _file(base, value) for url, value in cells], dtype=object)
    files = _of_rows(checks.check_files(paths[urls == ""], base)[0], np.flatnonzero(urls == "") + 1)
    # Contents are not compared, as terabytes would be read; two rows of one file are one mistake.
    problems = [*files, *_twice(paths)]
    if which.on_error == "skip":
        problems = [problem for problem in problems if problem.kind not in ("missing file", "empty file")]
    mpp = _resolutions(rows[mpp_column], problems) if mpp_column else [None] * len(rows)
    ids = rows[id] if id is not None else None
    if ids is None and not problems:
        ids = pd.Series(make_ids([Path(file) for file in paths]))
    if ids is not None:
        problems += checks.check_ids(ids)
        problems += [
            Problem("id too long", (row,), repr(name), f"files are named after it: {LONGEST_ID} bytes at most", False)
            for row, name in enumerate(ids, start=1)
            if is_too_long(name)
        ]
    if problems or ids is None:
        raise TableError(str(table), problems)
    return [
        SlideSource(
            url=url,
            id=name,
            path=Path(file),
            mpp=slide_mpp if stated is None else stated,
            mpp_origin="table" if stated is not None else "option" if slide_mpp is not None else "",
            row={str(column): str(value) for column, value in row.items()},
        )
        for url, name, file, stated, row in zip(urls, ids, paths, mpp, rows.to_dict("records"), strict=True)
    ]


def _address(root: str, value: str) -> str:
    """The address of a slide elsewhere that a cell names; "" for a path of this machine, and for nothing."""
    if is_remote(value):
        return value
    is_relative = value != "" and not value.startswith("/") and without_file_scheme(value) == value
    return f"{root.rstrip('/')}/{value}" if root and is_relative else ""


def _of_rows(problems: Sequence[Problem], rows: np.ndarray) -> list[Problem]:
    """Problems of some rows, with their numbers in the table."""
    return [replace(one, rows=tuple(int(rows[row - 1]) for row in one.rows)) for one in problems]


def _file(base: Path, value: str) -> str:
    """The absolute path that a cell names; of a name without suffix, as CLAM's, the one file of a slide so called."""
    if not value:
        return ""
    path = os.path.normpath(base / without_file_scheme(value))
    if os.path.exists(path):  # noqa: PTH110 (a Path for each of a million rows is slow)
        return path
    found = [path + suffix for suffix in (*SCANNED, *PICTURES, *OF_BAGS) if os.path.isfile(path + suffix)]  # noqa: PTH113
    return found[0] if len(found) == 1 else path


def _twice(paths: pd.Series) -> list[Problem]:
    first: dict[str, int] = {}
    problems = []
    for row, path in enumerate(paths, start=1):
        if path and first.setdefault(path, row) != row:
            message = f"the same file as row {first[path]}"
            problems.append(Problem("duplicate", (row,), message, "keep one row of each slide", False))
    return problems


def _resolutions(column: pd.Series, problems: list[Problem]) -> list[float | None]:
    """The column's numbers, None where it is empty; adds what is no resolution to ``problems``."""
    values: list[float | None] = []
    for row, word in enumerate(column, start=1):
        try:
            value = float(word) if word else None
        except ValueError:
            value = math.nan
        low, high = STATED_LIMITS
        if value is not None and not low <= value <= high:
            advice = (
                f"give µm per pixel of the slide's finest level, from {low:g} to {high:g}, or leave it empty where the "
                "file says it"
            )
            problems.append(Problem("not a resolution", (row,), repr(word), advice, False))
        values.append(value)
    return values
