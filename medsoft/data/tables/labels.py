"""Turns label columns into a task and targets. Nothing is guessed: ambiguity is an error that says what to state.

What a task makes of its columns is the task's own (``medsoft.tasks``); here is what comes before, and the reading of a
column of classes, which several tasks share.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.reading import text
from medsoft.data.tables.values import Placeholders, asked_about, check_text, one_label_each, without_placeholders
from medsoft.errors import InputError
from medsoft.task import TASK_KINDS, Targets, Task, task_class
from medsoft.task_types import LabelOptions, Uncertain
from medsoft.text.spelling import is_plain, spellings

__all__ = ["ClassColumn", "Targets", "Uncertain", "Words", "class_column", "read_labels", "words"]

Words = str | int | float | Sequence[str | int | float] | None
"""An option that takes one value, several separated by commas, or a list."""

MISSING = ("", "NA", "NaN", "nan", "<NA>")
"""What a missing label looks like where nothing else is said (``placeholders``)."""


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
    placeholders: Placeholders = None,
    time_unit: str | None = None,
    times: Sequence[float] = (),
    targets: Mapping[str, Any] | None = None,
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
        placeholders: what words such as unknown or N/A mean; a problem where not given.
        time_unit: of the times of a survival task, whose columns are the time and the event.
        times: at which its survival is stated.
        targets: of several targets how each is read (``medsoft.data.tables.targets``); the task is theirs then.

    Raises:
        InputError: the task is not clear, or the options contradict each other or the labels.
        TableError: labels are in doubt, so that the task cannot be told.
    """
    if task is not None and task not in TASK_KINDS:
        raise InputError(f"there is no task {task!r}: the tasks are {', '.join(TASK_KINDS)}")
    of_one = (tuple(words(positive)), tuple(words(classes)), uncertain, required, time_unit, tuple(times))
    options = LabelOptions(*of_one, targets or {})
    named = [*options.classes, *options.positive, *_named_by_targets(options)]
    texts, problems = _without_missing(labels.apply(text), placeholders, named)
    if task is None and len(labels.columns) > 1:
        task = "multilabel"
    asked = None if task is None else task_class(task)
    if uncertain and not (asked and asked.several_columns):
        raise InputError("uncertain is for multilabel tasks, whose labels are 1, 0, -1 or empty: leave it out")
    if asked is None:
        column = class_column(texts, options, problems)
        with named_problems_first(column.problems):
            asked = task_class(_kind_beyond_doubt(column))
    return asked.read_labels(texts, options, problems)


def label_columns(
    task: str | None, label: str | Sequence[str] | None, time: str | None, event: str | None
) -> str | Sequence[str] | None:
    """The label columns that options name; of a survival task those of time and event.

    Raises:
        InputError: an option belongs to another task.
    """
    asked = task_class(task) if task in TASK_KINDS and task is not None else Task
    return asked.label_columns(label, time, event)


@dataclass(frozen=True, eq=False)
class ClassColumn:
    """A column whose values are names of classes, each in one spelling.

    Attributes:
        about: what messages call it.
        values: text, "" where missing; numbers as ``plain_number`` writes them.
        seen: the values that occur, sorted: numbers by size.
        numeric: whether all of them are numbers.
        positive: values that the user calls positive, in the same spelling.
        classes: names of the classes that the user gives, in the same spelling.
        problems: found so far.
        notes: on values that were taken for one.
    """

    about: str
    values: pd.Series
    seen: list[str]
    numeric: bool
    positive: list[str]
    classes: list[str]
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)

    def several_names(self, kind: str, required: bool, ordered: bool = False) -> tuple[str, ...]:
        """The classes of a task of several: as the user names them, else the values.

        Args:
            kind: of the task, for messages.
            required: whether a single class is a reason to stop.
            ordered: whether their order means something, so that text must be put in order by the user.

        Raises:
            InputError: the options do not fit such a task, or the order is not clear.
        """
        if self.positive:
            raise InputError(f"positive belongs to a binary task, not to {kind}: leave out one of the two")
        if ordered and not self.classes and not self.numeric:
            raise InputError(
                f"{self.about}: an {kind} task with text labels needs classes (fit: --data.classes), lowest first"
            )
        names = tuple(self.classes or self.seen)
        if len(names) < 2 and required:
            raise InputError(
                f"{self.about} has one value only ({some(self.seen)}): there are no classes to distinguish"
            )
        return names

    def unknown(self, meaning: Mapping[str, str], required: bool) -> list[Problem]:
        """Labels that are missing, or stand for no class.

        Args:
            meaning: value to class.
            required: whether a missing label is a problem.
        """
        problems, asked = [], asked_about(self.problems)
        advice = f"the labels are {some(list(meaning))}; correct the table or the classes"
        for row, value in enumerate(self.values, start=1):
            if not value and required and row not in asked:
                problems.append(Problem("missing label", (row,), "the label is empty", "fill it in or delete the row"))
            elif value and value not in meaning:
                problems.append(Problem("unknown label", (row,), repr(value), advice))
        return problems


