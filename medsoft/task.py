"""What is asked of the model: one class per task, which owns everything that differs by task.

A ``Task`` is a question with its answers: binary, multiclass, multilabel, ordinal, regression, survival, segmentation,
detection; or several of these, each a target of its own.
Each has a class of its own in ``medsoft.tasks`` that says how its labels are read, how they are stratified, what the
network puts out and how it is trained, which columns the predictions have, and which metrics, figures and sections of
the report there are. The rest of medsoft calls these methods and never asks for a task's name. What most tasks have
nothing of is in ``medsoft.task_defaults``.

Data, models and evaluation meet here, so that none imports another. The classes are found by name, and their modules
are imported when one is asked for: they may use other rooms, while this module uses none.

To add a task: its name in ``TaskKind``, its class in ``CLASSES``, and a module in ``medsoft/tasks/``.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from medsoft.errors import Problem
from medsoft.task_defaults import TaskDefaults
from medsoft.task_types import (
    BoolArray,
    FloatArray,
    IntArray,
    LabelOptions,
    LogitTarget,
    Measure,
    Objective,
    ObjectiveOptions,
    Pooling,
    Wrong,
)

if TYPE_CHECKING:
    import pandas as pd

TaskKind = Literal[
    "binary",
    "multiclass",
    "multilabel",
    "ordinal",
    "regression",
    "survival",
    "segmentation",
    "segmentation_volume",
    "detection",
    "multitask",
]
TASK_KINDS: tuple[str, ...] = get_args(TaskKind)
SEVERAL: TaskKind = "multitask"
"""Of the task that has several targets, each with a task of its own."""

CLASSES: dict[str, str] = {
    "binary": "medsoft.tasks.binary.Binary",
    "multiclass": "medsoft.tasks.multiclass.Multiclass",
    "multilabel": "medsoft.tasks.multilabel.Multilabel",
    "ordinal": "medsoft.tasks.ordinal.Ordinal",
    "regression": "medsoft.tasks.regression.Regression",
    "survival": "medsoft.tasks.survival.Survival",
    "segmentation": "medsoft.tasks.segmentation.Segmentation",
    "segmentation_volume": "medsoft.tasks.segmentation.SegmentationVolume",
    "detection": "medsoft.tasks.detection.Detection",
    "multitask": "medsoft.tasks.multitask.MultiTask",
}
"""By name, where a task's class lives; its module is imported when the task is asked for."""


@dataclass(frozen=True)
class Targets:
    """Labels that were read.

    Attributes:
        task: the question.
        columns: ``task.target_columns``, indexed like the table, in the form that ``Task.targets`` reads.
        problems: labels that are missing or no answer to the question.
        notes: sentences on what was decided.
    """

    task: Task
    columns: pd.DataFrame
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)


def task_class(kind: str) -> type[Task]:
    """The class of a task.

    Raises:
        ValueError: there is no such task.
    """
    if kind not in CLASSES:
        raise ValueError(f"unknown task {kind!r}: one of {', '.join(CLASSES)}")
    module, _, name = CLASSES[kind].rpartition(".")
    found: type[Task] = getattr(importlib.import_module(module), name)
    return found


