"""The product-limit estimator of survival, and of the time until censoring, for many weightings of the same rows.

(E. L. Kaplan, P. Meier, Journal of the American Statistical Association 53, 1958.) Of equal times events come before
censorings: who is censored at t was at risk of the events at t, and who had the event at t was no longer at risk of
being censored then. scikit-survival and lifelines take ties in the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class ProductLimit:
    """Rows in the order of their times.

    Args:
        time_N: (N,) times above 0; at least one row.
        event_N: (N,) whether the event happened at that time; else the row is censored there.
    """

    def __init__(self, time_N: FloatArray, event_N: BoolArray) -> None:
        self._order = np.argsort(time_N, kind="stable")
        self._event = event_N[self._order].astype(np.float64)[:, None]
        self.time, self._starts, group = np.unique(time_N[self._order], return_index=True, return_inverse=True)
        """(G,) distinct times, rising."""
        self.group = np.empty(len(time_N), dtype=np.intp)
        """(N,) which of them is a row's."""
        self.group[self._order] = group

    def counts(self, weights_NB: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Weights (G, B) of the events at each time, of those censored then, and of all at risk just before."""
        sorted_NB = weights_NB[self._order]
        all_GB = np.add.reduceat(sorted_NB, self._starts, axis=0)
        events_GB = np.add.reduceat(sorted_NB * self._event, self._starts, axis=0)
        at_risk_GB = np.cumsum(all_GB[::-1], axis=0)[::-1]
        return events_GB, all_GB - events_GB, at_risk_GB

    def survival(self, weights_NB: FloatArray) -> FloatArray:
        """(G, B): the chance of being without the event after each time."""
        events_GB, _, at_risk_GB = self.counts(weights_NB)
        return _product(events_GB, at_risk_GB)

    def censoring(self, weights_NB: FloatArray) -> FloatArray:
        """(G, B): the chance of being under observation after each time, P(C > t)."""
        events_GB, censored_GB, at_risk_GB = self.counts(weights_NB)
        return _product(censored_GB, at_risk_GB - events_GB)

    def at(self, steps_GB: FloatArray, time_T: npt.ArrayLike) -> FloatArray:
        """(T, B): a step function of ``survival`` or ``censoring`` at other times; 1 before the first."""
        found_T = np.searchsorted(self.time, np.asarray(time_T, dtype=np.float64), side="right")
        with_start = np.concatenate([np.ones((1, steps_GB.shape[1])), steps_GB])
        return np.asarray(with_start[found_T])


def _product(events_GB: FloatArray, at_risk_GB: FloatArray) -> FloatArray:
    share = np.divide(events_GB, at_risk_GB, out=np.zeros_like(events_GB), where=events_GB > 0)
    return np.cumprod(1 - share, axis=0)


class KaplanMeier(NamedTuple):
    """A survival curve with pointwise intervals.

    Attributes:
        time: (G,) distinct times of events and censorings, rising.
        survival: (G,) from each time on; 1 before the first.
        low: (G,) lower ends of the intervals; NaN where there is none, as survival is still 1 or already 0.
        high: (G,) upper ends.
        censored: (G,) how many were censored at each time.
    """

    time: FloatArray
    survival: FloatArray
    low: FloatArray
    high: FloatArray
    censored: FloatArray

    def at(self, time: float) -> tuple[float | None, float | None, float | None]:
        """Survival at a time and its interval; None where nobody was followed that long, or there is no interval."""
        if time < self.time[0]:
            return 1.0, None, None
        if time > self.time[-1] and self.survival[-1] > 0:
            return None, None, None
        at = int(np.searchsorted(self.time, time, side="right")) - 1
        low, high = float(self.low[at]), float(self.high[at])
        return float(self.survival[at]), *((None, None) if np.isnan(low) else (low, high))


def kaplan_meier(time_N: FloatArray, event_N: BoolArray, confidence: float = 0.95) -> KaplanMeier:
    """Survival with Greenwood's variance, and intervals on the scale of log(-log S).

    (M. Greenwood, 1926; J. D. Kalbfleisch, R. L. Prentice, The Statistical Analysis of Failure Time Data, 2002, section
    1.4.) They stay within 0 and 1.

    Args:
        time_N: (N,) times above 0; at least one row.
        event_N: (N,) whether the event happened.
        confidence: of the intervals.
    """
    rows = ProductLimit(time_N, event_N)
    counted = rows.counts(np.ones((len(time_N), 1)))
    events, censored, at_risk = (part[:, 0] for part in counted)
    survival = _product(counted[0], counted[2])[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        logs = np.log(survival)
        half = norm.ppf(0.5 + confidence / 2) * np.sqrt(greenwood) / np.abs(logs)
        low, high = survival ** np.exp(half), survival ** np.exp(-half)
    inside = (survival > 0) & (survival < 1)
    low, high = (np.where(inside, end, np.nan) for end in (low, high))
    return KaplanMeier(rows.time, survival, low, high, censored)
