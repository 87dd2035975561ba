"""What can be wrong with the rows of a sample table; each check returns all that it finds.

Messages name rows and not paths, which often carry a patient's name: they end in the logs of a cluster.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from medsoft.data.hashing import sha256
from medsoft.data.problems import Problem
from medsoft.data.read import locate
from medsoft.task import Task

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
    return [
        Problem("unknown split", tuple(where), repr(name) if name else "the split is empty", advice, False)
        for name, where in _rows_of(splits).items()
        if name not in SPLITS
    ]


def check_patients(patients: Iterable[str], splits: Sequence[str]) -> list[Problem]:
    """Check that every row has a patient, and that no patient is in two splits."""
    problems = []
    for patient, where in _rows_of(patients).items():
        if not patient:
            advice = "fill it in or delete the row: two rows without a patient may show the same one"
            problems += [Problem("missing patient", (row,), "the patient is empty", advice) for row in where]
        elif len(parts := sorted({splits[row - 1] for row in where})) > 1:
            message = f"a patient is in {' and '.join(repr(part) for part in parts)}"
            advice = "keep each patient in one split, or delete the split column to have the rows split by patient"
            problems.append(Problem("patient in two splits", tuple(where), message, advice, False))
    return problems


def check_duplicates(paths: Sequence[str], sizes: dict[str, int], targets: Sequence[object]) -> list[Problem]:
    """Find pictures that are in the table twice, by name or by content.

    Only files of the same size are read. Arrays in ``.npz`` are not compared.

    Args:
        paths: of all rows.
        sizes: bytes of the files that exist.
        targets: what each row is labelled as; None where there are no labels.
    """
    same_size = defaultdict(list)
    for path, size in sizes.items():
        same_size[size].append(path)
    content = {path: _digest(path) if len(same_size[size]) > 1 else path for path, size in sizes.items()}
    problems = []
    advice = "keep one row of each picture"
    for key, rows in _rows_of([content.get(path, "") for path in paths]).items():
        first, *others = rows
        name = paths[first - 1]
        if not key or not others:
            continue
        if any(targets[row - 1] != targets[first - 1] for row in others):
            message = "the same picture under two labels"
            problems.append(Problem("contradiction", tuple(rows), message, "find out which label is right", False))
            continue
        for row in others:
            same = "file" if paths[row - 1] == name else "content"
            problems.append(Problem("duplicate", (row,), f"the same {same} as row {first}", advice))
    return problems


def check_classes(targets: pd.DataFrame, splits: pd.Series, task: Task) -> list[Problem]:
    """Check that every class occurs: in train and in val where there are such rows, else in the table.

    A regression has no classes; its targets in train must differ.

    Args:
        targets: ``task.target_columns``.
        splits: of the same rows; "" where there are none.
        task: the question.
    """
    problems = []
    advice = "add such rows, split otherwise, or leave the class out"
    parts = {part: splits == part for part in ("train", "val") if (splits == part).any()}
    if (splits == "").all():
        parts = {"the table": splits == ""}
    if task.kind == "regression":
        train = targets.loc[parts.get("train", splits == splits), "target"]
        if train.nunique() == 1:
            advice = "add rows with other values, or split otherwise"
            problems.append(Problem("constant label", (), f"every label in train is {train.max():g}", advice, False))
        return problems
    for part, rows in parts.items():
        for name, column in zip(task.classes, task.target_columns * len(task.classes), strict=False):
            wanted: object = 1.0 if task.kind == "multilabel" else name
            if not (targets.loc[rows, column] == wanted).any():
                problems.append(Problem("empty class", (), f"class {name!r} has no sample in {part}", advice, False))
    return problems


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
