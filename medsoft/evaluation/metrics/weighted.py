"""All metrics of a predictions table as functions of how often each unit was drawn.

The same code gives the value (every unit once) and the bootstrap's draws, so that the two cannot differ in definition.
Definitions are written down in ``medsoft.evaluation.metrics.score``; scikit-learn is the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix

from medsoft.evaluation.metrics import agreement
from medsoft.evaluation.metrics.confusion import decision_metrics, predictive_values
from medsoft.evaluation.metrics.ranking import Ranking, Sums, auroc, average_precision, sensitivity_at
from medsoft.evaluation.metrics.table import COUNTS, MEANS_OF_DECISIONS, OF_ALL_CLASSES
from medsoft.evaluation.metrics.targets import OneAgainstRest, one_against_rest, predicted, probabilities, targets
from medsoft.evaluation.metrics.thresholds import OperatingPoint
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

FALSE_POSITIVE_RATES = np.linspace(0, 1, 101)
NET_BENEFIT_THRESHOLDS = np.linspace(0.01, 0.99, 99)
MOST_PROBABLE = "most probable class"
"""The rule by which a multiclass or ordinal prediction is a decision."""
SMALLEST = float(np.finfo(np.float64).eps)
_MEANS_OF_CLASSES = tuple(metric for metric in MEANS_OF_DECISIONS if metric not in OF_ALL_CLASSES)


class Key(NamedTuple):
    """Which value.

    Attributes:
        metric: its name.
        class_name: of which class or label; "" for the whole table.
        average: ``macro`` or ``micro`` over the classes, or "".
        rule: of the threshold; "" where no decision is taken.
        prevalence: for PPV and NPV at another prevalence than that of the rows.
        probabilities: "" as predicted, else how they were recalibrated.
        time: that the value is about, in the unit of the table's times; None for no one time.
    """

    metric: str
    class_name: str = ""
    average: str = ""
    rule: str = ""
    prevalence: float | None = None
    probabilities: str = ""
    time: float | None = None


Values = dict[Key, FloatArray]
Measure = Callable[[FloatArray], Values]
"""From how often each unit was drawn, (B, U), to values (B, ...)."""


class Ranked:
    """AUROC, average precision, decisions at thresholds, and curves: one yes-or-no question at a time, and averages.

    Args:
        frame: rows with a target.
        task: their task.
        unit_N: (N,) unit of each row.
        points: operating points of a binary or multilabel task.
        prevalences: of each class against the rest, for further PPV and NPV.
        curves: whether to give ``roc`` and ``net_benefit``, each (B, points), too.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        task: Task,
        unit_N: IntArray,
        points: Sequence[OperatingPoint] = (),
        prevalences: Sequence[float] = (),
        curves: bool = False,
    ) -> None:
        self._points, self._prevalences, self._curves = points, prevalences, curves
        questions = [question for question in one_against_rest(frame, task) if len(question.truth)]
        self._rankings = {q.name: Ranking(q.truth, q.p, unit_N[q.rows]) for q in questions}
        self._pooled = pooled(questions, unit_N) if len(questions) > 1 else None
        self._both = [q.name for q in questions if 0 < q.truth.sum() < len(q.truth)] if len(questions) > 1 else []
        self._rules = list(dict.fromkeys(point.rule for point in points if point.threshold is not None))
        with np.errstate(divide="ignore", invalid="ignore"):
            self._defined = _defined(self._single(np.ones((1, _n_units(unit_N)))))

    def __call__(self, weights_BU: FloatArray) -> Values:
        """Values (B,) under the weights of the units; NaN where undefined."""
        values = self._single(weights_BU)
        if self._pooled is not None:
            sums = self._pooled.sums(weights_BU)
            values[Key("auroc", average="micro")] = auroc(sums)
            values[Key("average_precision", average="micro")] = average_precision(sums)
        averaged = _macro(values, ("auroc", "average_precision"), "", self._both, self._defined)
        for rule in self._rules if self._both else ():
            averaged |= _macro(values, MEANS_OF_DECISIONS, rule, self._both, self._defined)
            averaged |= _micro(values, rule, self._both)
        return values | averaged

    def _single(self, weights_BU: FloatArray) -> Values:
        values: Values = {}
        for name, ranking in self._rankings.items():
            sums = ranking.sums(weights_BU)
            values[Key("auroc", name)] = auroc(sums)
            values[Key("average_precision", name)] = average_precision(sums)
            if self._curves:
                values[Key("roc", name)] = sensitivity_at(sums, FALSE_POSITIVE_RATES)
                values[Key("net_benefit", name)] = net_benefit(ranking, sums)
            for point in self._points:
                if point.class_name == name and point.threshold is not None:
                    values |= _decisions(name, point.rule, ranking.counts(sums, point.threshold), self._prevalences)
        return values


