"""The predictions table: what a model said of each sample, one row a sample, as CSV.

Columns, in this order:

    id, patient, exam, split, fold    text; all but ``id`` may be empty
    task                              binary, multiclass, ordinal, multilabel, regression, survival, …; in every row
    target                            name of the true class, of a regression the number; empty where it is unknown
    target_<label>, ...               instead of ``target`` for multilabel: 0, 1 or empty
    time, event                       instead of ``target`` for survival: event is 1, or 0 for censored; or both empty
    p_<class>, ...                    probabilities in class order; for all but multilabel they sum to 1
    prediction                        instead of probabilities for regression: the predicted number
    best_score, detections_<class>, true_<class>, matches_<class>, and boxes instead of ``target``
                                      for detection; see ``medsoft.evaluation.detection.answers``
    risk, s_<time>, ...               instead of probabilities for survival: larger is worse; the chance to live longer
    ...                               extra columns

For ``binary`` the last ``p_`` column is the positive class. Tables of other tools need only ``id``, the targets and
the probabilities. Without a ``task`` column a table with ``target_`` columns and no ``target`` is multilabel; others
are binary with two ``p_`` columns and multiclass with any other number. Only the column can say ordinal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError
from medsoft.storage.files import replacing
from medsoft.task import TASK_KINDS, Task, task_class
from medsoft.task_types import Wrong
from medsoft.text.csv_text import read_csv_text
from medsoft.text.spelling import is_plain, spellings

ABOUT_COLUMNS = ("id", "patient", "exam", "split", "fold")


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
    answers = task.answer_cells(p_NC, len(ids))
    about = {"id": ids, "patient": patient, "exam": exam, "split": split, "fold": fold}
    columns: dict[str, Any] = {name: _text(values, len(ids), name) for name, values in about.items()}
    columns |= task.kind_cells(len(ids))
    columns |= task.target_cells(targets, len(ids))
    columns |= answers
    for name, values in (extra or {}).items():
        if name in columns or name == "prediction" or name.startswith(("p_", "target_")):
            raise ValueError(f"an extra column cannot be called {name!r}: that name has a meaning in the table")
        columns[name] = values
    frame = pd.DataFrame(columns)
    _raise_problems("predictions", _value_problems(frame, task))
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
        _parse(temporary, name=str(path))


def read_predictions(path: Path | str) -> tuple[pd.DataFrame, Task]:
    """Read and check a predictions table.

    Returns:
        The table with all columns of the format in their order, and its task. Text is ``str`` ("" where missing),
        probabilities and predicted numbers are float64, targets that are numbers too (NaN where missing), those of
        multilabel tables are Int8 (NA where missing). Extra columns come last, as the text that the file holds: only
        their owner knows whether 007 is a number.

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


def _parse(path: Path, name: str) -> tuple[pd.DataFrame, Task]:
    # pandas' own reader would turn a class named NA into a missing one.
    text, lines_N = read_csv_text(path, name, "predictions table")
    task, problems = _find_task(text, lines_N, name)
    frame = pd.DataFrame({column: text.get(column, "") for column in ABOUT_COLUMNS}, index=text.index)
    for column, kinds in task.kind_cells(len(text)).items():
        frame[column] = kinds
    columns, wrong = task.parse_targets(text)
    problems += _where(text, wrong, lines_N)
    for column, values in columns.items():
        frame[column] = values
    for column in task.p_columns:
        frame[column] = [_number(cell) for cell in text[column]]
    for column in text.columns.difference(frame.columns, sort=False):
        frame[column] = text[column]
    # A missing id column is one problem, not one a row.
    problems += _value_problems(frame if "id" in text else frame.drop(columns="id"), task, lines_N)
    _raise_problems(name, problems)
    return frame, task


