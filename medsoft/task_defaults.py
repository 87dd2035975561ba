"""What a task may have beside what every task must: defaults that say that there is nothing (``medsoft.task``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from medsoft.errors import InputError
from medsoft.task_types import BoolArray, FloatArray, LogitTarget, NamedTask, ObjectiveOptions

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from torch import Tensor


class TaskDefaults:
    """Methods that few tasks have something of their own for."""

    kind: ClassVar[str]
    monitor: ClassVar[str]
    classes: tuple[str, ...]
    skill: ClassVar[tuple[str, float]] = ("auroc", 0.5)
    """The metric by which this target counts among several, and its value by chance; at best it is 1."""
    can_be_one_of_several: ClassVar[bool] = True
    """Whether it can be one of several targets of a model."""
    has_risk_groups: ClassVar[bool] = False
    """Whether rows are told apart by a cut of their risk, which validation rows choose."""
    has_masks: ClassVar[bool] = False
    """Whether the answers are masks, which a run keeps beside its table."""
    has_boxes: ClassVar[bool] = False
    """Whether the answers are boxes, which a run keeps beside its table."""
    of_whole_samples: ClassVar[bool] = True
    """Whether an answer is about a sample as a whole; masks and boxes are about places in it."""
    pools: ClassVar[bool] = True
    """Whether the rows of an exam, or of a patient, can be pooled to one answer."""
    no_ensemble: ClassVar[str] = ""
    """Why several models cannot answer as one; "" where they can."""
    drawn: ClassVar[str] = ""
    """What a report says of pictures with masks, beside what their outlines are."""
    metrics_title: ClassVar[str] = "Agreement"
    """What a report calls the table of metrics of answers that are no classes."""

    @property
    def parts(self) -> tuple[NamedTask, ...]:
        """The targets of a question that has several; none of a single question."""
        return ()

    def part(self, name: str) -> NamedTask:
        """One of several targets.

        Raises:
            InputError: there is none of this name.
        """
        for one in self.parts:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.parts) or f"a single one ({self.kind})"
        raise InputError(f"there is no target {name!r}: there are {known}")

    def explained_probability(
        self, logit_target: LogitTarget, logit: float, prediction_C: npt.NDArray[Any]
    ) -> float | None:
        """The probability that an explained logit stands for; None where the answer is a number.

        Args:
            logit_target: whose logit.
            logit: its value.
            prediction_C: the answers (C,) of the same sample.
        """
        return None

    def frame_of(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Rows of a sample table or of predictions with the columns of one of several targets, called as if alone.

        Raises:
            InputError: there is none of this name.
        """
        self.part(name)
        return frame

    def of_numbers(self, numbers: Any) -> Any:
        """Targets of a batch as the objective takes them.

        Args:
            numbers: tensor (B, T) of ``target_numbers``, of rows with a target.
        """
        return numbers

    def kind_cells(self, n: int) -> dict[str, Any]:
        """The columns of a predictions table of ``n`` rows that say what is asked."""
        return {"task": [self.kind] * n}

    def answer_cells(self, answers: FloatArray, n: int) -> dict[str, Any]:
        """The columns of answers in a predictions table, from what a model says.

        Args:
            answers: (n, C) in the order of ``p_columns``.
            n: rows.

        Raises:
            ValueError: they have another shape.
        """
        shape = (n, len(self.p_columns))
        if answers.shape != shape:
            raise ValueError(f"probabilities have shape {answers.shape}; {n} ids and {shape[1]} classes need {shape}")
        return dict(zip(self.p_columns, answers.T, strict=True))

    def constant_answers(self, n: int) -> FloatArray:
        """(n, C) valid answers that are all the same, as ``answer_cells`` takes them."""
        width = len(self.p_columns)
        return np.full((n, width), 1 / width)

    @property
    @abstractmethod
    def p_columns(self) -> list[str]:
        """Columns of answers."""

    @classmethod
    @abstractmethod
    def from_columns(cls, columns: Sequence[str]) -> Any:
        """The task of a predictions table that says that it is of this one, by the table's columns."""

    @classmethod
    def from_text(cls, text: pd.DataFrame) -> Any:
        """The task of a predictions table, read as text, that says that it is of this one.

        Raises:
            ValueError: the columns are none of this task.
        """
        return cls.from_columns(list(map(str, text.columns)))

    def pinned(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the data that ask the same of any other table.

        Args:
            data: the options that were given.
        """
        return {"task": self.kind, "classes": list(self.classes) or None} | self.stated()

    @classmethod
    def label_columns(
        cls, label: str | Sequence[str] | None, time: str | None, event: str | None
    ) -> str | Sequence[str] | None:
        """The columns that hold the labels, as the option ``label`` names them.

        Args:
            label: of that option.
            time: column with the time until an event; of a survival task alone.
            event: column that says whether it happened; likewise.

        Raises:
            InputError: an option belongs to another task.
        """
        if time is not None or event is not None:
            raise InputError("data.time and data.event belong to --data.task survival: say so, or leave them out")
        return label

    def kinds(self, frame: pd.DataFrame) -> list[BoolArray]:
        """Which rows (N,) are of each kind that a small part of a table must have some of; by default each class."""
        return list(self.members(frame).values())

    @abstractmethod
    def members(self, frame: pd.DataFrame) -> dict[str, BoolArray]:
        """By class, (N,) which rows have it; empty where there are no classes."""

    def label_table(self, frame: pd.DataFrame, splits: Sequence[str]) -> Table | None:
        """What there is to say of the labels beyond how many samples each class has; None for nothing.

        Args:
            frame: of a sample table.
            splits: those that have rows.
        """
        return None

    def settled(self, targets: npt.NDArray[Any]) -> Self:
        """The question with what the training part decides of it, such as the times of survival; else itself.

        Args:
            targets: of the training part, as of ``targets``.
        """
        return self

    def stated(self) -> dict[str, Any]:
        """Options of the data, beside ``task`` and ``classes``, that state what ``settled`` has decided."""
        return {}

    def event_times(self, targets: npt.NDArray[Any]) -> FloatArray | None:
        """The times at which something happened among training targets, in rising order; None where there are none."""
        return None

    def part_notes(self, frame: pd.DataFrame, part: str) -> list[str]:
        """Sentences on what a part of a table (val, or the test part of a fold) cannot answer for want of targets.

        Args:
            frame: its rows.
            part: what it is called, such as ``val`` or ``fold 2``.
        """
        return []

    def target_scale(self, targets: npt.NDArray[Any]) -> tuple[float, float] | None:
        """Mean and standard deviation of training targets where they are numbers; None for classes."""
        return None

    def check_objective(self, options: ObjectiveOptions) -> None:
        """Check that the options of a training mean something for this task.

        Raises:
            ValueError: one does not.
        """
        if options.survival is not None or options.intervals is not None:
            raise ValueError(f"survival and intervals belong to a survival task, not to {self.kind}: leave them out")

    def answered_by(self, outputs: int) -> Self:
        """The question as a network with so many outputs answers it."""
        return self

    def told_each_epoch(self, metric: str) -> bool:
        """Whether the line of an epoch in the log holds a validation metric; ``metrics.csv`` has all of them."""
        return True

    def monitor_of(self, val: pd.DataFrame) -> str:
        """The metric that chooses the checkpoint where nobody says another, by what the validation part can answer."""
        return self.monitor

    def linear_baseline(
        self, train_NK: FloatArray, targets: npt.NDArray[Any], x_MK: FloatArray, penalty: float
    ) -> FloatArray | None:
        """What a linear model of the task's own predicts; None where logistic or ridge regression does for it.

        Args:
            train_NK: standardised columns to learn from.
            targets: of the same rows, as of ``targets``.
            x_MK: columns of the rows to predict.
            penalty: on half the squared weights.

        Returns:
            (M, C) in the order of ``p_columns``.
        """
        return None

    def class_weights(self, class_counts: npt.NDArray[Any]) -> Tensor:
        """Weights that balance the classes in the loss: inverse frequencies with mean 1 over the samples.

        Args:
            class_counts: as of ``class_counts``, of the training part.

        Raises:
            ValueError: there are no classes to weigh.
        """
        raise ValueError(f"class_weights are for classes: leave them out of a {self.kind}")

    def check_precision(self, precision: str) -> None:
        """Check that the trainer's precision can hold the targets.

        Raises:
            InputError: it cannot.
        """
        return

    def exact(self, predictions_NC: FloatArray) -> FloatArray:
        """A model's answers (N, C) without the rounding of a lower precision, where more is known of them."""
        return predictions_NC

    def check_run(self, config: Any) -> None:
        """Check that the options of a run mean something for this task.

        Args:
            config: the parsed command line.

        Raises:
            InputError: one does not.
        """
        return

    # Evaluation.

    def as_configured(self, data: Mapping[str, Any]) -> Self:
        """The question of a predictions table with what its run's options of the data say, such as a unit."""
        return self

    def asked_of(
        self, rows: pd.DataFrame, training: pd.DataFrame, settings: Any, kept: Sequence[Mapping[str, Any]] = ()
    ) -> Self:
        """The question with what its metrics must know beside the rows that they are of.

        Args:
            rows: of a predictions table, in all folds together.
            training: rows of the fold's training part, where the table has them; else none.
            settings: of the evaluation (``medsoft.evaluation.settings``).
            kept: what the model, or each member of an ensemble, has kept of its training part for an evaluation.
        """
        return self

    def why_undefined(self, key: Any, frame: pd.DataFrame) -> str:
        """One sentence for a metric that rows with a target cannot give; "" where there is nothing to add.

        Args:
            key: of the metric (``medsoft.evaluation.metrics.weighted``).
            frame: the rows.
        """
        return ""

    def shared_with(self, other: Self) -> Self | None:
        """The question that two tables of predictions have in common; None where they cannot be compared."""
        return self if self == other else None

    def survival_findings(
        self, frame: pd.DataFrame, cut: Any, point: Any, drawn: Any, clustered: bool, confidence: float
    ) -> Any:
        """Risk groups, calibration and curves over time; None where the answers have no time.

        Its types are those of ``medsoft.evaluation.survival.findings``.

        Args:
            frame: rows with a target, at least one.
            cut: between the risk groups; None where nobody chose it.
            point: metrics of the rows (1, ...).
            drawn: of the draws of the bootstrap (B, ...).
            clustered: whether a patient has several rows.
            confidence: of all intervals.
        """
        return None