class Classified:
    """Decisions of a multiclass or ordinal task: the most probable class is predicted. Arguments as for ``Ranked``."""

    def __init__(self, frame: pd.DataFrame, task: Task, unit_N: IntArray, prevalences: Sequence[float] = ()) -> None:
        n = len(task.classes)
        self._task, self._prevalences = task, prevalences
        cells = targets(frame, task) * n + predicted(frame, task)
        n_units = _n_units(unit_N)
        self._cells_UK = csr_matrix((np.ones(len(cells)), (unit_N, cells)), shape=(n_units, n * n))
        self._defined = _defined(self._single(np.ones((1, n_units))))

    def __call__(self, weights_BU: FloatArray) -> Values:
        """Values (B,) under the weights of the units; NaN where undefined."""
        values = self._single(weights_BU)
        return values | _macro(values, _MEANS_OF_CLASSES, MOST_PROBABLE, self._task.classes, self._defined)

    def _single(self, weights_BU: FloatArray) -> Values:
        task, n = self._task, len(self._task.classes)
        cells_BK: FloatArray = np.asarray(weights_BU[:, : self._cells_UK.shape[0]] @ self._cells_UK)
        confusion_BCC = cells_BK.reshape(-1, n, n)
        values: Values = {
            Key("accuracy", rule=MOST_PROBABLE): agreement.accuracy(confusion_BCC),
            Key("balanced_accuracy", rule=MOST_PROBABLE): agreement.balanced_accuracy(confusion_BCC),
            Key("mcc", rule=MOST_PROBABLE): agreement.mcc(confusion_BCC),
        }
        if "kappa" in task.metrics:
            values[Key("kappa", rule=MOST_PROBABLE)] = agreement.kappa(confusion_BCC)
        total = confusion_BCC.sum(axis=(1, 2))
        for index, name in enumerate(task.classes):
            hits = confusion_BCC[:, index, index]
            called, true = confusion_BCC[:, :, index].sum(axis=1), confusion_BCC[:, index, :].sum(axis=1)
            counts = (hits, called - hits, true - hits, total - called - true + hits)
            values |= _decisions(name, MOST_PROBABLE, counts, self._prevalences)
        return values


class Probabilistic:
    """Brier score and log loss; arguments as ``Ranked``, ``how`` says how the probabilities were recalibrated."""

    def __init__(self, frame: pd.DataFrame, task: Task, unit_N: IntArray, how: str = "") -> None:
        self._parts: list[tuple[Key, FloatArray, FloatArray]] = []
        n_units = _n_units(unit_N)

        def add(key: Key, value_N: FloatArray, rows: IntArray) -> None:
            unit = unit_N[rows]
            sums_U: FloatArray = np.bincount(unit, weights=value_N, minlength=n_units).astype(np.float64)
            self._parts.append((key, sums_U, np.bincount(unit, minlength=n_units).astype(np.float64)))

        for question in one_against_rest(frame, task):
            add(Key("brier", question.name, probabilities=how), brier_of(question), question.rows)
            if task.thresholded:
                add(Key("log_loss", question.name, probabilities=how), log_loss_of(question), question.rows)
        if not task.thresholded:
            p_NC, target = probabilities(frame, task), targets(frame, task)
            rows = np.arange(len(target))
            truth_NC = np.eye(len(task.classes))[target]
            add(Key("brier", probabilities=how), ((p_NC - truth_NC) ** 2).sum(axis=1), rows)
            p_true = p_NC[rows, target] / p_NC.sum(axis=1)
            add(Key("log_loss", probabilities=how), -np.log(p_true.clip(SMALLEST, 1)), rows)
        self._labels = task.classes if task.several_columns else ()
        self._how = how

    def __call__(self, weights_BU: FloatArray) -> Values:
        """Values (B,) under the weights of the units; NaN where undefined."""
        values: Values = {}
        for key, sums_U, rows_U in self._parts:
            weights = weights_BU[:, : len(sums_U)]
            with np.errstate(divide="ignore", invalid="ignore"):
                values[key] = (weights @ sums_U) / (weights @ rows_U)
        for metric in ("brier", "log_loss") if self._labels else ():
            parts = [values[Key(metric, name, probabilities=self._how)] for name in self._labels]
            defined = [part for part in parts if not np.isnan(part).all()]
            if defined:
                values[Key(metric, average="macro", probabilities=self._how)] = np.mean(defined, axis=0)
        return values


