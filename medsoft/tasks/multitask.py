"""Several targets at once: each a task of its own, with its own columns, outputs, loss and metrics.

A sample may lack any of them. What a whole of several targets is asked (targets, answers, pooling) is asked of each,
and put side by side; an evaluation takes them apart again (``frame_of``): each is evaluated as if it were alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError, Problem
from medsoft.task import Targets, Task
from medsoft.task_types import (
    BoolArray,
    FloatArray,
    LabelOptions,
    NamedTask,
    Objective,
    ObjectiveOptions,
)
from medsoft.tasks.several_answers import SeveralAnswers

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

FEWEST = 10
"""Rows that targets must have in common for a stratum of their own."""


@dataclass(frozen=True)
class MultiTask(SeveralAnswers):
    """A question with several targets.

    Attributes:
        targets_in_order: the targets; ``parts`` gives them.
    """

    targets_in_order: tuple[NamedTask, ...] = field(default=())

    kind = "multitask"
    monitor = "skill"
    can_be_one_of_several = False
    metrics = ()
    key_metrics = ()
    group_metrics = ()
    figures = ()
    table_figures = ()
    report_sections: ClassVar[tuple[str, ...]] = ()
    glossary = ()
    unlabelled = "(no target known)"

    @classmethod
    def _of(cls, parts: tuple[NamedTask, ...]) -> Task:
        return cls((), parts)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes:
            raise ValueError(f"several targets together have no classes, not {', '.join(self.classes)}")

    @property
    def parts(self) -> tuple[NamedTask, ...]:
        return self.targets_in_order

    def to_json(self) -> dict[str, Any]:
        targets = [{"name": one.name, "weight": one.weight, **one.task.to_json()} for one in self.parts]
        return super().to_json() | {"targets": targets}

    @classmethod
    def described(cls, known: Mapping[str, Any]) -> Task:
        try:
            found = [NamedTask(str(one["name"]), Task.from_json(one), float(one["weight"])) for one in known["targets"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"its targets are missing or damaged: {error}") from None
        return cls((), tuple(found))

    def asks_the_same(self, other: Task) -> bool:
        """Whatever the weights, which only a training knows."""
        return [one.name for one in self.parts] == [one.name for one in other.parts] and all(
            mine.task.asks_the_same(theirs.task) for mine, theirs in zip(self.parts, other.parts, strict=True)
        )

    def __str__(self) -> str:
        """Names and questions: ``multitask (MSI: binary (MSS, MSI-H); age: regression)``."""
        return f"{self.kind} ({'; '.join(f'{one.name}: {one.task}' for one in self.parts)})"

    # Labels of the sample table.

    @classmethod
    def stated_by(cls, options: LabelOptions) -> bool:
        from medsoft.data.tables.labels import words
        from medsoft.data.tables.targets import read_targets
        from medsoft.task import task_class

        for target in read_targets(options.targets).values():
            kind, said = target.reading["task"], target.reading
            of_part = LabelOptions(tuple(words(said["positive"])), tuple(words(said["classes"])))
            if kind is None or not task_class(kind).stated_by(of_part):
                return False
        return True

    @classmethod
    def read_labels(cls, labels: pd.DataFrame, options: LabelOptions, problems: Sequence[Problem]) -> Targets:
        from medsoft.data.tables.labels import read_labels
        from medsoft.data.tables.problems import TableError
        from medsoft.data.tables.targets import read_targets
        from medsoft.data.tables.values import asked_about

        parts: list[NamedTask] = []
        columns, notes = [], []
        found, known = list(problems), np.zeros(len(labels), dtype=bool)
        in_doubt = asked_about(problems)
        for name, target in read_targets(options.targets).items():
            try:
                # Placeholders were asked about before, in all columns together.
                own: Any = {"required": options.required, "placeholders": "value", **target.reading}
                read = read_labels(labels[list(target.columns)], **own)
            except TableError as error:
                found += [replace(one, message=f"{name}: {one.message}") for one in error.problems if not _missing(one)]
                raise TableError("the labels", found) from None
            except InputError as error:
                raise InputError(f"target {name}: {error}") from None
            parts.append(NamedTask(name, read.task, target.weight))
            columns.append(read.columns.add_prefix(f"{name}."))
            found += [replace(one, message=f"{name}: {one.message}") for one in read.problems if not _missing(one)]
            notes += [f"{name}: {note}" for note in read.notes]
            known |= read.task.known(read.columns)
        task = cls((), tuple(parts))
        if sum(one.task.has_risk_groups for one in parts) > 1:
            raise InputError("several targets may have one of survival among them, not more")
        if options.required:
            found += [
                Problem("missing label", (int(row),), "no target has a label", "fill one in or delete the row")
                for row in np.flatnonzero(~known) + 1
                if row not in in_doubt
            ]
        return Targets(task, pd.concat(columns, axis=1), found, notes)

    def targets(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        """(N, T) float64: all target columns as numbers, NaN where unknown."""
        return self.target_numbers(frame)

    def members(self, frame: pd.DataFrame) -> dict[str, BoolArray]:
        return {}

    def kinds(self, frame: pd.DataFrame) -> list[BoolArray]:
        found = []
        for one in self.parts:
            own = self.frame_of(one.name, frame)
            known = np.flatnonzero(one.task.known(own))
            for rows in one.task.kinds(own.iloc[known]):
                kind = np.zeros(len(frame), dtype=bool)
                kind[known[rows]] = True
                found.append(kind)
        return found

    def tally(self, frame: pd.DataFrame) -> dict[str, int]:
        """Rows with each target, and of its classes."""
        counts: dict[str, int] = {}
        for one in self.parts:
            own = self.frame_of(one.name, frame)
            own = own[one.task.known(own)]
            counts[one.name] = len(own)
            counts |= {one.prefix + name: n for name, n in one.task.tally(own).items()}
        return counts

    def check_targets(self, targets: pd.DataFrame, splits: pd.Series) -> list[Problem]:
        found = []
        for one in self.parts:
            own = self.frame_of(one.name, targets)
            known = one.task.known(own)
            there = [part for part in ("train", "val") if (splits == part).any()]
            rows_of = {part: (splits == part).to_numpy() for part in there} or {"the table": np.ones(len(own), bool)}
            empty = [part for part, rows in rows_of.items() if not (rows & known).any()]
            advice = "split otherwise, add labels, or leave the target out"
            found += [
                Problem("empty target", (), f"{one.name}: no row of {part} has this target", advice, False)
                for part in empty
            ]
            if not empty:
                problems = one.task.check_targets(own[known], splits[known])
                found += [replace(problem, message=f"{one.name}: {problem.message}") for problem in problems]
        return found

    def label_table(self, frame: pd.DataFrame, splits: Sequence[str]) -> Table | None:
        """How many rows have each target, by split."""
        from rich.table import Table

        counts = Table("target", "task", *splits, "all", "without")
        for one in self.parts:
            known = one.task.known(self.frame_of(one.name, frame))
            by_split = [str(int(known[(frame["split"] == name).to_numpy()].sum())) for name in splits]
            counts.add_row(one.name, one.task.kind, *by_split, str(int(known.sum())), str(int((~known).sum())))
        return counts

    def part_notes(self, frame: pd.DataFrame, part: str) -> list[str]:
        notes = []
        for one in self.parts:
            own = self.frame_of(one.name, frame)
            own = own[one.task.known(own)]
            said = one.task.part_notes(own, part) if len(own) else [f"no row of {part} has this target"]
            notes += [f"{one.name}: {note}" for note in said]
        return notes

    # Splits, and what the training part decides.

    def _each(self, targets: npt.NDArray[Any]) -> Iterator[tuple[NamedTask, pd.DataFrame, npt.NDArray[Any]]]:
        """Of each target its columns, and targets as its own task takes them."""
        cells = pd.DataFrame(self.target_cells(targets, len(targets)))
        for one in self.parts:
            own = self.frame_of(one.name, cells)
            yield one, own, one.task.targets(own)

    def _known(self, targets: npt.NDArray[Any]) -> Iterator[tuple[NamedTask, npt.NDArray[Any]]]:
        """The same of the rows that know it."""
        for one, cells, own in self._each(targets):
            yield one, own[one.task.known(cells)]

    def strata(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A number for each combination of the targets' strata that has 10 rows.

        Of rarer ones the last target is left out, until they have as many or one target remains.
        """
        each = np.stack(
            [np.asarray(one.task.strata(own), dtype=np.int64) for one, _, own in self._each(targets)], axis=1
        )
        codes: dict[tuple[int, ...], int] = {}
        found = np.full(len(each), -1, dtype=np.int64)
        for width in range(each.shape[1], 0, -1):
            open_N = np.flatnonzero(found < 0)
            rows, inverse, counts = np.unique(each[open_N, :width], axis=0, return_inverse=True, return_counts=True)
            for number, row in enumerate(rows):
                if counts[number] >= FEWEST or width == 1:
                    found[open_N[inverse.ravel() == number]] = codes.setdefault((width, *map(int, row)), len(codes))
        return found

    def class_counts(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The counts of all targets in one row."""
        return np.concatenate([one.task.class_counts(own).ravel() for one, own in self._known(targets)])

    @property
    def class_counts_shape(self) -> tuple[int, ...]:
        return (sum(int(np.prod(one.task.class_counts_shape)) for one in self.parts),)

    def class_weights(self, class_counts: npt.NDArray[Any]) -> Tensor:
        """Of each target by its name, of those that have classes."""
        found: Any = {}
        start = 0
        for one in self.parts:
            shape = one.task.class_counts_shape
            own = class_counts[start : start + int(np.prod(shape))].reshape(shape)
            start += own.size
            if one.task.has_classes:
                found[one.name] = one.task.class_weights(own)
        if not found:
            raise ValueError("class_weights are for classes, and no target has some: leave them out")
        weights: Tensor = found
        return weights

    def sampling_weights(self, targets: npt.NDArray[Any]) -> FloatArray:
        raise InputError("data.balanced_sampling: several targets cannot all be balanced so; use model.class_weights")

    def settled(self, targets: npt.NDArray[Any]) -> Self:
        found = tuple(replace(one, task=one.task.settled(own)) for one, own in self._known(targets))
        return replace(self, targets_in_order=found)

    def pinned(self, data: Mapping[str, Any]) -> dict[str, Any]:
        from medsoft.data.tables.targets import plain_options

        targets = {one.name: plain_options(data["targets"][one.name]) | one.task.pinned({}) for one in self.parts}
        return {"targets": targets}

    def target_scale(self, targets: npt.NDArray[Any]) -> Any:
        """Of each target by its name."""
        return {one.name: one.task.target_scale(own) for one, own in self._known(targets)}

    def event_times(self, targets: npt.NDArray[Any]) -> FloatArray | None:
        """Those of the target that has some."""
        found = [times for one, own in self._known(targets) if (times := one.task.event_times(own)) is not None]
        return found[0] if found else None

    # Training.

    def check_objective(self, options: ObjectiveOptions) -> None:
        if not any(one.task.has_risk_groups for one in self.parts):
            super().check_objective(options)

    def objective(self, options: ObjectiveOptions) -> Objective:
        from medsoft.classifiers.objectives import PartObjective, SeveralTargets

        if options.label_smoothing and not any(one.task.has_classes for one in self.parts):
            raise ValueError("label_smoothing is for classes, and no target has some: leave it out")
        weights: Any = options.class_weights or {}
        scales: Any = options.target_scale or {}
        parts = []
        for one in self.parts:
            smoothing = options.label_smoothing if one.task.has_classes else 0.0
            own = replace(
                options,
                class_weights=weights.get(one.name),
                target_scale=scales.get(one.name),
                label_smoothing=smoothing,
            )
            try:
                objective = one.task.objective(own)
            except ValueError as error:
                raise ValueError(f"target {one.name}: {error}") from None
            width, alone = len(one.task.target_columns), one.task.several_columns
            parts.append(PartObjective(one.name, objective, one.weight, width, one.task.of_numbers, alone))
        return SeveralTargets(parts)

    def answered_by(self, outputs: int) -> Self:
        """The outputs that are not those of classes and numbers are those of the target of survival."""
        own = [len(one.task.outputs()[0]["columns"]) for one in self.parts]
        more = outputs - sum(own)
        found = [replace(one, task=one.task.answered_by(n + more)) for one, n in zip(self.parts, own, strict=True)]
        return replace(self, targets_in_order=tuple(found))

    def check_precision(self, precision: str) -> None:
        for one in self.parts:
            one.task.check_precision(precision)

    def check_run(self, config: Any) -> None:
        for one in self.parts:
            one.task.check_run(config)


def _missing(problem: Problem) -> bool:
    return problem.kind == "missing label"