def _find_task(text: pd.DataFrame, lines_N: npt.NDArray[np.intp], name: str) -> tuple[Task, list[str]]:
    """The task, and what is wrong with the columns.

    Raises:
        InputError: the task cannot be told.
    """
    columns = list(map(str, text.columns))
    classes = [column.removeprefix("p_") for column in columns if column.startswith("p_")]
    problems = [] if "id" in text else ["column 'id' is missing"]
    recognised = [kind for kind in TASK_KINDS if task_class(kind).recognises(columns)]
    if not recognised:
        spaced = [f"column {name!r} begins or ends with a space" for name in columns if name != name.strip()]
        missing = "there is no column of probabilities (p_<class>), nor of predicted numbers (prediction)"
        raise InputError(_listed(name, [*problems, missing, *spaced]))
    if "task" not in text:
        kind = recognised[0]
    elif text["task"].nunique() > 1:
        first = int(lines_N[(text["task"] != text["task"].iloc[0]).argmax()])
        kinds_there = ", ".join(text["task"].unique())
        differs = f"column 'task' is not the same in all rows: {kinds_there}; line {first}"
        raise InputError(_listed(name, [*problems, differs]))
    else:
        kind = text["task"].iloc[0]
    if kind not in TASK_KINDS:
        raise InputError(_listed(name, [*problems, f"column 'task' is {kind!r}: allowed are {', '.join(TASK_KINDS)}"]))
    try:
        task = task_class(kind).from_text(text)
    except ValueError as error:
        which = f" (columns p_{', p_'.join(classes)})" if classes else ""
        raise InputError(_listed(name, [*problems, f"{error}{which}"])) from error
    if task.has_classes and not classes:
        raise InputError(_listed(name, [*problems, "there is no column of probabilities (p_<class>)"]))
    if task.exclusive and len(classes) == 1:  # what follows from it would only be noise
        others = sorted(set(text["target"]) - {"", classes[0]}) if "target" in text else []
        more = f": add p_{others[0]} = 1 - p_{classes[0]}" if len(others) == 1 else ", for binary two"
        alone = f"one column of probabilities only (p_{classes[0]}), and every class needs one{more}"
        raise InputError(_listed(name, [*problems, alone]))
    problems += [f"column {column!r} is missing" for column in task.target_columns if column not in text]
    if task.several_columns:
        labels = [column.removeprefix("target_") for column in columns if column.startswith("target_")]
        problems += [f"column 'p_{label}' is missing" for label in labels if label not in classes]
    return task, problems


def _number(cell: str) -> float:
    try:
        return float(cell) if "_" not in cell else float("nan")  # Python reads 1_0 as 10
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
        if not is_plain(str(column)):
            problems.append(f"a line break or control character within the name of column {column!r}")
        if not pd.api.types.is_numeric_dtype(frame[column]):
            values = frame[column].astype(str)
            breaks_N = values.str.contains(r"[\r\n]", regex=True)
            forbid(breaks_N, f"a line break within column {column!r}")
            if column in (*ABOUT_COLUMNS, "target"):
                forbid(~breaks_N & ~values.map(is_plain).astype(bool), f"a control character within column {column!r}")
    problems += [
        f"the classes {' and '.join(map(repr, ways))} differ in writing only: write them alike, as one class"
        for ways in spellings(task.classes).values()
    ]
    if "" in task.classes:
        problems.append("a class without a name (column 'p_'): it could not be told from a missing target")
    return problems + _where(frame, task.wrong_values(frame), lines_N)


def _where(frame: pd.DataFrame, wrong: Sequence[Wrong], lines_N: npt.NDArray[np.intp] | None) -> list[str]:
    """What is wrong, each with its rows."""
    return [f"{what} {_rows(frame, np.flatnonzero(bad_N), lines_N)}" for what, bad_N in wrong if bad_N.any()]


def _listed(name: str, problems: Sequence[str]) -> str:
    """The problems of a table in one message."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"{name}: {count} in the predictions table:" + "".join(f"\n  - {problem}" for problem in problems)


def _raise_problems(name: str, problems: Sequence[str]) -> None:
    if problems:
        raise InputError(_listed(name, problems))


def _rows(
    frame: pd.DataFrame, positions: npt.NDArray[np.intp], lines_N: npt.NDArray[np.intp] | None, show: int = 5
) -> str:
    names = [f" ({name!r})" for name in frame["id"]] if "id" in frame else [""] * len(frame)
    shown = [f"{at + 1}{names[at]}" for at in positions[:show]]
    more = f" and {len(positions) - show} more" if len(positions) > show else ""
    plural = "s" if len(positions) > 1 else ""
    lines = "" if lines_N is None else f"; line{plural} {', '.join(str(lines_N[at]) for at in positions[:show])}"
    return f"row{plural} {', '.join(shown)}{more}{lines}{' …' if lines and more else ''}"


def score_columns(score_N: npt.ArrayLike) -> dict[str, npt.NDArray[Any]]:
    """The columns of a predictions table that say how unlike the training data each sample is."""
    scores = np.asarray(score_N, dtype=np.float64)
    return {"ood_score": scores, "abstain": (scores > 1).astype(np.int64)}
