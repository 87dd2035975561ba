"""What a model says of a stated time t: AUC(t), Brier(t), and observed against expected events.

Who was censored before t has no known answer. Those whose answer is known are weighted by one over the chance G of
being under observation until then (IPCW), so that they stand for the others too:

- Cumulative/dynamic AUC(t): the chance that who has the event by t has a larger risk than who is without it after t;
  events weigh 1 / G(t_i) (H. Uno et al., JASA 102, 2007; H. Hung, C.-T. Chiang, Canadian Journal of Statistics 38,
  2010).
- Brier(t): the mean of S(t)² / G(t_i) over those who had the event by t, and of (1 - S(t))² / G(t) over those without
  it after t (E. Graf et al., Statistics in Medicine 18, 1999, section 4). Its integral is the mean over a range of
  times, by trapezoids.
- Observed / expected: the share with the event by t by Kaplan and Meier, over the mean of 1 - S(t).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medsoft.evaluation.survival.product_limit import ProductLimit

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class AucAt:
    """AUC(t) by the order of the risks.

    Args:
        time_N: (N,) times above 0.
        event_N: (N,) whether the event happened.
        risk_N: (N,) larger is worse.
    """

    def __init__(self, time_N: FloatArray, event_N: BoolArray, risk_N: FloatArray) -> None:
        self._order = np.argsort(risk_N, kind="stable")
        self._time, self._event = time_N[self._order], event_N[self._order]
        sorted_risk = risk_N[self._order]
        self._below = np.searchsorted(sorted_risk, sorted_risk, side="left")
        self._upto = np.searchsorted(sorted_risk, sorted_risk, side="right")

    def __call__(self, time: float, weights_NB: FloatArray, inverse_NB: FloatArray) -> FloatArray:
        """(B,) AUC at one time; NaN where nobody has had the event, or nobody is left without.

        Args:
            time: t.
            weights_NB: (N, B) weights of the rows.
            inverse_NB: (N, B) or (N, 1) 1 / G(t_i).
        """
        cases = np.flatnonzero(self._event & (self._time <= time))
        controls = np.zeros((len(self._order) + 1, weights_NB.shape[1]))
        np.cumsum(weights_NB[self._order] * (self._time > time)[:, None], axis=0, out=controls[1:])
        of_cases = weights_NB[self._order[cases]] * inverse_NB[self._order[cases]]
        below = 0.5 * (controls[self._below[cases]] + controls[self._upto[cases]])
        pairs = of_cases.sum(axis=0) * controls[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            value: FloatArray = np.where(pairs > 0, (of_cases * below).sum(axis=0) / pairs, np.nan)
        return value


def brier_at(
    time: float,
    survival_N: FloatArray,
    time_N: FloatArray,
    event_N: BoolArray,
    weights_NB: FloatArray,
    inverse_NB: FloatArray,
    inverse_at_B: FloatArray,
) -> FloatArray:
    """(B,) Brier score at one time; NaN where nobody is followed beyond it.

    Args:
        time: t.
        survival_N: (N,) predicted S(t).
        time_N: (N,) times.
        event_N: (N,) whether the event happened.
        weights_NB: (N, B) weights of the rows.
        inverse_NB: (N, B) or (N, 1) 1 / G(t_i).
        inverse_at_B: (B,) or (1,) 1 / G(t).
    """
    cases, controls = np.flatnonzero(event_N & (time_N <= time)), time_N > time
    of_cases = (weights_NB[cases] * inverse_NB[cases] * survival_N[cases, None] ** 2).sum(axis=0)
    of_controls = ((1 - survival_N[controls, None]) ** 2 * weights_NB[controls]).sum(axis=0)
    followed = weights_NB[controls].sum(axis=0) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        both = of_cases + of_controls * inverse_at_B
        value: FloatArray = np.where(followed, both / weights_NB.sum(axis=0), np.nan)
    return np.where(np.isfinite(value), value, np.nan)


def integrated(times_T: FloatArray, brier_TB: FloatArray) -> FloatArray:
    """(B,) mean of Brier(t) between the first and the last time, by trapezoids; NaN where one is undefined."""
    value: FloatArray = np.trapezoid(brier_TB, times_T, axis=0) / (times_T[-1] - times_T[0])
    return value


def observed_over_expected(
    time: float, survival_N: FloatArray, rows: ProductLimit, weights_NB: FloatArray, steps_GB: FloatArray
) -> FloatArray:
    """(B,) observed over expected share with the event by a time; NaN where nobody is followed until then.

    Args:
        time: t.
        survival_N: (N,) predicted S(t).
        rows: the product-limit estimator of the rows.
        weights_NB: (N, B) weights of the rows.
        steps_GB: its ``survival`` under these weights.
    """
    observed_B = 1 - rows.at(steps_GB, [time])[0]
    followed_B = (weights_NB[rows.time[rows.group] >= time]).sum(axis=0) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        expected_B = ((1 - survival_N)[:, None] * weights_NB).sum(axis=0) / weights_NB.sum(axis=0)
        value: FloatArray = np.where(followed_B & (expected_B > 0), observed_B / expected_B, np.nan)
    return value
