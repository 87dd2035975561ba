"""Metrics of survival as functions of how often each unit was drawn: all of a table at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from medsoft.evaluation.metrics.weighted import Key, Values
from medsoft.evaluation.survival.at_times import AucAt, brier_at, integrated, observed_over_expected
from medsoft.evaluation.survival.basis import Basis, Outcomes, curve_times
from medsoft.evaluation.survival.concordance import Pairs, concordance
from medsoft.evaluation.survival.product_limit import ProductLimit

FloatArray = npt.NDArray[np.float64]


class Survived:
    """Harrell's and Uno's C, AUC(t), Brier(t), their integral, and observed over expected events.

    Args:
        outcomes: of N rows, at least one.
        risk_N: (N,) larger is worse.
        survival: by time, predicted survival (N,); empty where a model gives risks alone.
        unit_N: (N,) unit of each row.
        basis: times, tau and censoring.
        curves: whether to give ``auc_over_time`` (B, T) too.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        risk_N: FloatArray,
        survival: Mapping[float, FloatArray],
        unit_N: npt.NDArray[np.intp],
        basis: Basis,
        curves: bool = False,
    ) -> None:
        self._outcomes, self._survival, self._unit, self._basis = outcomes, survival, unit_N, basis
        self._rows = ProductLimit(outcomes.time, outcomes.event)
        self._pairs = Pairs(outcomes.time, outcomes.event, risk_N)
        self._auc = AucAt(outcomes.time, outcomes.event, risk_N)
        self._curve_times = curve_times(outcomes) if curves else np.zeros(0)

    @property
    def curve_times(self) -> FloatArray:
        """(T,) times of ``auc_over_time``."""
        return self._curve_times

    def __call__(self, weights_BU: FloatArray) -> Values:
        """Values (B,) under the weights of the units; NaN where undefined."""
        weights_NB = np.ascontiguousarray(weights_BU[:, self._unit].T)
        censoring = None if self._basis.training is not None else self._rows.censoring(weights_NB)
        inverse_NB = self._basis.inverse(self._rows, censoring, self._outcomes.time)
        values = self._concordance(weights_NB, inverse_NB)
        for time in self._basis.times:
            values[Key("auc_at", time=time)] = self._auc(time, weights_NB, inverse_NB)
        if len(self._curve_times):
            curve = [self._auc(float(time), weights_NB, inverse_NB) for time in self._curve_times]
            values[Key("auc_over_time")] = np.stack(curve, axis=1)
        return values | self._of_survival(weights_NB, inverse_NB, censoring)

    def _concordance(self, weights_NB: FloatArray, inverse_NB: FloatArray) -> Values:
        events, happened = self._pairs.events, self._outcomes.event_times
        concordant, comparable = self._pairs.sums(weights_NB)
        once = weights_NB[events]
        before = (happened < self._basis.tau)[:, None]
        with np.errstate(invalid="ignore", over="ignore"):
            inverse = np.where(before, inverse_NB[events] ** 2, 0.0)
            return {
                Key("c_index"): concordance(once, concordant, comparable),
                Key("uno_c"): concordance(once * inverse, concordant, comparable),
            }

    def _of_survival(self, weights_NB: FloatArray, inverse_NB: FloatArray, censoring: FloatArray | None) -> Values:
        """What needs predicted survival."""
        values: Values = {}
        if not self._survival:
            return values
        time_N, event_N = self._outcomes.time, self._outcomes.event
        times = np.array(list(self._survival))
        inverse_at = self._basis.inverse(self._rows, censoring, times)
        steps = self._rows.survival(weights_NB)
        scores = []
        for at, (time, survival_N) in enumerate(self._survival.items()):
            score = brier_at(time, survival_N, time_N, event_N, weights_NB, inverse_NB, inverse_at[at])
            values[Key("brier_at", time=time)] = score
            scores.append(score)
            values[Key("oe_at", time=time)] = observed_over_expected(time, survival_N, self._rows, weights_NB, steps)
        if len(scores) > 1:
            values[Key("integrated_brier")] = integrated(times, np.stack(scores))
        return values


def why_undefined(key: Key, outcomes: Outcomes, basis: Basis) -> str:
    """One sentence for a value that the rows cannot give."""
    happened, last = outcomes.event_times, outcomes.time.max()
    if not len(happened):
        return "no event: there is no pair to compare" if key.time is None else "no event"
    if key.metric == "uno_c" and not (happened < basis.tau).any():
        return f"no event before tau = {basis.tau:.6g}"
    if key.time is not None and key.metric == "auc_at" and not (happened <= key.time).any():
        return f"no event by {key.time:g}"
    beyond = key.time if key.time is not None else max(basis.times, default=0.0)
    if key.metric in ("auc_at", "brier_at", "oe_at", "integrated_brier") and last <= beyond:
        return f"nobody is followed beyond {beyond:g}"
    if key.metric == "c_index":
        return "no two samples can be compared: nobody is without the event after one had it"
    return "in the training part nobody is under observation as long as these"
