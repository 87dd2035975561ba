"""Thresholds of yes-or-no decisions: chosen by a stated rule on validation predictions, then locked.

Rules:

    0.5, or any number    that threshold; nothing is chosen
    youden                highest sensitivity + specificity (W. J. Youden, Cancer 3, 1950)
    sensitivity:0.95      the highest threshold whose sensitivity is at least 0.95
    specificity:0.9       the lowest threshold whose specificity is at least 0.9
    cost:5                least cost where a miss costs as much as 5 false alarms, at the prevalence of the rows

Of equally good thresholds the highest is taken. A chosen threshold lies midway between two neighbouring scores: at a
score itself, a new positive that scores a hair lower would be missed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsoft.errors import InputError
from medsoft.evaluation.metrics.confusion import decision_metrics
from medsoft.evaluation.metrics.ranking import Ranking
from medsoft.evaluation.metrics.targets import THRESHOLD, OneAgainstRest
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]
FORMS = "a number from 0 to 1, youden, sensitivity:S, specificity:S or cost:RATIO"


@dataclass(frozen=True)
class Rule:
    """How a threshold is found.

    Attributes:
        text: as the user wrote it, such as ``sensitivity:0.95``.
        kind: fixed, youden, sensitivity, specificity or cost.
        value: the threshold, the least sensitivity or specificity, or the ratio of costs.
    """

    text: str
    kind: str
    value: float = 0.0

    @property
    def chooses(self) -> bool:
        """Whether data decide the threshold."""
        return self.kind != "fixed"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold for one class or label, and how it came about.

    Attributes:
        class_name: the class that a yes stands for.
        rule: text of the rule.
        threshold: p >= threshold is a yes; None where the rows could not tell.
        sensitivity: on the rows that chose it; None for a fixed threshold. A record, not a result.
        specificity: likewise.
        note: what limits it.
    """

    class_name: str
    rule: str
    threshold: float | None
    sensitivity: float | None = None
    specificity: float | None = None
    note: str = ""


def parse_rule(text: str) -> Rule:
    """Read a rule.

    Raises:
        InputError: it is none.
    """
    name, _, number = text.strip().partition(":")
    try:
        if name == "youden" and not number:
            return Rule("youden", "youden")
        if name in ("sensitivity", "specificity") and 0 < float(number) <= 1:
            return Rule(text.strip(), name, float(number))
        if name == "cost" and 0 < float(number) < np.inf:
            return Rule(text.strip(), name, float(number))
        if not number and 0 <= float(name) <= 1:
            return Rule(text.strip(), "fixed", float(name))
    except ValueError:
        pass
    raise InputError(f"{text!r} is no rule for a threshold: {FORMS}")


def at_half(task: Task) -> list[OperatingPoint]:
    """The threshold that decides where none was chosen, for each class or label of a task that has thresholds."""
    names = task.asked_classes if task.thresholded else ()
    return [OperatingPoint(name, f"{THRESHOLD:g}", THRESHOLD) for name in names]


def choose(question: OneAgainstRest, rule: Rule) -> OperatingPoint:
    """The operating point that a rule finds on these rows."""
    if not rule.chooses:
        return OperatingPoint(question.name, rule.text, rule.value)
    n_positive = int(question.truth.sum())
    n_negative = len(question.truth) - n_positive
    if not n_positive or not n_negative:
        note = f"not chosen: the rows that choose have {n_positive} positives and {n_negative} negatives"
        return OperatingPoint(question.name, rule.text, None, note=note)
    ranking = Ranking(question.truth, question.p)
    sums = ranking.sums(np.ones((1, len(question.truth))))
    # Above the highest score nothing is a yes; that point is a candidate too.
    candidates = np.append(ranking.score, np.inf)
    every = np.arange(len(candidates))
    missed, correct = sums.missed(every)[0], sums.correct(every)[0]
    sensitivity, specificity = 1 - missed / n_positive, correct / n_negative
    best = _best(rule, sensitivity, specificity, missed, n_negative - correct)
    note = ""
    of = {"sensitivity": (n_positive, "positives"), "specificity": (n_negative, "negatives")}.get(rule.kind)
    if of and rule.value < 1 and (1 - rule.value) * of[0] < 1 - 1e-9:
        note = f"with {of[0]} {of[1]} to choose on, {rule.text} allows no error at all"
    return OperatingPoint(
        question.name, rule.text, _midway(candidates, best), float(sensitivity[best]), float(specificity[best]), note
    )


def _best(
    rule: Rule, sensitivity: FloatArray, specificity: FloatArray, missed: FloatArray, false_alarms: FloatArray
) -> int:
    """Index of the best candidate; both rates run over candidates from the lowest threshold to the highest."""
    if rule.kind == "sensitivity":
        return int(np.flatnonzero(sensitivity >= rule.value - 1e-12)[-1])
    if rule.kind == "specificity":
        return int(np.flatnonzero(specificity >= rule.value - 1e-12)[0])
    merit = sensitivity + specificity if rule.kind == "youden" else -(rule.value * missed + false_alarms)
    # Rounding must not decide between equals.
    return int(np.flatnonzero(merit >= merit.max() - 1e-9)[-1])


def _midway(candidates: FloatArray, best: int) -> float:
    """Between a score and the one below it (0 below the lowest, 1 above the highest)."""
    lower = candidates[best - 1] if best else 0.0
    upper = min(candidates[best], 1.0)
    middle = (lower + upper) / 2
    if lower < middle <= upper:
        return float(middle)
    # Neighbouring floats, or a highest score of 1 above which no probability lies.
    return float(upper) if lower < upper or best == 0 else float(np.nextafter(1.0, 2.0))


def describe(point: OperatingPoint) -> str:
    """One sentence for the log."""
    if point.threshold is None:
        return f"{point.class_name}, {point.rule}: {point.note}"
    at = "" if point.sensitivity is None else f" (sensitivity {point.sensitivity:.3f}, specificity "
    at += "" if point.specificity is None else f"{point.specificity:.3f} where it was chosen)"
    return f"{point.class_name}, {point.rule}: p >= {point.threshold:.4g}{at}" + (
        f"; {point.note}" if point.note else ""
    )


def values_at(question: OneAgainstRest, threshold: float) -> dict[str, float]:
    """Decision metrics of the rows at a threshold; NaN where undefined."""
    ranking = Ranking(question.truth, question.p)
    counts = ranking.counts(ranking.sums(np.ones((1, len(question.truth)))), threshold)
    return {name: float(value[0]) for name, value in decision_metrics(*counts).items()}
