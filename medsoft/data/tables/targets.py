"""The options that say what is asked of a table: of one target, or of several, each with columns of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medsoft.data.tables.labels import label_columns, words
from medsoft.errors import InputError
from medsoft.task import SEVERAL, TASK_KINDS, task_class
from medsoft.text.spelling import spellings

NAME = re.compile(r"[^\W_][\w-]*")
"""Names become parts of columns, where a dot follows them, and of folders."""
KEYS = ("task", "label", "positive", "classes", "uncertain", "weight", "time", "event", "time_unit", "times")
EXAMPLE = "'{MSI: {task: binary, positive: MSI-H}, grade: ordinal, age: regression}'"
ALONE = ("task", "positive", "classes", "time", "event", "time_unit", "times")
"""Options that belong to a single target."""


@dataclass(frozen=True)
class TargetOptions:
    """How one of several targets is read.

    Attributes:
        name: of the target.
        columns: its label columns.
        reading: options of ``medsoft.data.tables.labels.read_labels``.
        weight: of its loss.
    """

    name: str
    columns: tuple[str, ...]
    reading: Mapping[str, Any]
    weight: float


def label_options(
    label: str | list[str], time: str | None, event: str | None, targets: Mapping[str, Any] | None, **alone: Any
) -> dict[str, Any]:
    """The options of ``read_table`` that say what is asked.

    Args:
        label: column with the label.
        time: of a survival task.
        event: likewise.
        targets: several targets; None for one.
        **alone: ``task``, ``positive``, ``classes``, ``time_unit`` and ``times``, of a single target.

    Raises:
        InputError: they contradict each other, or cannot be understood.
    """
    if targets is None:
        if alone["task"] == SEVERAL:
            raise InputError(f"data.task {SEVERAL}: say which targets there are: --data.targets {EXAMPLE}")
        times = numbers("data.times", alone["times"])
        return alone | {"label": label_columns(alone["task"], label, time, event), "times": times, "targets": None}
    given = alone | {"time": time, "event": event, "label": None if label == "label" else label}
    said = [name for name in ("label", *ALONE) if given[name] is not None and (name, given[name]) != ("task", SEVERAL)]
    if said:
        named = ", ".join(f"data.{name}" for name in said)
        raise InputError(f"data.targets says it for each target: leave out {named}, or put it into the target")
    found = read_targets(targets)
    columns = [column for target in found.values() for column in target.columns]
    return dict.fromkeys(alone) | {"task": SEVERAL, "label": columns, "times": (), "targets": dict(targets)}


def read_targets(given: Mapping[str, Any]) -> dict[str, TargetOptions]:
    """The targets that the option ``targets`` names, in its order.

    Args:
        given: by name, the kind of task, or a mapping with some of ``KEYS``; None where the labels leave no doubt.

    Raises:
        InputError: a name cannot be one, an option is unknown, or two targets have one column.
    """
    for name in given:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(
                f"data.targets: {name!r} cannot name a target: a name is of letters, digits, - and _, beginning with a "
                f"letter or a digit. Give it another name, and its column as label: {{name: {{label: {name}}}}}"
            )
    if alike := spellings(given):
        ways = " and ".join(map(repr, next(iter(alike.values()))))
        raise InputError(f"data.targets: {ways} differ in writing only: give one another name")
    if len(given) < 2:
        raise InputError("data.targets is for two targets or more: of one say --data.label and --data.task")
    found = {name: read_target(name, options) for name, options in given.items()}
    whose: dict[str, str] = {}
    for name, target in found.items():
        for column in target.columns:
            if column in whose:
                raise InputError(f"data.targets: {whose[column]} and {name} both have the column {column!r}: keep one")
            whose[column] = name
    return found


def plain_options(given: Any) -> dict[str, Any]:
    """What was said of a target as a mapping: the kind of a task alone, or nothing, are short for one."""
    return dict(given) if isinstance(given, Mapping) else {} if given is None else {"task": given}


def read_target(name: str, given: Any) -> TargetOptions:
    """One of the targets that ``read_targets`` takes; raises as that."""
    where, options = f"data.targets: {name}", plain_options(given)
    if unknown := [str(key) for key in options if key not in KEYS]:
        raise InputError(f"{where}: there is no option {', '.join(unknown)}; there are {', '.join(KEYS)}")
    task = options.get("task")
    if task is not None and (task not in TASK_KINDS or not task_class(task).can_be_one_of_several):
        kinds = [kind for kind in TASK_KINDS if task_class(kind).can_be_one_of_several]
        raise InputError(f"{where}: {task!r} cannot be one of several targets; {', '.join(kinds)} can")
    weight = options.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise InputError(f"{where}: weight {weight!r}: a number above 0")
    label = options.get("label", "label")
    columns = label_columns(task, label, options.get("time"), options.get("event"))
    names = [name] if columns == "label" and "label" not in options else words(columns)
    if not names or "" in names or len(set(names)) < len(names):
        raise InputError(f"{where}: label {label!r}: name its column, or several different ones")
    reading = {key: options.get(key) for key in ("task", "positive", "classes", "uncertain", "time_unit")}
    reading["times"] = numbers(f"{where}: times", options.get("times"))
    return TargetOptions(name, tuple(names), reading, float(weight))


def numbers(option: str, given: str | Sequence[float] | float | None) -> tuple[float, ...]:
    """The numbers of an option: one, a list, or separated by commas.

    Raises:
        InputError: one is no number.
    """
    given = str(given) if isinstance(given, int | float) else given
    values = given.strip("[] ").split(",") if isinstance(given, str) else given or ()
    try:
        return tuple(sorted(float(value) for value in values))
    except (TypeError, ValueError):
        raise InputError(f"{option} {given}: numbers separated by commas, such as 365,1095") from None
