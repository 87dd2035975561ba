"""What counts as one sample: a row, an exam, or a patient.

An exam's or a patient's probabilities are the means over its rows; its target is that of its rows where they agree.
Where they do not (a patient with healthy and diseased tiles), it has no single target: it is left out and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medsoft.errors import InputError
from medsoft.task import Task

LEVELS = ("row", "exam", "patient")


@dataclass(frozen=True)
class Level:
    """A predictions table with one row a unit.

    Attributes:
        name: row, exam or patient.
        frame: in the format of a predictions table; ``id`` is the unit's.
        n_mixed: units without a target because their rows disagree; for multilabel, targets of units.
    """

    name: str
    frame: pd.DataFrame
    n_mixed: int


def levels_of(frame: pd.DataFrame, task: Task) -> list[str]:
    """The levels at which a table can be read that differ: exam and patient where one has several rows."""
    names = ["row"]
    if not task.pools:
        return names
    if frame["exam"].any() and frame.loc[frame["exam"] != "", ["split", "fold", "patient", "exam"]].duplicated().any():
        names.append("exam")
    if frame["patient"].any():
        named = frame.loc[frame["patient"] != "", ["split", "fold", "patient", "exam"]]
        # Where each patient has one exam, and all rows one, patients are the exams once more.
        again = named.duplicated() & (named["exam"] != "") & ("exam" in names)
        if named.loc[~again, ["split", "fold", "patient"]].duplicated().any():
            names.append("patient")
    return names


def _names(first: pd.DataFrame, level: str) -> pd.Series:
    """The unit's name: exams of different patients may bear the same one."""
    names = first[level]
    if level == "exam":
        names = (first["patient"] + "/" + names).where(first["patient"] != "", names)
    return names.where(first[level] != "", first["id"])


def at_level(frame: pd.DataFrame, task: Task, level: str) -> Level:
    """Read one split and fold of a predictions table by row, exam or patient.

    Rows whose exam or patient is unknown stand for themselves. A number as target is the mean over the rows.

    Raises:
        InputError: rows of this task are not pooled.
    """
    if level == "row":
        return Level("row", frame, 0)
    if not task.pools:
        raise InputError(f"by {level}: the rows of a {task.kind} are not pooled to one answer; say by row")
    key = frame["patient"] + "\x1f" + frame["exam"] if level == "exam" else frame["patient"]
    group = key.where(frame[level] != "", "\x1e" + frame["id"])
    parts = frame.groupby(group.to_numpy(), sort=False)
    first = parts.first()
    columns: dict[str, Any] = {
        "id": _names(first, level),
        "patient": first["patient"],
        "exam": first["exam"] if level == "exam" else "",
        "split": first["split"],
        "fold": first["fold"],
    }
    code_N, _ = pd.factorize(group)
    numbers = pd.DataFrame(task.target_numbers(frame))
    agreed = task.pool_targets(numbers, code_N, "mean")
    known = (numbers.groupby(code_N).count() > 0).to_numpy()
    columns["task"] = task.kind
    columns |= task.target_cells(agreed, len(first))
    columns |= {name: parts[name].mean() for name in task.p_columns}
    n_mixed = int((known & np.isnan(agreed).reshape(known.shape)).sum())
    return Level(level, pd.DataFrame(columns, index=first.index).reset_index(drop=True), n_mixed)