def weighted_metrics(parts: Iterable[Measure], weights_BU: FloatArray) -> Values:
    """Values of several parts together."""
    values: Values = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for part in parts:
            values |= part(weights_BU)
    return values


def pooled(questions: Sequence[OneAgainstRest], unit_N: IntArray) -> Ranking:
    """All questions in one ranking, for micro averages: each row stands there once for each class."""
    truth = np.concatenate([question.truth for question in questions])
    p = np.concatenate([question.p for question in questions])
    return Ranking(truth, p, np.concatenate([unit_N[question.rows] for question in questions]))


def net_benefit(ranking: Ranking, sums: Sums) -> FloatArray:
    """(B, T) net benefit at ``NET_BENEFIT_THRESHOLDS`` (A. J. Vickers, E. B. Elkin, Med Decis Making 26, 2006)."""
    caught, false_alarms, _, _ = ranking.counts_at(sums, NET_BENEFIT_THRESHOLDS)
    odds = NET_BENEFIT_THRESHOLDS / (1 - NET_BENEFIT_THRESHOLDS)
    return (caught - false_alarms * odds) / (sums.positives + sums.negatives)[:, None]


def brier_of(question: OneAgainstRest) -> FloatArray:
    """(n,) squared errors."""
    return np.asarray((question.p - question.truth) ** 2)


def log_loss_of(question: OneAgainstRest) -> FloatArray:
    """(n,) −ln of the probability of what happened, at most 36.04."""
    happened = np.where(question.truth, question.p, 1 - question.p)
    return np.asarray(-np.log(happened.clip(SMALLEST, 1)))


def _n_units(unit_N: IntArray) -> int:
    return int(unit_N.max()) + 1 if len(unit_N) else 0


def _defined(values: Values) -> set[Key]:
    return {key for key, value in values.items() if not np.isnan(value).any()}


def _macro(values: Values, metrics: Iterable[str], rule: str, classes: Sequence[str], defined: set[Key]) -> Values:
    """Plain means over the classes for which the data define a value; a draw that lacks one of these is NaN."""
    means: Values = {}
    for metric in metrics:
        keys = [key for name in classes if (key := Key(metric, name, rule=rule)) in defined]
        if keys:
            means[Key(metric, average="macro", rule=rule)] = np.mean([values[key] for key in keys], axis=0)
    return means


def _micro(values: Values, rule: str, classes: Sequence[str]) -> Values:
    """Decisions of all labels that the rule decides on, counted together."""
    decided = [label for label in classes if Key(COUNTS[0], label, rule=rule) in values]
    if not decided:
        return {}
    counts = [np.sum([values[Key(name, label, rule=rule)] for label in decided], axis=0) for name in COUNTS]
    metrics = decision_metrics(*counts)
    return {Key(metric, average="micro", rule=rule): metrics[metric] for metric in MEANS_OF_DECISIONS}


def _decisions(
    name: str, rule: str, counts: tuple[FloatArray, FloatArray, FloatArray, FloatArray], prevalences: Sequence[float]
) -> Values:
    metrics = decision_metrics(*counts)
    values = {Key(metric, name, rule=rule): value for metric, value in zip(COUNTS, counts, strict=True)}
    values |= {Key(metric, name, rule=rule): value for metric, value in metrics.items()}
    for prevalence in prevalences:
        pair = predictive_values(metrics["sensitivity"], metrics["specificity"], prevalence)
        for metric, value in zip(("ppv", "npv"), pair, strict=True):
            values[Key(metric, name, rule=rule, prevalence=prevalence)] = value
    return values