@dataclass(frozen=True)
class Task(TaskDefaults, ABC):
    """A question with its answers; ``Task.of`` makes the one of a name.

    Attributes:
        classes: names of the classes in order; for binary (negative, positive), for ordinal in rising order, for
            multilabel the names of the label columns; for regression and survival none.
        kind: its name: in configurations, checkpoints and the column ``task`` of predictions.
        has_classes: whether the answers are classes; else they are numbers.
        has_probabilities: whether a prediction is probabilities.
        exclusive: whether a sample has one class only, so that its probabilities sum to 1.
        thresholded: whether a class is called where its probability reaches a threshold; else the most probable is.
        several_columns: whether each label has a column of its own.
        ordered: whether a later class is a higher grade.
        number_metrics: the family of the metrics of answers that are numbers (``medsoft.evaluation.metrics.table``).
        metrics: names of the metrics by which models can be compared, in the order in which they are listed
            (``medsoft.evaluation.metrics.table``).
        monitor: the metric that chooses the checkpoint where nobody says another.
        key_metrics: the few at the top of the report; decisions at a threshold are those of the last rule.
        group_metrics: the few metrics of a subgroup, and of what is left where a model abstains.
        figures: names of the figures of an evaluated part, in the report and in folders
            (``medsoft.evaluation.figures.part_figures``).
        table_figures: names of the figures of the predictions table that a run writes (``medsoft.evaluation.figures``).
        report_sections: names of the sections that a part has in the report; each is a macro of
            ``medsoft/evaluation/report/pieces.html.jinja``.
        glossary: what the report explains (``medsoft.evaluation.report.glossary``).
    """

    classes: tuple[str, ...] = ()

    kind: ClassVar[str]
    has_classes: ClassVar[bool] = False
    has_probabilities: ClassVar[bool] = False
    exclusive: ClassVar[bool] = False
    thresholded: ClassVar[bool] = False
    several_columns: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    number_metrics: ClassVar[Literal["error", "survival", "overlap", "detection"]] = "error"
    metrics: ClassVar[tuple[str, ...]]
    monitor: ClassVar[str]
    key_metrics: ClassVar[tuple[str, ...]]
    group_metrics: ClassVar[tuple[str, ...]]
    figures: ClassVar[tuple[str, ...]]
    table_figures: ClassVar[tuple[str, ...]]
    report_sections: ClassVar[tuple[str, ...]]
    glossary: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"class names are not unique: {', '.join(self.classes)}")

    @staticmethod
    def of(kind: str, classes: Sequence[str] = ()) -> Task:
        """The task of a name.

        Args:
            kind: one of ``TASK_KINDS``.
            classes: see ``Task``.

        Raises:
            ValueError: there is no such task, or it cannot have these classes.
        """
        return task_class(kind)(tuple(classes))

    def to_json(self) -> dict[str, Any]:
        """``kind`` and ``classes``, and what else makes the question, as checkpoints keep them."""
        return {"kind": self.kind, "classes": self.classes}

    @staticmethod
    def from_json(known: Mapping[str, Any]) -> Task:
        """The task that ``to_json`` described.

        Raises:
            ValueError: there is no such task, or it cannot be as it is described.
        """
        return task_class(known["kind"]).described(known)

    @classmethod
    def described(cls, known: Mapping[str, Any]) -> Task:
        """The same, of this class."""
        return cls(tuple(known["classes"]))

    def asks_the_same(self, other: Task) -> bool:
        """Whether weights that answer the other question answer this one."""
        return bool(_plain(self.to_json()) == _plain(other.to_json()))

    def __str__(self) -> str:
        """Name and classes, for messages: ``binary (benign, malignant)``."""
        return f"{self.kind} ({', '.join(self.classes)})" if self.classes else self.kind

    # Labels of the sample table.

    @classmethod
    @abstractmethod
    def stated_by(cls, options: LabelOptions) -> bool:
        """Whether options alone say all of the question, so that a table without labels can be predicted."""

    @classmethod
    @abstractmethod
    def read_labels(cls, labels: pd.DataFrame, options: LabelOptions, problems: Sequence[Problem]) -> Targets:
        """Read the label columns of a table.

        Args:
            labels: the label columns as text, "" where missing.
            options: see ``LabelOptions``.
            problems: found before; they come first in the result's.

        Raises:
            InputError: the options contradict each other or the labels.
            TableError: labels are in doubt, so that the classes cannot be told.
        """

    @property
    def target_columns(self) -> list[str]:
        """Columns of true values, in the sample table as read and in the predictions table."""
        return ["target"]

    @abstractmethod
    def targets(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        """The target columns as training takes them.

        Class indices (N,) int64, -1 where unknown; for multilabel (N, L) float32, for regression (N,) float64, for
        survival (N, 2) float64 time and event, NaN where unknown.
        """

    @abstractmethod
    def known(self, frame: pd.DataFrame) -> BoolArray:
        """(N,) whether a row's target is known; for multilabel, that of any label."""

    def tally(self, frame: pd.DataFrame) -> dict[str, int]:
        """How many rows of a table there are of each class; of survival, with the event and censored.

        Args:
            frame: rows with a target.
        """
        return {name: int(rows.sum()) for name, rows in self.members(frame).items()}

    @abstractmethod
    def check_targets(self, targets: pd.DataFrame, splits: pd.Series) -> list[Problem]:
        """Check that there is something to learn: every class in train and in val, numbers that differ in train.

        Args:
            targets: the target columns.
            splits: of the same rows; "" where the table has none, which is then checked as a whole.
        """

    unlabelled: ClassVar[str] = "(no valid label)"
    """What rows without a known target are called where samples are counted by class."""

    # Splits and sampling.

    @abstractmethod
    def strata(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(N,) whole numbers: rows of one stratum are spread evenly over folds; ``targets`` as of ``targets``."""

    @abstractmethod
    def class_counts(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """(C,) samples a class; for multilabel (L, 2) negatives and positives a label; (0,) without classes.

        Missing ones are left out; ``targets`` as of ``targets``.
        """

    @property
    def class_counts_shape(self) -> tuple[int, ...]:
        """The shape of ``class_counts``."""
        return (len(self.classes),)

    @abstractmethod
    def sampling_weights(self, targets: npt.NDArray[Any]) -> FloatArray:
        """(N,) weights with which training samples of all classes are drawn equally often.

        Raises:
            InputError: this task has nothing to balance so.
        """

    # Training.

    @abstractmethod
    def objective(self, options: ObjectiveOptions) -> Objective:
        """What the network puts out, its loss, and how logits become predictions.

        Raises:
            ValueError: an option has no meaning for this task.
        """

    # Predictions.

    @property
    @abstractmethod
    def p_columns(self) -> list[str]:
        """Columns of answers in the predictions table: probabilities in class order, or the predicted number."""

    @classmethod
    @abstractmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        """Whether a predictions table with these columns, and none that says its task, is of this task."""

    @classmethod
    def from_columns(cls, columns: Sequence[str]) -> Task:
        """The task of a predictions table that says that it is of this one.

        Raises:
            ValueError: the columns are none of this task.
        """
        return cls(tuple(column.removeprefix("p_") for column in columns if column.startswith("p_")))

    @abstractmethod
    def target_cells(self, targets: npt.ArrayLike | None, n: int) -> dict[str, Any]:
        """The target columns of a predictions table.

        Args:
            targets: (N,) indices of classes, (N, C) of 0 and 1 for multilabel, (N,) numbers for regression, (N, 2) time
                and event for survival. NaN, and below 0 where there are classes: unknown. None: all unknown.
            n: rows N.

        Raises:
            ValueError: other shapes or values.
        """

    @abstractmethod
    def parse_targets(self, text: pd.DataFrame) -> tuple[dict[str, pd.Series], list[Wrong]]:
        """The target columns of a predictions table that was read as text, of those that it has; what is wrong."""

    @abstractmethod
    def wrong_values(self, frame: pd.DataFrame) -> list[Wrong]:
        """What is wrong with targets and answers of a predictions table."""

    # Several rows of an exam, pooled to one answer.

    @abstractmethod
    def target_numbers(self, frame: pd.DataFrame) -> FloatArray:
        """(N, T) the target columns as numbers (the index of the class), NaN where unknown."""

    @abstractmethod
    def pool_targets(self, numbers: pd.DataFrame, group_N: IntArray, how: Pooling) -> FloatArray:
        """Targets of groups of rows, in the form that ``target_cells`` takes.

        Args:
            numbers: of ``target_numbers``.
            group_N: (N,) group of each row, from 0.
            how: ``mean`` of what the rows agree on, or ``max``: positive, or the highest, where a row is.
        """

    @abstractmethod
    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        """(N, K) logits of answers, which are pooled over the rows of an exam; of numbers the numbers."""

    @abstractmethod
    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        """(N, C) answers of logits: the inverse of ``logits_of``."""

    # Evaluation.

    @abstractmethod
    def sentence(self, unit: str) -> str:
        """What is asked, for a report.

        Args:
            unit: what a sample is called, such as ``image``.
        """

    @property
    def positive(self) -> str:
        """The class that a single yes-or-no question is about; "" where there are several classes, or none."""
        return ""

    @property
    def asked_classes(self) -> tuple[str, ...]:
        """Classes that metrics ask about one by one, against all others."""
        return self.classes

    @property
    @abstractmethod
    def headline(self) -> tuple[str, ...]:
        """The few metrics for a log or for choosing a checkpoint, most important first."""

    @property
    def primary(self) -> dict[str, str]:
        """The metric that stands for all: ``metric``, and of which ``class_name`` or ``average``."""
        return {"metric": self.monitor}

    @abstractmethod
    def measures(
        self,
        frame: pd.DataFrame,
        unit_N: IntArray,
        points: Sequence[Any] = (),
        prevalences: Sequence[float] = (),
        curves: bool = False,
    ) -> list[Measure]:
        """All metrics of a predictions table as functions of how often each unit was drawn.

        Args:
            frame: its rows with a target.
            unit_N: (N,) unit of each row, such as its patient.
            points: operating points (``medsoft.evaluation.metrics.thresholds``), where thresholds decide.
            prevalences: of each class against the rest, for further PPV and NPV.
            curves: whether to give ROC curves and net benefit too.
        """

    @abstractmethod
    def hardly_vary(self, frame: pd.DataFrame, least_spread: float) -> str:
        """Between which values the answers of a predictions table lie that hardly vary; "" where they do.

        Args:
            frame: a predictions table, with or without targets.
            least_spread: answers vary where the standard deviation of their log-odds, or of numbers in that of the
                targets, is as large.
        """

    # Explanations and export.

    @abstractmethod
    def logit_target(self, name: str) -> LogitTarget:
        """Whose logit is explained.

        Args:
            name: of a class; of a regression ``prediction``.

        Raises:
            InputError: no such class, or one without a logit of its own.
        """

    @abstractmethod
    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        """What is explained where nobody says it, of a sample with these answers (C,)."""

    @abstractmethod
    def explained_values(self, frame: pd.DataFrame, logit_target: LogitTarget) -> FloatArray:
        """(N,) log-odds of a question's answer in a predictions table, or the predicted numbers."""

    @abstractmethod
    def outputs(self) -> list[dict[str, Any]]:
        """The two outputs of an exported network, logits and answers: ``name``, ``columns`` and ``what`` they mean."""


def _plain(value: Any) -> Any:
    """Tuples as lists, as a file gives them back."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value
