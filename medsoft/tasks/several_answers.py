"""What several targets together answer: their columns side by side, and of whom an evaluation asks what.

The columns of a target begin with its name and a dot.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError
from medsoft.task import Task, task_class
from medsoft.task_types import BoolArray, FloatArray, IntArray, LogitTarget, Measure, NamedTask, Pooling, Wrong

ABOUT = ("id", "patient", "exam", "split", "fold")
KIND = "task"
"""Of a predictions table the column with the kind of the task; with a target's name before it, of that target's."""


class SeveralAnswers(Task):
    """What a task of several targets answers in tables, evaluations and explanations: each of them for itself."""

    @classmethod
    @abstractmethod
    def _of(cls, parts: tuple[NamedTask, ...]) -> Task:
        """The task of these targets."""

    # Columns.

    def frame_of(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        part = self.part(name)
        own = {c: str(c).removeprefix(part.prefix) for c in frame if str(c).startswith(part.prefix)}
        prefixes = tuple(one.prefix for one in self.parts)
        common = [column for column in frame if not str(column).startswith(prefixes) and column not in own.values()]
        about = [column for column in ABOUT if column in common]
        return frame[[*about, *own, *(column for column in common if column not in about)]].rename(columns=own)

    def _joined(self, of_part: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Columns of every target by their names in the whole table."""
        return {f"{name}.{column}": values for name, cells in of_part.items() for column, values in cells.items()}

    def kind_cells(self, n: int) -> dict[str, Any]:
        own = {one.name: {KIND: [one.task.kind] * n} for one in self.parts}
        return super().kind_cells(n) | self._joined(own)

    @property
    def target_columns(self) -> list[str]:
        return [one.prefix + column for one in self.parts for column in one.task.target_columns]

    @property
    def p_columns(self) -> list[str]:
        return [one.prefix + column for one in self.parts for column in one.task.p_columns]

    @classmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        return len(_names_in(columns)) > 1

    @classmethod
    def from_columns(cls, columns: Sequence[str]) -> Task:
        raise ValueError("of several targets the columns do not say the kinds")

    @classmethod
    def from_text(cls, text: pd.DataFrame) -> Task:
        found = []
        for name in _names_in(list(map(str, text.columns))):
            prefix = f"{name}."
            own = [str(column) for column in text if str(column).startswith(prefix)]
            kinds = text[prefix + KIND].unique()
            if len(kinds) != 1:
                raise ValueError(f"column {prefix + KIND!r} is not the same in all rows")
            columns = text[own].set_axis([column.removeprefix(prefix) for column in own], axis=1)
            part = task_class(kinds[0]).from_text(columns)
            if not part.can_be_one_of_several:
                raise ValueError(f"column {prefix + KIND!r} is {kinds[0]!r}, which cannot be one of several targets")
            found.append(NamedTask(name, part))
        if len(found) < 2:
            raise ValueError(f"several targets have a column <target>.{KIND} each")
        return cls._of(tuple(found))

    def target_numbers(self, frame: pd.DataFrame) -> FloatArray:
        each = [one.task.target_numbers(self.frame_of(one.name, frame)) for one in self.parts]
        return np.concatenate(each, axis=1)

    def known(self, frame: pd.DataFrame) -> BoolArray:
        each = [one.task.known(self.frame_of(one.name, frame)) for one in self.parts]
        found: BoolArray = np.logical_or.reduce(each)
        return found

    # Predictions.

    def _answers(self, p_NC: FloatArray) -> Iterator[tuple[NamedTask, FloatArray]]:
        widths = np.cumsum([len(one.task.p_columns) for one in self.parts])[:-1]
        yield from zip(self.parts, np.split(p_NC, widths, axis=1), strict=True)

    def exact(self, predictions_NC: FloatArray) -> FloatArray:
        return np.concatenate([one.task.exact(own) for one, own in self._answers(predictions_NC)], axis=1)

    def constant_answers(self, n: int) -> FloatArray:
        return np.concatenate([one.task.constant_answers(n) for one in self.parts], axis=1)

    def target_cells(self, targets: npt.ArrayLike | None, n: int) -> dict[str, Any]:
        values = None if targets is None else np.asarray(targets, dtype=np.float64)
        width = len(self.target_columns)
        if values is not None and values.shape != (n, width):
            raise ValueError(f"targets have shape {values.shape}, not {(n, width)}")
        found, start = {}, 0
        for one in self.parts:
            columns = len(one.task.target_columns)
            own = None if values is None else values[:, start : start + columns]
            start += columns
            if own is not None and columns == 1 and not one.task.several_columns:
                own = own[:, 0]
            found[one.name] = one.task.target_cells(own, n)
        return self._joined(found)

    def parse_targets(self, text: pd.DataFrame) -> tuple[dict[str, pd.Series], list[Wrong]]:
        found, wrong = {}, []
        for one in self.parts:
            found[one.name], of_part = one.task.parse_targets(self.frame_of(one.name, text))
            wrong += [(f"{one.name}: {what}", rows) for what, rows in of_part]
        return self._joined(found), wrong

    def wrong_values(self, frame: pd.DataFrame) -> list[Wrong]:
        return [
            (f"{one.name}: {what}", rows)
            for one in self.parts
            for what, rows in one.task.wrong_values(self.frame_of(one.name, frame))
        ]

    def pool_targets(self, numbers: pd.DataFrame, group_N: IntArray, how: Pooling) -> FloatArray:
        found, start = [], 0
        for one in self.parts:
            columns = len(one.task.target_columns)
            own = numbers.iloc[:, start : start + columns].set_axis(range(columns), axis=1)
            start += columns
            found.append(one.task.pool_targets(own, group_N, how).reshape(-1, columns))
        return np.concatenate(found, axis=1)

    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        return np.concatenate([one.task.logits_of(own) for one, own in self._answers(p_NC)], axis=1)

    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        widths = [one.task.logits_of(one.task.constant_answers(1)).shape[1] for one in self.parts]
        each = np.split(logits_NK, np.cumsum(widths)[:-1], axis=1)
        return np.concatenate([one.task.predictions_of(own) for one, own in zip(self.parts, each, strict=True)], axis=1)

    # Evaluation: each target is evaluated by itself.

    def sentence(self, unit: str) -> str:
        return f"Several targets for each {unit}: {', '.join(one.name for one in self.parts)}"

    def told_each_epoch(self, metric: str) -> bool:
        return "." not in metric or metric in [one.prefix + one.task.monitor for one in self.parts]

    @property
    def headline(self) -> tuple[str, ...]:
        return (self.monitor, *(one.prefix + name for one in self.parts for name in one.task.headline))

    def measures(
        self,
        frame: pd.DataFrame,
        unit_N: IntArray,
        points: Sequence[Any] = (),
        prevalences: Sequence[float] = (),
        curves: bool = False,
    ) -> list[Measure]:
        raise InputError(f"{self.kind}: each target is measured by itself: {', '.join(one.name for one in self.parts)}")

    def shared_with(self, other: Task) -> Self | None:
        return self if self.asks_the_same(other) else None

    def hardly_vary(self, frame: pd.DataFrame, least_spread: float) -> str:
        each = {one.name: one.task.hardly_vary(self.frame_of(one.name, frame), least_spread) for one in self.parts}
        return "; ".join(f"{name}: {said}" for name, said in each.items() if said)

    # Explanations and export: a logit is named by its target, and its class after a dot.

    def logit_target(self, name: str) -> LogitTarget:
        """``MSI.MSI-H``, or of a target alone, ``MSI``, its positive class or its number."""
        asked, _, of_part = name.partition(".")
        part = self.part(asked)
        if not of_part:
            of_part = part.task.positive or (
                "" if part.task.classes else part.task.default_logit_target(np.ones(1)).name
            )
        if not of_part:
            raise InputError(f"--classes {name}: name a class too, such as {name}.{part.task.classes[-1]}")
        return self._shifted(part, part.task.logit_target(of_part))

    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        """Of the first target."""
        first = self.parts[0]
        return self._shifted(first, first.task.default_logit_target(prediction_C[: len(first.task.p_columns)]))

    def _shifted(self, part: NamedTask, found: LogitTarget) -> LogitTarget:
        """A logit of a target as one of all outputs."""
        before = self.parts[: self.parts.index(part)]
        start = sum(len(one.task.outputs()[0]["columns"]) for one in before)
        weights = {start + index: weight for index, weight in found.weights.items()}
        # A number is called by its target alone.
        name = part.prefix + found.name if part.task.has_classes or part.task.has_risk_groups else part.name
        return LogitTarget(name, weights, found.sigmoid)

    def explained_probability(
        self, logit_target: LogitTarget, logit: float, prediction_C: npt.NDArray[Any]
    ) -> float | None:
        name, _, of_part = logit_target.name.partition(".")
        part = self.part(name)
        before = self.parts[: self.parts.index(part)]
        start = sum(len(one.task.p_columns) for one in before)
        own_C = prediction_C[start : start + len(part.task.p_columns)]
        found: float | None = part.task.explained_probability(replace(logit_target, name=of_part), logit, own_C)
        return found

    def explained_values(self, frame: pd.DataFrame, logit_target: LogitTarget) -> FloatArray:
        name, _, of_part = logit_target.name.partition(".")
        task = self.part(name).task
        own = task.default_logit_target(task.constant_answers(1)[0]) if not task.has_classes else None
        values: FloatArray = task.explained_values(self.frame_of(name, frame), own or task.logit_target(of_part))
        return values

    def outputs(self) -> list[dict[str, Any]]:
        logits = [one.prefix + name for one in self.parts for name in one.task.outputs()[0]["columns"]]
        each = "; ".join(f"{one.name}: {one.task.outputs()[1]['what']}" for one in self.parts)
        return [
            {"name": "logits", "columns": logits, "what": "of all targets side by side"},
            {"name": "answers", "columns": self.p_columns, "what": each},
        ]


def _names_in(columns: Sequence[str]) -> list[str]:
    """Targets that have a column with their task, in the order of the table."""
    found = [column.removesuffix(f".{KIND}") for column in columns if column.endswith(f".{KIND}")]
    return [name for name in found if name and "." not in name]