def class_column(labels: pd.DataFrame, options: LabelOptions, problems: Sequence[Problem]) -> ClassColumn:
    """Read a single column of classes: each value in one spelling, and what the options name in the same.

    Args:
        labels: the column as text, "" where missing.
        options: see ``LabelOptions``.
        problems: found before.

    Raises:
        InputError: the column is empty, or the options name one thing twice or what cannot be a name.
        TableError: there are problems, and nothing else.
    """
    values: pd.Series = labels.iloc[:, 0]
    about, found = f"the label column {values.name!r}", list(problems)
    seen = sorted(set(values) - {""})
    if options.required and not seen:
        raise TableError("the labels", found) if found else InputError(f"{about} is empty")
    numeric = all(map(is_number, seen))
    classes, positive = list(options.classes), list(options.positive)
    for option, given in (("classes", classes), ("positive", positive)):
        if alike := spellings(given):
            ways = " and ".join(map(repr, next(iter(alike.values()))))
            raise InputError(f"{option} names one thing twice: {ways} differ in writing only")
    notes = []
    if numeric:
        notes = [f"{about}: {' and '.join(ways)} count as one number" for ways in spellings(seen).values()]
        values = values.map(plain_number)
        seen = sorted(set(map(plain_number, seen)), key=float)
        classes, positive = list(map(plain_number, classes)), list(map(plain_number, positive))
    else:
        # With positive, classes are new names of its two groups, which may differ from their values by a capital.
        meant, twice = one_label_each(values, positive or classes)
        found += twice  # what follows takes each for one, so that all problems are told at once
        values = values.map(lambda value: meant.get(value, value)).astype(object)
        seen = sorted(set(values) - {""})
    if not all(map(is_plain, classes)):
        raise InputError("classes must be names without line breaks and other control characters")
    if len(set(classes)) < len(classes) or "" in classes:
        raise InputError(f"classes must be different names separated by commas, not {', '.join(map(repr, classes))}")
    return ClassColumn(about, values, seen, numeric, positive, classes, found, notes)


@contextmanager
def named_problems_first(problems: Sequence[Problem]) -> Iterator[None]:
    """Tell of problems where there are any instead of what is wrong with the classes: it may be all that is wrong.

    Raises:
        TableError: there are problems, and the work within the context raises InputError.
    """
    try:
        yield
    except InputError:
        if problems:  # a class in doubt is taken for none
            raise TableError("the labels", problems) from None
        raise


def _without_missing(
    labels: pd.DataFrame, placeholders: Placeholders, named: Sequence[str]
) -> tuple[pd.DataFrame, list[Problem]]:
    """Labels as text, "" where they are missing, and what cannot be a label or may mean that there is none."""
    problems: list[Problem] = []
    columns = {}
    for name, values in labels.items():
        what = "label" if len(labels.columns) == 1 else f"label {name!r}"
        problems += check_text(values, what, names=False)
        columns[name], asked = without_placeholders(values, what, placeholders, named, always=MISSING)
        problems += asked
    return pd.DataFrame(columns, index=labels.index, dtype=object), problems


def is_number(value: str) -> bool:
    """Whether text is a number with a decimal point and without a unit."""
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value) is not None


def plain_number(value: str) -> str:
    """``"2.0"`` and ``"02"`` as ``"2"``; what is no number stays as it is."""
    return f"{float(value):.15g}" if is_number(value) else value


def some(values: Sequence[str], shown: int = 10) -> str:
    """The first values, separated by commas, and how many there are."""
    return ", ".join(values[:shown]) + (f", ... ({len(values)} values)" if len(values) > shown else "")


def _named_by_targets(options: LabelOptions) -> list[str]:
    """All classes that several targets name."""
    given = [target for target in options.targets.values() if isinstance(target, Mapping)]
    return [word for target in given for key in ("classes", "positive") for word in words(target.get(key))]


def _kind_beyond_doubt(column: ClassColumn) -> str:
    about, seen, classes = column.about, column.seen, column.classes
    if column.positive:
        return "binary"
    if column.numeric:
        raise InputError(
            f"{about} holds numbers ({some(seen)}), which leaves the task open. State it (fit: "
            "--data.task): regression (a quantity), ordinal (grades), multiclass (codes without an order), or binary, "
            "with positive (fit: --data.positive) for the values that count as positive"
        )
    if len(classes or seen) != 2:
        return "multiclass"
    if not classes:
        raise InputError(
            f"{about} has two values ({', '.join(seen)}): say which is the positive one, as positive (fit: "
            f"--data.positive {seen[1]}) or by the order negative, positive in classes (fit: --data.classes "
            f"{','.join(seen)})"
        )
    return "binary"
