"""What tasks with classes have in common, and what those have whose samples are of one class each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError, Problem
from medsoft.evaluation.metrics.table import headline_of
from medsoft.task import Targets, Task
from medsoft.task_types import BoolArray, FloatArray, IntArray, LabelOptions, LogitTarget, Measure, Pooling, Wrong
from medsoft.text.spelling import normal_form

if TYPE_CHECKING:
    from torch import Tensor

    from medsoft.data.tables.labels import ClassColumn
    from medsoft.evaluation.metrics.thresholds import OperatingPoint

SMALLEST = 1e-38
"""Of a probability whose logarithm is taken; a softmax in float32 gives no smaller one but 0."""
SUM_TOLERANCE = 1e-3
"""How far the probabilities of a row may sum to something other than 1."""


class WithClasses(Task):
    """A task whose answers are probabilities of classes."""

    has_classes = True
    has_probabilities = True
    metrics: ClassVar[tuple[str, ...]] = (
        *("auroc", "average_precision", "brier", "log_loss", "sensitivity", "specificity", "ppv", "npv"),
        *("accuracy", "balanced_accuracy", "f1", "mcc"),
    )
    monitor = "auroc"
    key_metrics: ClassVar[tuple[str, ...]] = ("auroc", "balanced_accuracy", "accuracy")
    group_metrics: ClassVar[tuple[str, ...]] = ("auroc", "accuracy", "balanced_accuracy")
    figures = ("roc_band", "precision_recall", "reliability", "decision_curve", "risk_coverage")
    table_figures = ("roc", "precision_recall", "confusion_matrix", "confident_mistakes")
    report_sections = ("figures", "metrics", "confusion", "calibration", "subgroups")
    glossary = (
        *("auroc", "average_precision", "predictive_values", "calibration", "decision_curve", "risk_coverage"),
        "averages",
    )

    @classmethod
    def stated_by(cls, options: LabelOptions) -> bool:
        return bool(options.classes)

    @property
    def p_columns(self) -> list[str]:
        return [f"p_{name}" for name in self.classes]

    @property
    def headline(self) -> tuple[str, ...]:
        return headline_of(self.metrics)

    @property
    def primary(self) -> dict[str, str]:
        return {"metric": self.monitor, "average": "macro"}

    def check_targets(self, targets: pd.DataFrame, splits: pd.Series) -> list[Problem]:
        """Check that every class occurs in train and in val, where there are such rows, else in the table."""
        advice = "add such rows, split otherwise, or leave the class out"
        parts = {part: splits == part for part in ("train", "val") if (splits == part).any()}
        if (splits == "").all():
            parts = {"the table": splits == ""}
        members = self.members(targets)
        return [
            Problem("empty class", (), f"class {name!r} has no sample in {part}", advice, False)
            for part, rows in parts.items()
            for name, there in members.items()
            if not (there & rows.to_numpy()).any()
        ]

    def wrong_values(self, frame: pd.DataFrame) -> list[Wrong]:
        return list(self._wrong_probabilities(frame))

    def _wrong_probabilities(self, frame: pd.DataFrame) -> Iterator[Wrong]:
        for column in self.p_columns:
            p_N = frame[column].to_numpy(dtype=np.float64)
            yield f"{column} is empty or not a number in", np.isnan(p_N)
            yield f"{column} is outside [0, 1] in", (p_N < 0) | (p_N > 1)

    def measures(
        self,
        frame: pd.DataFrame,
        unit_N: IntArray,
        points: Sequence[OperatingPoint] = (),
        prevalences: Sequence[float] = (),
        curves: bool = False,
    ) -> list[Measure]:
        from medsoft.evaluation.metrics.weighted import Classified, Probabilistic, Ranked

        ranked = Ranked(frame, self, unit_N, points, prevalences, curves)
        parts: list[Measure] = [ranked, Probabilistic(frame, self, unit_N)]
        return parts if self.thresholded else [*parts, Classified(frame, self, unit_N, prevalences)]

    def hardly_vary(self, frame: pd.DataFrame, least_spread: float) -> str:
        from scipy.special import logit

        p_NC = frame[self.p_columns].to_numpy(dtype=np.float64).clip(1e-12, 1 - 1e-12)
        if (logit(p_NC).std(axis=0) >= least_spread).any():
            return ""
        if self.positive:
            p = p_NC[:, self.classes.index(self.positive)]
            return f"the predictions hardly vary (p of {self.positive} from {p.min():.3g} to {p.max():.3g})"
        apart = float(np.ptp(p_NC, axis=0).max())
        return f"the predictions hardly vary (no probability by more than {apart:.2g})"

    def explained_probability(
        self, logit_target: LogitTarget, logit: float, prediction_C: npt.NDArray[Any]
    ) -> float | None:
        if logit_target.sigmoid:
            return float(1 / (1 + np.exp(-logit)))
        return float(prediction_C[self.classes.index(logit_target.name)])

    def explained_values(self, frame: pd.DataFrame, logit_target: LogitTarget) -> FloatArray:
        from scipy.special import logit

        p_N = frame[self.p_columns].to_numpy(np.float64)[:, max(logit_target.weights)]
        values: FloatArray = logit(p_N.clip(1e-12, 1 - 1e-12))
        return values

    @property
    def _quoted(self) -> str:
        """The classes in a sentence."""
        return ", ".join(f"“{name}”" for name in self.classes)

    def _index(self, name: str) -> int:
        if name not in self.classes:
            raise InputError(f"--classes {name}: the model knows {', '.join(self.classes)}")
        return self.classes.index(name)

    def _outputs(self, logits: Sequence[str], meaning: str) -> list[dict[str, Any]]:
        return [
            {"name": "logits", "columns": list(logits), "what": "before the probabilities"},
            {"name": "probabilities", "columns": self.p_columns, "what": meaning},
        ]


class OneClass(WithClasses):
    """A task whose samples are of one class each: one label column, and probabilities that sum to 1.

    Target columns hold names of classes, "" where unknown.
    """

    exclusive = True

    @classmethod
    def read_labels(cls, labels: pd.DataFrame, options: LabelOptions, problems: Sequence[Problem]) -> Targets:
        from medsoft.data.tables.labels import class_column, named_problems_first, some

        names = list(map(str, labels.columns))
        if len(names) != 1:
            raise InputError(f"{len(names)} label columns make a multilabel task, not {cls.kind}: {some(names)}")
        column = class_column(labels, options, problems)
        with named_problems_first(column.problems):
            meaning, classes, notes = cls.meaning(column, options.required)
            task = cls(classes)
        return Targets(
            task=task,
            columns=pd.DataFrame({"target": column.values.map(lambda value: meaning.get(value, "")).astype(object)}),
            problems=[*column.problems, *column.unknown(meaning, options.required)],
            notes=[*column.notes, *notes],
        )

    @classmethod
    @abstractmethod
    def meaning(cls, column: ClassColumn, required: bool) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
        """What the values of a label column stand for.

        Returns:
            Value to class; the classes in order; sentences on what was decided.

        Raises:
            InputError: the options contradict each other or the labels.
        """

    def targets(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        index = {name: i for i, name in enumerate(self.classes)}
        return frame["target"].map(index).fillna(-1).to_numpy(dtype=np.int64)

    def known(self, frame: pd.DataFrame) -> BoolArray:
        found: BoolArray = pd.Index(self.classes).get_indexer(pd.Index(frame["target"])) >= 0
        return found

    def members(self, frame: pd.DataFrame) -> dict[str, BoolArray]:
        return {name: (frame["target"] == name).to_numpy(dtype=bool) for name in self.classes}

    def strata(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return targets

    def class_counts(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.bincount(targets[targets >= 0], minlength=len(self.classes))

    def of_numbers(self, numbers: Any) -> Any:
        return numbers[:, 0].long()

    def sampling_weights(self, targets: npt.NDArray[Any]) -> FloatArray:
        weights: FloatArray = 1 / self.class_counts(targets)[targets]
        return weights

    def class_weights(self, class_counts: npt.NDArray[Any]) -> Tensor:
        import torch

        counts = torch.as_tensor(class_counts, dtype=torch.float32)
        return counts.sum() / (len(counts) * counts.clamp(min=1))

    def exact(self, predictions_NC: FloatArray) -> FloatArray:
        """Rows that sum to 1 in float64, after a softmax in lower precision."""
        clipped = predictions_NC.clip(0, 1)
        sums: FloatArray = clipped.sum(axis=1, keepdims=True)
        return clipped / sums

    def target_cells(self, targets: npt.ArrayLike | None, n: int) -> dict[str, Any]:
        values = numbers_of(targets, (n,))
        require_whole(values, len(self.classes) - 1, self.kind)
        return {"target": ["" if np.isnan(value) else self.classes[int(value)] for value in values]}

    def parse_targets(self, text: pd.DataFrame) -> tuple[dict[str, pd.Series], list[Wrong]]:
        return {column: text[column] for column in self.target_columns if column in text}, []

    def wrong_values(self, frame: pd.DataFrame) -> list[Wrong]:
        wrong = super().wrong_values(frame)
        with np.errstate(invalid="ignore"):  # infinite ones are told above
            sums = frame[self.p_columns].to_numpy(dtype=np.float64).sum(axis=1)
            wrong.append(("the probabilities do not sum to 1 in", np.abs(sums - 1) > SUM_TOLERANCE))
        if "target" not in frame:
            return wrong
        forms = {normal_form(name): name for name in self.classes}
        for value in frame.loc[~frame["target"].isin(["", *self.classes]), "target"].unique():
            alike = forms.get(normal_form(value))
            more = f", but differs from {alike!r} in writing only" if alike else ""
            what = f"target {value!r} is none of {', '.join(self.classes)}{more} in"
            wrong.append((what, (frame["target"] == value).to_numpy(dtype=bool)))
        return wrong

    def target_numbers(self, frame: pd.DataFrame) -> FloatArray:
        index = pd.Index(self.classes).get_indexer(pd.Index(frame["target"])).astype(np.float64)
        return np.where(index < 0, np.nan, index)[:, None]

    def pool_targets(self, numbers: pd.DataFrame, group_N: IntArray, how: Pooling) -> FloatArray:
        """The class of rows that agree; for ``max`` the highest, where classes have an order."""
        grouped = numbers.groupby(group_N)
        highest = grouped.max()
        found = highest if how == "max" and self._has_highest else highest.where(highest == grouped.min())
        return in_order(found)[:, 0]

    def sentence(self, unit: str) -> str:
        order = ", in rising order" if self.ordered else ""
        return f"{self.kind.capitalize()}: which one of {self._quoted}{order}?"

    _has_highest = True
    """Whether a later class is more than an earlier one: positive, or of a higher grade."""


def numbers_of(targets: npt.ArrayLike | None, shape: tuple[int, ...]) -> FloatArray:
    """Targets of classes as numbers of a shape, NaN where they are negative or None.

    Raises:
        ValueError: they have another shape.
    """
    values = np.full(shape, np.nan) if targets is None else np.array(targets, dtype=np.float64)
    if values.shape != shape:
        raise ValueError(f"targets have shape {values.shape}, not {shape}")
    values[values < 0] = np.nan
    return values


def require_whole(values: FloatArray, highest: int, kind: str) -> None:
    """Raise ValueError where known targets are no whole numbers from 0 to ``highest``."""
    if not np.isin(values[~np.isnan(values)], np.arange(highest + 1)).all():
        raise ValueError(f"targets of this {kind} task are whole numbers from 0 to {highest}")


def in_order(by_group: pd.DataFrame) -> FloatArray:
    """Values of groups 0, 1, 2 ..., (groups, T)."""
    values: FloatArray = by_group.reindex(range(len(by_group))).to_numpy(dtype=np.float64)
    return values


def logarithm(p: FloatArray) -> FloatArray:
    """Natural logarithm, of 0 that of the smallest probability."""
    found: FloatArray = np.log(np.maximum(p, SMALLEST))
    return found


def sigmoid(logits: FloatArray) -> FloatArray:
    """In float64 without overflow."""
    found: FloatArray = np.exp(-np.logaddexp(0, -logits))
    return found
