"""Values with their intervals, and why there is none where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest

from medsoft.evaluation.intervals.bootstrap import SAME_IN_EVERY_DRAW, Interval, Units, percentile_interval
from medsoft.evaluation.intervals.delong import delong
from medsoft.evaluation.metrics.table import COUNTS, CURVES, PROPORTIONS
from medsoft.evaluation.metrics.targets import OneAgainstRest, one_against_rest
from medsoft.evaluation.metrics.weighted import Key, Values
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A metric's value and its interval; a line of ``metrics.csv``.

    Attributes:
        metric: its name.
        class_name: of which class or label; "" for the whole table.
        average: ``macro`` or ``micro``, or "".
        rule: of the threshold; "" where no decision is taken.
        threshold: that of a binary or multilabel decision.
        prevalence: for PPV and NPV at another prevalence than that of the rows.
        probabilities: "" as predicted, else how they were recalibrated.
        value: None where undefined.
        low: lower end of the interval to report; None where there is none.
        high: its upper end.
        method: of that interval: delong, clustered delong, wilson, bootstrap, or "".
        bootstrap_low: lower end of the percentile interval.
        bootstrap_high: its upper end.
        undefined_draws: draws of the bootstrap without a value.
        note: why there is no value or no interval, or what to beware of.
        time: that the value is about, in the unit of the table's times; None for no one time.
    """

    metric: str
    class_name: str
    average: str
    rule: str
    threshold: float | None
    prevalence: float | None
    probabilities: str
    value: float | None
    low: float | None
    high: float | None
    method: str
    bootstrap_low: float | None
    bootstrap_high: float | None
    undefined_draws: int
    note: str
    time: float | None = None

    @property
    def key(self) -> Key:
        """Which value it is."""
        about = (self.metric, self.class_name, self.average, self.rule, self.prevalence, self.probabilities)
        return Key(*about, time=self.time)

    @property
    def remark(self) -> str:
        """The note, unless it is about the bootstrap alone and another interval is reported."""
        return "" if self.note == SAME_IN_EVERY_DRAW and self.low is not None else self.note

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``class_name`` is called ``class``, and ``time`` stands where there is one."""
        values = asdict(self)
        if self.time is None:
            del values["time"]
        return {"class" if name == "class_name" else name: value for name, value in values.items()}


def estimates(
    point: Values,
    drawn: Mapping[Key, FloatArray],
    frame: pd.DataFrame,
    task: Task,
    units: Units,
    confidence: float,
    thresholds: Mapping[tuple[str, str], float | None],
) -> list[Estimate]:
    """An estimate for every value.

    Args:
        point: values of shape (1,); curves are left out.
        drawn: the same over the draws, (B,).
        frame: the rows, all with a target.
        task: their task.
        units: who was drawn.
        confidence: of the intervals, such as 0.95.
        thresholds: by class and rule.
    """
    questions = {question.name: question for question in one_against_rest(frame, task)}
    found = []
    for key, value in point.items():
        if key.metric in CURVES:
            continue
        threshold = thresholds.get((key.class_name, key.rule))
        about = (key.metric, key.class_name, key.average, key.rule, threshold, key.prevalence, key.probabilities)
        number = float(value[0])
        if np.isnan(number):
            note = task.why_undefined(key, frame) or why_undefined(key, questions, len(frame))
            found.append(Estimate(*about, None, None, None, "", None, None, 0, note, key.time))
        elif key.metric in COUNTS:
            found.append(Estimate(*about, number, None, None, "", None, None, 0, "", key.time))
        else:
            percentiles = percentile_interval(drawn[key], confidence)
            interval, method, note = _interval(key, point, questions, units, confidence, percentiles)
            low, high = interval or (None, None)
            note = "; ".join(dict.fromkeys(part for part in (note, percentiles.note) if part))
            found.append(
                Estimate(
                    *about,
                    number,
                    low,
                    high,
                    method,
                    percentiles.low,
                    percentiles.high,
                    percentiles.undefined,
                    note,
                    key.time,
                )
            )
    return found


def auroc_interval(
    questions: list[OneAgainstRest], units: Units, confidence: float
) -> tuple[tuple[float, float] | None, str]:
    """DeLong's interval of one question, or of several taken together (micro), and the method's name."""
    truth = np.concatenate([question.truth for question in questions])
    p = np.concatenate([question.p for question in questions])
    result = delong(truth, p, np.concatenate([units.of_row[question.rows] for question in questions]))
    interval = result.interval(confidence)
    return interval, ("clustered delong" if result.clustered else "delong") if interval else ""


def _interval(
    key: Key,
    point: Values,
    questions: Mapping[str, OneAgainstRest],
    units: Units,
    confidence: float,
    percentiles: Interval,
) -> tuple[tuple[float, float] | None, str, str]:
    """The interval to report: DeLong's and Wilson's where they apply, else the bootstrap's."""
    if key.metric == "auroc" and key.average != "macro":
        asked = [questions[key.class_name]] if key.class_name else [q for q in questions.values() if len(q.truth)]
        interval, method = auroc_interval(asked, units, confidence)
        return interval, method, "" if interval else "DeLong's variance is 0 or unknown: no interval"
    if key.metric in PROPORTIONS and key.class_name and key.prevalence is None and not units.clustered:
        hits, n = _share(key, point)
        return wilson(hits, n, confidence), "wilson", ""
    if percentiles.low is None or percentiles.high is None:
        return None, "", ""
    return (percentiles.low, percentiles.high), "bootstrap", ""


def wilson(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """The interval of a proportion of independent rows (Wilson 1927)."""
    interval = binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def _share(key: Key, point: Values) -> tuple[int, int]:
    """Numerator and denominator of a proportion."""
    tp, fp, fn, tn = (int(point[Key(name, key.class_name, rule=key.rule)][0]) for name in COUNTS)
    return {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "accuracy": (tp + tn, tp + fp + fn + tn),
    }[key.metric]


def why_undefined(key: Key, questions: Mapping[str, OneAgainstRest], n_rows: int) -> str:
    """One sentence for a value that the rows cannot give."""
    if n_rows == 0:
        return "no row has a target"
    if not questions:
        return "fewer than two different targets"
    if not key.class_name:
        return "only one class occurs" + (", or only one is predicted" if key.metric == "mcc" else "")
    question = questions[key.class_name]
    n, positives = len(question.truth), int(question.truth.sum())
    if n == 0:
        return f"no row has a target for {key.class_name!r}"
    if positives in (0, n):
        return f"{'no' if positives == 0 else 'every'} row is {key.class_name!r}"
    return {
        "ppv": f"no row is called {key.class_name!r}",
        "npv": f"every row is called {key.class_name!r}",
        "mcc": f"all rows are called the same of {key.class_name!r}",
    }.get(key.metric, "no rows to divide by")
