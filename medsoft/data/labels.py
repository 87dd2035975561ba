"""From label columns to a task and targets. Nothing is guessed: what is not clear is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import pandas as pd

from medsoft.data.problems import Problem
from medsoft.data.source import text
from medsoft.errors import InputError
from medsoft.task import TASK_KINDS, Task, TaskKind

Words = str | int | float | Sequence[str | int | float] | None
"""An option that takes one value, several with commas between, or a list."""

Uncertain = Literal["ignore", "zero", "one"]
"""What a label of -1 counts as: missing, absent or present (Irvin et al. 2019, arXiv 1901.07031, section 3)."""

MISSING = ("", "NA", "NaN", "nan", "<NA>")
"""What a missing label looks like."""


@dataclass(frozen=True)
class Targets:
    """Labels that were read.

    Attributes:
        task: the question.
        columns: ``task.target_columns``, indexed like the table: names of classes, "" where there is none; for
            multilabel 0.0, 1.0 and NaN; for regression numbers and NaN.
        problems: labels that are missing or no answer to the question.
        notes: sentences on what was decided.
    """

    task: Task
    columns: pd.DataFrame
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)


def words(value: Words) -> list[str]:
    """The words of an option: ``"2, 3"``, ``[2, 3]`` and ``["2", "3"]`` are the same."""
    if value is None:
        return []
    if isinstance(value, str):
        return [word.strip() for word in value.split(",")]
    return [str(word).strip() for word in (value if isinstance(value, Sequence) else [value])]


def read_labels(
    labels: pd.DataFrame,
    *,
    task: str | None,
    positive: Words,
    classes: Words,
    required: bool = True,
    uncertain: Uncertain | Mapping[str, Uncertain] | None = None,
) -> Targets:
    """Read the label columns of a table.

    Args:
        labels: the label columns; several make a multilabel question.
        task: kind of question, or None where the labels leave no doubt: text with more than two values, or
            several columns.
        positive: values that count as positive in a binary question; all others are negative.
        classes: all names in order. With ``positive`` they name the two groups, the negative one first; without, the
            groups have their values' names if these are two words, else negative and positive.
        required: whether a missing label is a problem, and a single class a reason to stop.
        uncertain: what -1 means in a multilabel question, for all labels or by label; a problem where not given.

    Raises:
        InputError: the task is not clear, or the options contradict each other or the labels.
    """
    if task is not None and task not in TASK_KINDS:
        raise InputError(f"there is no task {task!r}: the tasks are {', '.join(TASK_KINDS)}")
    texts = labels.apply(text).map(lambda value: "" if value in MISSING else value)
    several = len(labels.columns) > 1 or task == "multilabel"
    if uncertain and (task == "regression" or not several):
        raise InputError("uncertain is for multilabel tasks, whose labels are 1, 0, -1 or empty: leave it out")
    if task == "regression":
        return _read_quantity(texts, words(positive), words(classes), required)
    if several:
        return _read_multilabel(texts, task, words(positive), words(classes), uncertain)
    values: pd.Series = texts.iloc[:, 0]
    column = f"the label column {values.name!r}"
    seen = sorted(set(values) - {""})
    if required and not seen:
        raise InputError(f"{column} is empty")
    numeric = all(map(_is_number, seen))
    if numeric:
        values = values.map(_plain_number)
        seen = sorted(set(map(_plain_number, seen)), key=float)
    named, counted = words(classes), words(positive)
    if numeric:
        named, counted = list(map(_plain_number, named)), list(map(_plain_number, counted))
    if len(set(named)) < len(named) or "" in named:
        raise InputError(f"classes must be different names with commas between, not {', '.join(map(repr, named))}")
    kind = cast(TaskKind, task or _kind_beyond_doubt(column, seen, numeric, counted, named))
    if kind == "binary":
        meaning, names, notes = _binary(column, seen, counted, named, required)
    else:
        meaning, names, notes = _several_classes(column, seen, kind, counted, named, required)
    return Targets(
        task=Task(kind, names),
        columns=pd.DataFrame({"target": values.map(lambda value: meaning.get(value, "")).astype(object)}),
        problems=_label_problems(values, meaning, required),
        notes=notes,
    )


def _is_number(value: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value) is not None


def _plain_number(value: str) -> str:
    """``"2.0"`` and ``"02"`` as ``"2"``; what is no number stays as it is."""
    return f"{float(value):.15g}" if _is_number(value) else value


def _some(values: Sequence[str], shown: int = 10) -> str:
    return ", ".join(values[:shown]) + (f", ... ({len(values)} values)" if len(values) > shown else "")


def _kind_beyond_doubt(column: str, seen: list[str], numeric: bool, positive: list[str], classes: list[str]) -> str:
    if positive:
        return "binary"
    if numeric:
        raise InputError(
            f"{column} holds numbers ({_some(seen)}), which does not say what is asked. State the task (fit: "
            "--data.task): regression (a quantity), ordinal (grades), multiclass (codes without an order), or binary, "
            "with positive (fit: --data.positive) for the values that count as positive"
        )
    if len(classes or seen) != 2:
        return "multiclass"
    if not classes:
        raise InputError(
            f"{column} has two values ({', '.join(seen)}): say which is the positive one, as positive (fit: "
            f"--data.positive {seen[1]}) or by the order negative, positive in classes (fit: --data.classes "
            f"{','.join(seen)})"
        )
    return "binary"


def _binary(
    column: str, seen: list[str], positive: list[str], classes: list[str], required: bool
) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
    if classes and len(classes) != 2:
        raise InputError(f"a binary task has two classes (negative, positive), not {len(classes)}: {_some(classes)}")
    if not positive:
        if not classes and not set(seen) <= {"0", "1"}:
            raise InputError(f"{column} has the values {_some(seen)}: say which are positive (fit: --data.positive)")
        names = tuple(classes) or ("0", "1")
        return {name: name for name in names}, names, []
    absent = [value for value in positive if value not in seen]
    if required and (len(absent) == len(positive) or set(seen) <= set(positive)):
        which = "none" if absent else "all"
        raise InputError(f"{column}: {which} of its values ({_some(seen)}) are positive ({', '.join(positive)})")
    negative = [value for value in seen if value not in positive]
    one_each = len(positive) == len(negative) == 1 and not any(value.isdecimal() for value in (*positive, *negative))
    names = tuple(classes) or ((negative[0], positive[0]) if one_each else ("negative", "positive"))
    meaning = {value: names[value in positive] for value in seen}
    notes = [f"{column}: {names[1]} is {', '.join(positive)}; {names[0]} is {_some(negative)}"]
    if one_each and not classes:
        notes = [f"{column}: the positive class is {names[1]}, the negative one {names[0]}"]
    elif all(value == name for value, name in meaning.items()):
        notes = []  # nothing has another name than in the table
    if absent:
        notes.append(f"{column}: the positive {', '.join(absent)} does not occur in this table")
    return meaning, names, notes


def _several_classes(
    column: str, seen: list[str], kind: str, positive: list[str], classes: list[str], required: bool
) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
    if positive:
        raise InputError(f"positive belongs to a binary task, not to {kind}: leave out one of the two")
    if kind == "ordinal" and not classes and not all(map(_is_number, seen)):
        raise InputError(
            f"{column}: an ordinal task with text labels needs classes (fit: --data.classes), lowest first"
        )
    names = tuple(classes or seen)
    if len(names) < 2 and required:
        raise InputError(f"{column} has one value only ({_some(seen)}): there is nothing to tell apart")
    return {name: name for name in names}, names, []


def _label_problems(values: pd.Series, meaning: dict[str, str], required: bool) -> list[Problem]:
    problems = []
    unknown = f"the labels are {_some(list(meaning))}; correct the table or the classes"
    for row, value in enumerate(values, start=1):
        if not value and required:
            problems.append(Problem("missing label", (row,), "the label is empty", "fill it in or delete the row"))
        elif value and value not in meaning:
            problems.append(Problem("unknown label", (row,), repr(value), unknown))
    return problems


def _read_quantity(values: pd.DataFrame, positive: list[str], classes: list[str], required: bool) -> Targets:
    names = list(map(str, values.columns))
    if len(names) != 1:
        raise InputError(f"a regression has one label column, not {len(names)}: {_some(names)}")
    if positive or classes:
        raise InputError("positive and classes belong to classes, not to a regression: leave them out")
    column = values.iloc[:, 0]
    problems = []
    for row, value in enumerate(column, start=1):
        if not value and required:
            problems.append(Problem("missing label", (row,), "the label is empty", "fill it in or delete the row"))
        elif value and not _is_number(value):
            advice = "a regression needs numbers with a decimal point and without a unit"
            problems.append(Problem("unknown label", (row,), f"{value!r} is no number", advice))
    numbers = column.map(lambda value: float(value) if _is_number(value) else np.nan).astype(np.float64)
    if required and numbers.notna().any() and numbers.nunique() == 1:
        raise InputError(f"the label column {column.name!r} has one value only ({numbers.max():g}): nothing to predict")
    return Targets(Task("regression", ()), pd.DataFrame({"target": numbers}), problems)


def _read_multilabel(
    values: pd.DataFrame,
    task: str | None,
    positive: list[str],
    classes: list[str],
    uncertain: Uncertain | Mapping[str, Uncertain] | None,
) -> Targets:
    names = list(map(str, values.columns))
    if task not in (None, "multilabel"):
        raise InputError(f"{len(names)} label columns make a multilabel task, not {task}: {_some(names)}")
    if positive or (classes and classes != names):
        raise InputError(
            f"the classes of a multilabel task are its columns ({_some(names)}): leave out classes, positive"
        )
    numbers, notes = _without_uncertain(values.map(_plain_number), uncertain)
    advice = (
        "write 1 for present, 0 for absent, nothing for unknown; say with uncertain (fit: --data.uncertain ignore, "
        "zero or one) what -1 counts as"
    )
    problems = [
        Problem("unknown label", (row,), f"{name} is {value!r}", advice)
        for name in names
        for row, value in enumerate(numbers[name], start=1)
        if value not in ("0", "1", "")
    ]
    columns = numbers.map({"0": 0.0, "1": 1.0}.get).astype(np.float64).add_prefix("target_")
    return Targets(Task("multilabel", tuple(names)), columns, problems, notes)


def _without_uncertain(
    numbers: pd.DataFrame, uncertain: Uncertain | Mapping[str, Uncertain] | None
) -> tuple[pd.DataFrame, list[str]]:
    """Replace -1 as the option says, and note how many there were."""
    names = list(map(str, numbers.columns))
    rules = dict.fromkeys(names, uncertain) if isinstance(uncertain, str) else dict(uncertain or {})
    if absent := [name for name in rules if name not in names]:
        raise InputError(f"uncertain names {_some(absent)}, which is no label: the labels are {_some(names)}")
    notes = []
    for name, rule in rules.items():
        rows = numbers[name] == "-1"
        numbers[name] = numbers[name].mask(rows, {"ignore": "", "zero": "0", "one": "1"}[rule])
        if rows.any():
            meaning = {"ignore": "missing", "zero": "absent", "one": "present"}[rule]
            notes.append(f"{name}: {rows.sum()} uncertain labels (-1) count as {meaning}")
    return numbers, notes
