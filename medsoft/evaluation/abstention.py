"""What abstaining changes: metrics of all samples, of those that are answered, and the difference under the same draws.

A column ``abstain`` of the predictions (0 or 1) says which samples the model would not answer, such as those that lie
far from its training data. Coverage is the share that is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.intervals.bootstrap import Units, percentile_interval, resample
from medsoft.evaluation.metrics.table import metric_name
from medsoft.evaluation.metrics.thresholds import OperatingPoint
from medsoft.evaluation.metrics.weighted import Key, weighted_metrics
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.subgroups import is_shown
from medsoft.evaluation.wording import counted
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]
COLUMN = "abstain"
SCORE = "ood_score"
WORDS = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}


@dataclass(frozen=True)
class AbstentionEstimate:
    """One metric with and without the samples that are set aside; a line of ``abstention.csv``.

    Attributes:
        metric: its name; the next three as in ``Estimate``.
        value_all: of all samples; None where undefined.
        all_low: lower end of its percentile interval.
        all_high: its upper end.
        value: of the answered samples.
        low: lower end of its percentile interval.
        high: its upper end.
        difference: answered - all.
        difference_low: lower end of its percentile interval.
        difference_high: its upper end.
    """

    metric: str
    class_name: str
    average: str
    rule: str
    value_all: float | None
    all_low: float | None
    all_high: float | None
    value: float | None
    low: float | None
    high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None


@dataclass(frozen=True)
class Abstention:
    """What abstaining changes in one part.

    Attributes:
        n: samples with a target.
        n_answered: of these, those that are answered.
        estimates: of the main metrics.
    """

    n: int
    n_answered: int
    estimates: list[AbstentionEstimate]

    @property
    def coverage(self) -> float:
        """Share of the samples that are answered."""
        return self.n_answered / self.n

    def said(self) -> str:
        """One sentence for the log."""
        aside = self.n - self.n_answered
        text = f"{aside} of {counted(self.n, 'sample')} {'is' if aside == 1 else 'are'} set aside (column {COLUMN})"
        found = next((e for e in self.estimates if e.metric in ("auroc", "mae", "accuracy")), None)
        if not aside or found is None or found.value_all is None or found.value is None:
            return text
        of = f" ({found.class_name or found.average})" if found.class_name or found.average else ""
        name = f"{metric_name(found.metric)}{of}"
        return f"{text}: {name} {found.value_all:.3f} of all, {found.value:.3f} of those that are answered"

    def rows(self) -> list[dict[str, Any]]:
        """Plain values, a line a metric."""
        about = {"n": self.n, "n_answered": self.n_answered, "coverage": self.coverage}
        found = [about | asdict(estimate) for estimate in self.estimates] or [about]
        return [{"class" if name == "class_name" else name: value for name, value in row.items()} for row in found]


def abstained(frame: pd.DataFrame) -> npt.NDArray[np.bool_] | None:
    """(N,) which rows are set aside; None for a table that says nothing of it.

    Raises:
        InputError: something else than 0 and 1 in the column.
    """
    if COLUMN not in frame:
        return None
    words = frame[COLUMN].astype(str)
    if not words.isin(WORDS).all():
        at = int(np.flatnonzero(~words.isin(WORDS))[0])
        raise InputError(f"column {COLUMN!r} is {words.iloc[at]!r} in row {frame['id'].iloc[at]!r}: 0 or 1 is allowed")
    return words.map(WORDS).to_numpy(dtype=np.bool_)


def abstention_notes(frame: pd.DataFrame) -> list[str]:
    """A line a split on how many samples the model abstains from; none for a table that says nothing of it."""
    aside = abstained(frame)
    if aside is None:
        return []
    lines = []
    for split, rows in frame.assign(aside=aside).groupby("split", sort=False):
        n, of = int(rows["aside"].sum()), len(rows)
        where = f"{split!s}: " if split else ""
        lines.append(f"{where}abstains from {n} of {counted(of, 'sample')} (out-of-distribution score above 1)")
    return lines


def unfamiliar(frame: pd.DataFrame) -> list[str]:
    """What is said beside each sample: its out-of-distribution score and whether the model abstains, "" if unknown."""
    aside = abstained(frame)
    if aside is None:
        return [""] * len(frame)
    scores = pd.to_numeric(frame[SCORE], errors="coerce") if SCORE in frame else pd.Series(np.nan, index=frame.index)
    return [ood_words(float(s), bool(a)) for s, a in zip(scores, aside, strict=True)]


def ood_words(score: float, aside: bool) -> str:
    """``abstains: out-of-distribution score 1.34``; the score alone where the model answers."""
    score_ = "" if np.isnan(score) else f"out-of-distribution score {score:.2f}"
    return ("abstains" + (f": {score_}" if score_ else "")) if aside else score_


def abstention(
    frame: pd.DataFrame, task: Task, units: Units, points: Sequence[OperatingPoint], settings: Settings
) -> Abstention | None:
    """Metrics of all rows and of those that are answered; None for a table that says nothing of abstaining.

    Args:
        frame: rows with a target.
        task: theirs.
        units: patients.
        points: operating points, locked.
        settings: of the bootstrap.
    """
    aside = abstained(frame)
    if aside is None:
        return None
    answered = ~aside
    if not answered.any():
        return Abstention(len(frame), 0, [])
    cards = {
        "all": task.measures(frame, units.of_row, points),
        "answered": task.measures(frame[answered].reset_index(drop=True), units.of_row[answered], points),
    }

    def statistic(weights_BU: FloatArray) -> dict[tuple[str, Key], FloatArray]:
        return {
            (name, key): value
            for name, card in cards.items()
            for key, value in weighted_metrics(card, weights_BU).items()
            if is_shown(key, task)
        }

    point, drawn = statistic(units.ones), resample(units, statistic, settings.draws, settings.seed)
    estimates = []
    for name, key in point:
        if name != "all" or ("answered", key) not in point:
            continue
        pair = [_with_interval(point[which, key][0], drawn[which, key], settings) for which in cards]
        apart = float(point["answered", key][0] - point["all", key][0])
        difference = _with_interval(apart, drawn["answered", key] - drawn["all", key], settings)
        about = (key.metric, key.class_name, key.average, key.rule)
        estimates.append(AbstentionEstimate(*about, *pair[0], *pair[1], *difference))
    return Abstention(len(frame), int(answered.sum()), estimates)


def _with_interval(
    value: float, drawn_B: FloatArray, settings: Settings
) -> tuple[float | None, float | None, float | None]:
    if np.isnan(value):
        return None, None, None
    interval = percentile_interval(drawn_B, settings.confidence)
    return float(value), interval.low, interval.high
