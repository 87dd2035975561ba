"""Calibration at a time: predicted against observed shares of rows with the event by then."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsoft.evaluation.survival.basis import Outcomes
from medsoft.evaluation.survival.product_limit import kaplan_meier

FloatArray = npt.NDArray[np.float64]

MOST_GROUPS = 10
ROWS_A_GROUP = 30
"""Fewer rows leave an observed share too uncertain to be read."""


@dataclass(frozen=True)
class CalibrationGroup:
    """Rows with about the same prediction.

    Attributes:
        n: how many.
        predicted: mean of their predicted chance of the event by the time.
        observed: their share with the event by then, by Kaplan and Meier; None where nobody was followed that long.
        low: of its interval (Greenwood, on the scale of log(-log S)).
        high: likewise.
    """

    n: int
    predicted: float
    observed: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CalibrationAt:
    """Calibration at one time.

    Attributes:
        time: t.
        groups: the lowest predictions first.
        error: mean of |predicted - observed| over the groups, weighted by rows; None where a group has none.
    """

    time: float
    groups: tuple[CalibrationGroup, ...]
    error: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def calibration_at(time: float, survival_N: FloatArray, outcomes: Outcomes, confidence: float = 0.95) -> CalibrationAt:
    """Compare predictions with what happened, in groups of equally many rows.

    There are 10 groups, or fewer so that each has 30 rows, and at least two where predictions differ. Rows with the
    same prediction are in the same group.

    Args:
        time: t.
        survival_N: (N,) predicted chance of being without the event at t.
        outcomes: of the rows.
        confidence: of the intervals.
    """
    predicted_N = 1 - survival_N
    n_groups = max(2, min(MOST_GROUPS, len(outcomes) // ROWS_A_GROUP))
    limits = np.unique(np.quantile(predicted_N, np.arange(1, n_groups) / n_groups))
    group_N = np.searchsorted(limits, predicted_N, side="left")
    groups = []
    for index in np.unique(group_N):
        rows = group_N == index
        survival, low, high = kaplan_meier(outcomes.time[rows], outcomes.event[rows], confidence).at(time)
        ends = (None, None) if low is None or high is None else (1 - high, 1 - low)
        observed = None if survival is None else 1 - survival
        groups.append(CalibrationGroup(int(rows.sum()), float(predicted_N[rows].mean()), observed, *ends))
    apart = [abs(group.predicted - group.observed) * group.n for group in groups if group.observed is not None]
    error = sum(apart) / len(outcomes) if len(apart) == len(groups) else None
    return CalibrationAt(time, tuple(groups), error)
