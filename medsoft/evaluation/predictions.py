"""The predictions table: what a model said of each sample, one row a sample, as CSV.

Columns, in this order:

    id, patient, exam, split, fold    text; all but ``id`` may be empty
    task                              binary, multiclass, ordinal, multilabel or regression; the same in every row
    target                            name of the true class, of a regression the number; empty where it is unknown
    target_<label>, ...               instead of ``target`` for multilabel: 0, 1 or empty
    p_<class>, ...                    probabilities in class order; for all but multilabel they sum to 1
    prediction                        instead of probabilities for regression: the predicted number
    ...                               extra columns

For ``binary`` the last ``p_`` column is the positive class. Tables of other tools need only ``id``, the targets and
the probabilities. Without a ``task`` column a table with ``target_`` columns and no ``target`` is multilabel; others
are binary with two ``p_`` columns and multiclass with any other number. Only the column can say ordinal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.csv_rows import listed, raise_problems, read_rows
from medsoft.files import replacing
from medsoft.task import TASK_KINDS, Task, TaskKind

ABOUT_COLUMNS = ("id", "patient", "exam", "split", "fold")
SUM_TOLERANCE = 1e-3
_BINARY_TARGETS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "": None}


def make_predictions(
    task: Task,
    ids: Sequence[str],
    probabilities: npt.ArrayLike,
    targets: npt.ArrayLike | None = None,
    *,
    patient: Sequence[str] | str | None = None,
    exam: Sequence[str] | str | None = None,
    split: Sequence[str] | str | None = None,
    fold: Sequence[int | str] | int | str | None = None,
    extra: Mapping[str, Sequence[Any] | npt.NDArray[Any]] | None = None,
) -> pd.DataFrame:
    """Put a model's answers into a predictions table.

    Args:
        task: the question; names and orders the columns.
        ids: (N,) names of the samples, unique within a split and fold.
        probabilities: (N, C) in the order of ``task.classes``, in [0, 1]; for regression the predicted numbers (N, 1).
        targets: (N,) indices into ``task.classes``; for multilabel (N, C) of 0 and 1. Negative or NaN: unknown. For
            regression (N,) numbers, of which NaN alone is unknown.
        patient: one for each sample, or one for all; likewise ``exam``, ``split`` and ``fold``.
        exam: what is read together (two eyes, several views).
        split: train, val, test, or any other name.
        fold: of a cross-validation.
        extra: further columns of N values, written after the probabilities.

    Raises:
        InputError: the values are no valid table (NaN from a diverged model, an id twice); all problems are listed.
        ValueError: the shapes do not fit, or an extra column has the name of another.
    """
    p_NC = np.asarray(probabilities, dtype=np.float64)
    shape = (len(ids), len(task.p_columns))
    if p_NC.shape != shape:
        raise ValueError(f"probabilities have shape {p_NC.shape}; {shape[0]} ids and {shape[1]} classes need {shape}")
    about = {"id": ids, "patient": patient, "exam": exam, "split": split, "fold": fold}
    columns: dict[str, Any] = {name: _text(values, len(ids), name) for name, values in about.items()}
    columns["task"] = [task.kind] * len(ids)
    columns |= _target_columns(task, targets, len(ids))
    columns |= dict(zip(task.p_columns, p_NC.T, strict=True))
    for name, values in (extra or {}).items():
        if name in columns or name == "prediction" or name.startswith(("p_", "target_")):
            raise ValueError(f"an extra column cannot be called {name!r}: that name has a meaning in the table")
        columns[name] = values
    frame = pd.DataFrame(columns)
    raise_problems("predictions", _value_problems(frame, task))
    return frame


def write_predictions(frame: pd.DataFrame, path: Path | str) -> None:
    """Write a predictions table as CSV, with floats that read back exactly.

    The file is read back before it takes its name, so that whatever lies at ``path`` is a valid table.

    Raises:
        InputError: the frame is no valid predictions table; nothing is written.
        OSError: the file cannot be written.
    """
    with replacing(Path(path)) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
        if "prediction" in frame:
            from medsoft.evaluation.regression import read_regression

            read_regression(temporary, name=str(path))
        else:
            _parse(temporary, name=str(path))


def read_predictions(path: Path | str) -> tuple[pd.DataFrame, Task]:
    """Read and check a predictions table.

    Returns:
        The table with all columns of the format in their order, and its task. Text is ``str`` ("" where missing),
        probabilities are float64, targets of multilabel tables are Int8 (NA where missing). Extra columns come last,
        as the text that the file holds: only their owner knows whether 007 is a number.

    Raises:
        InputError: the file cannot be read or is no valid predictions table; all problems are listed.
    """
    return _parse(Path(path), name=str(path))


def _text(values: Sequence[Any] | str | int | None, n: int, name: str) -> list[str]:
    if values is None or isinstance(values, (str, int)):
        return ["" if values is None else str(values)] * n
    if len(values) != n:
        raise ValueError(f"{len(values)} values of {name!r} for {n} ids")
    series = pd.Series(list(values), dtype=object)
    return series.where(series.notna(), "").astype(str).tolist()


def _target_columns(task: Task, targets: npt.ArrayLike | None, n: int) -> dict[str, Any]:
    if task.kind == "regression":
        numbers = np.full(n, np.nan) if targets is None else np.asarray(targets, dtype=np.float64)
        if numbers.shape != (n,):
            raise ValueError(f"targets have shape {numbers.shape}, not {(n,)}")
        return {"target": numbers}
    shape = (n, len(task.classes)) if task.kind == "multilabel" else (n,)
    values = np.full(shape, np.nan) if targets is None else np.array(targets, dtype=np.float64)
    if values.shape != shape:
        raise ValueError(f"targets have shape {values.shape}, not {shape}")
    values[values < 0] = np.nan
    highest = 1 if task.kind == "multilabel" else len(task.classes) - 1
    known = values[~np.isnan(values)]
    if not np.isin(known, np.arange(highest + 1)).all():
        raise ValueError(f"targets of this {task.kind} task are whole numbers from 0 to {highest}")
    if task.kind == "multilabel":
        columns = zip(task.target_columns, values.T, strict=True)
        return {name: pd.array(column, dtype="Float64").astype("Int8") for name, column in columns}
    return {"target": ["" if np.isnan(value) else task.classes[int(value)] for value in values]}


def _parse(path: Path, name: str) -> tuple[pd.DataFrame, Task]:
    text, lines_N = read_rows(path, name)
    task, problems = _find_task(text, lines_N)
    if task is None:
        raise InputError(listed(name, problems))
    frame = pd.DataFrame({column: text.get(column, "") for column in ABOUT_COLUMNS}, index=text.index)
    frame["task"] = task.kind
    for column in task.target_columns:
        if column in text and task.kind == "multilabel":
            for value in text.loc[~text[column].isin(list(_BINARY_TARGETS)), column].unique():
                at = np.flatnonzero(text[column] == value)
                problems.append(f"{column} is {value!r}: 0, 1 or empty is allowed; {_rows(text, at, lines_N)}")
            frame[column] = text[column].map(_BINARY_TARGETS).astype("Int8")
        elif column in text:
            frame[column] = text[column]
    for column in task.p_columns:
        frame[column] = [_number(cell) for cell in text[column]]
    for column in text.columns.difference(frame.columns, sort=False):
        frame[column] = text[column]
    # A missing id column is one problem, not one a row.
    problems += _value_problems(frame if "id" in text else frame.drop(columns="id"), task, lines_N)
    raise_problems(name, problems)
    return frame, task


def _find_task(text: pd.DataFrame, lines_N: npt.NDArray[np.intp]) -> tuple[Task | None, list[str]]:
    """The task, or none where it cannot be told, and what is wrong with the columns."""
    classes = [column.removeprefix("p_") for column in text.columns if column.startswith("p_")]
    labels = [column.removeprefix("target_") for column in text.columns if column.startswith("target_")]
    problems = [] if "id" in text else ["column 'id' is missing"]
    if not classes:
        spaced = [f"column {name!r} begins or ends with a space" for name in text.columns if name != name.strip()]
        return None, [*problems, "there is no column of probabilities (p_<class>)", *spaced]
    if "task" not in text:
        kind = "multilabel" if labels and "target" not in text else "binary" if len(classes) == 2 else "multiclass"
    elif text["task"].nunique() > 1:
        first = int(lines_N[(text["task"] != text["task"].iloc[0]).argmax()])
        kinds_there = ", ".join(text["task"].unique())
        return None, [*problems, f"column 'task' is not the same in all rows: {kinds_there}; line {first}"]
    else:
        kind = text["task"].iloc[0]
    kinds = [name for name in TASK_KINDS if name != "regression"]
    if kind not in kinds:
        return None, [*problems, f"column 'task' is {kind!r}: allowed are {', '.join(kinds)}"]
    try:
        task = Task(cast(TaskKind, kind), tuple(classes))
    except ValueError as error:
        return None, [*problems, f"{error} (columns p_{', p_'.join(classes)})"]
    if kind != "multilabel" and len(classes) == 1:
        problems.append(f"one column of probabilities only (p_{classes[0]}): every class needs one, for binary two")
    problems += [f"column {column!r} is missing" for column in task.target_columns if column not in text]
    if kind == "multilabel":
        problems += [f"column 'p_{label}' is missing" for label in labels if label not in classes]
    return task, problems


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _value_problems(frame: pd.DataFrame, task: Task, lines_N: npt.NDArray[np.intp] | None = None) -> list[str]:
    """What is wrong with the values of the columns that are there; ``lines_N`` says where a file has the rows."""
    problems = []

    def forbid(bad_N: npt.ArrayLike, what: str) -> None:
        if np.any(bad_N):
            problems.append(f"{what} in {_rows(frame, np.flatnonzero(bad_N), lines_N)}")

    if "id" in frame:
        forbid(frame["id"] == "", "no id")
        forbid(frame.duplicated(["id", "split", "fold"]) & (frame["id"] != ""), "an id again (in its split and fold)")
    for column in frame.columns:
        if re.search(r"[\r\n]", column):
            problems.append(f"a line break within the name of column {column!r}")
        if not pd.api.types.is_numeric_dtype(frame[column]):
            breaks_N = frame[column].astype(str).str.contains(r"[\r\n]", regex=True)
            forbid(breaks_N, f"a line break within column {column!r}")
    if "" in task.classes:
        problems.append("a class without a name (column 'p_'): it could not be told from a missing target")
    p_NC = frame[task.p_columns].to_numpy(dtype=np.float64)
    if task.kind == "regression":
        forbid(~np.isfinite(p_NC[:, 0]), "prediction is not a finite number")
        return problems
    for column, p_N in zip(task.p_columns, p_NC.T, strict=True):
        forbid(np.isnan(p_N), f"{column} is empty or not a number")
        forbid((p_N < 0) | (p_N > 1), f"{column} is outside [0, 1]")
    if task.kind != "multilabel":
        with np.errstate(invalid="ignore"):  # infinite ones were told above
            forbid(np.abs(p_NC.sum(axis=1) - 1) > SUM_TOLERANCE, "the probabilities do not sum to 1")
        if "target" in frame:
            strange = frame.loc[~frame["target"].isin(["", *task.classes]), "target"]
            for value in strange.unique():
                forbid(frame["target"] == value, f"target {value!r} is none of {', '.join(task.classes)}")
    return problems


def _rows(
    frame: pd.DataFrame, positions: npt.NDArray[np.intp], lines_N: npt.NDArray[np.intp] | None, show: int = 5
) -> str:
    names = [f" ({name!r})" for name in frame["id"]] if "id" in frame else [""] * len(frame)
    shown = [f"{at + 1}{names[at]}" for at in positions[:show]]
    more = f" and {len(positions) - show} more" if len(positions) > show else ""
    plural = "s" if len(positions) > 1 else ""
    lines = "" if lines_N is None else f"; line{plural} {', '.join(str(lines_N[at]) for at in positions[:show])}"
    return f"row{plural} {', '.join(shown)}{more}{lines}{' …' if lines and more else ''}"
