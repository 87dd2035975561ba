"""Checks of the rows of a sample table; each returns all problems that it finds.

Messages name rows and not paths, which often carry a patient's name: they end in the logs of a cluster.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from medsoft.data.images.read import locate
from medsoft.data.tables.duplicates import duplicate_problems
from medsoft.data.tables.problems import Problem
from medsoft.storage.hashing import sha256
from medsoft.text.spelling import normal_form

SPLITS = ("train", "val", "test")
NO_FILE = ("empty path", "missing file", "empty file")
"""Kinds of problems of rows without a file to open."""


def check_files(paths: Iterable[str], base: Path) -> tuple[list[Problem], dict[str, int]]:
    """Check that every row names a file that is there.

    Args:
        paths: absolute paths, "" where the table has none.
        base: the folder that relative paths start from, for the advice.

    Returns:
        The problems, and the sizes in bytes of the picture files that exist (arrays in ``.npz`` are no files).
    """
    problems, sizes = [], {}
    missing = f"paths start from {base}: correct them, or the option root (fit: --data.root)"
    for row, path in enumerate(paths, start=1):
        if not path:
            problems.append(Problem("empty path", (row,), "the path is empty", "fill it in or delete the row"))
            continue
        file, key, _ = locate(path)
        try:
            status = os.stat(file)  # noqa: PTH116 (a Path for each of a million rows is slow)
        except OSError as error:
            problems.append(Problem("missing file", (row,), (error.strerror or "cannot be opened").lower(), missing))
            continue
        if not stat.S_ISREG(status.st_mode):
            problems.append(Problem("missing file", (row,), "not a file", missing))
        elif status.st_size == 0:
            problems.append(Problem("empty file", (row,), "0 bytes", "copy it again"))
        elif not key:
            sizes[path] = status.st_size
    return problems, sizes


def check_ids(ids: Iterable[str]) -> list[Problem]:
    """Check that ids are there, differ, and are no paths."""
    rows = _rows_of(ids)
    advice = "name a column of unique names without slashes with the option id, or leave it out for names made here"
    problems = [Problem("empty id", (row,), "the id is empty", advice, False) for row in rows.pop("", [])]
    for name, where in rows.items():
        if len(where) > 1:
            problems.append(Problem("duplicate id", tuple(where), repr(name), advice, False))
        if "/" in name or "\\" in name:
            problems.append(Problem("id is a path", tuple(where), repr(name), advice, False))
    return problems


def check_splits(splits: Iterable[str]) -> list[Problem]:
    """Check that every row is in train, val or test."""
    advice = (
        f"the splits are {', '.join(SPLITS)}; give other names a meaning with the option rename_splits "
        """(fit: --data.rename_splits '{"validation": "val"}')"""
    )
    problems = []
    for name, where in _rows_of(splits).items():
        alike = [split for split in SPLITS if split == normal_form(name)]
        message = repr(name) if name else "the split is empty"
        message += f", which differs from {alike[0]!r} in writing only" if alike else ""
        if name not in SPLITS:
            problems.append(Problem("unknown split", tuple(where), message, advice, False))
    return problems


def check_patients(patients: Iterable[str]) -> list[Problem]:
    """Check that every row has a patient."""
    advice = "fill it in or delete the row: two rows without a patient may show the same one"
    return [
        Problem("missing patient", (row,), "the patient is empty", advice)
        for row, patient in enumerate(patients, start=1)
        if not patient
    ]


def check_undivided(groups: Sequence[str], splits: Sequence[str], what: str) -> list[Problem]:
    """Check that no patient (or exam) is in two splits.

    Args:
        groups: what must stay together; "" for nothing.
        splits: of the same rows.
        what: the groups are: "patient" or "exam".
    """
    advice = f"keep each {what} in one split, or delete the split column to have the rows split by {what}"
    problems = []
    for rows, parts in divided(groups, splits):
        ways = len({groups[row - 1] for row in rows})
        written = f" (written in {ways} ways, which differ in case, zeros or spaces only)" if ways > 1 else ""
        article = "an" if what == "exam" else "a"
        message = f"{article} {what} is in {' and '.join(map(repr, parts))}{written}"
        problems.append(Problem(f"{what} in two splits", tuple(rows), message, advice, False))
    return problems


def divided(groups: Sequence[str], parts: Sequence[str]) -> list[tuple[list[int], list[str]]]:
    """What must stay together and is in several parts: its rows from 1, and the parts.

    Names of groups that differ in writing only are one. A part called "" is none.
    """
    found = []
    for group, rows in _rows_of(map(normal_form, groups)).items():
        there = sorted({parts[row - 1] for row in rows} - {""})
        if group and len(there) > 1:
            found.append((rows, there))
    return found


def check_duplicates(paths: Sequence[str], sizes: dict[str, int], targets: Sequence[object]) -> list[Problem]:
    """Find pictures that are in the table twice, by name or by the bytes of their files.

    Only files of the same size are read. Equal pixels in other bytes, and arrays in ``.npz``, are found where pictures
    are decoded (``medsoft.data.tables.duplicates``).

    Args:
        paths: of all rows.
        sizes: bytes of the files that exist.
        targets: what each row is labelled as; None where there are no labels.
    """
    same_size = defaultdict(list)
    for path, size in sizes.items():
        same_size[size].append(path)
    content = {path: _digest(path) if len(same_size[size]) > 1 else path for path, size in sizes.items()}
    keys = [content.get(path, "") for path in paths]
    return duplicate_problems(keys, range(1, len(keys) + 1), targets, paths)


def _rows_of(values: Iterable[str]) -> dict[str, list[int]]:
    """Value to the numbers of its rows, from 1."""
    rows = defaultdict(list)
    for row, value in enumerate(values, start=1):
        rows[value].append(row)
    return dict(rows)


def _digest(path: str) -> str:
    try:
        return sha256(path)
    except OSError:  # that it cannot be read is said where it is decoded
        return path
