"""What metrics of survival must know beside the rows: times, where they end, and who was under observation how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsoft.evaluation.survival.product_limit import ProductLimit

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

LEFT_AT_TAU = 0.1
"""Share of the rows that are still at risk where Uno's C ends if nobody says where: later weights would be huge."""
ON_CURVE = 24
"""Times of the AUC's curve."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What happened to N samples.

    Attributes:
        time: (N,) above 0.
        event: (N,) bool, whether the event happened at that time; else the sample is censored there.
    """

    time: FloatArray
    event: BoolArray

    def __len__(self) -> int:
        return len(self.time)

    @property
    def event_times(self) -> FloatArray:
        """Times of the events."""
        return self.time[self.event]


@dataclass(frozen=True, eq=False)
class Basis:
    """What is the same for all draws, subgroups and folds of an evaluation.

    Attributes:
        tau: where Uno's C ends: events from there on are left out.
        times: at which AUC(t) is reported.
        training: who was under observation how long in the training part; None: the evaluated rows say it, in each
            draw anew.
        stated_tau: whether tau was stated.
    """

    tau: float
    times: tuple[float, ...]
    training: tuple[ProductLimit, FloatArray] | None = None
    stated_tau: bool = False

    @staticmethod
    def of(
        rows: Outcomes,
        training: Outcomes | None = None,
        times: Sequence[float] = (),
        tau: float | None = None,
    ) -> Basis:
        """Decide what was not stated.

        Args:
            rows: of the part, in all folds together.
            training: the training part of the fold; None or empty where it is not at hand.
            times: stated for AUC(t); if none, the quartiles of the event times.
            tau: stated end of Uno's C; if None, the last time at which a tenth of the rows is still at risk, here and
                in the training part.
        """
        training = training if training is not None and len(training) else None
        chosen = tau
        if chosen is None:
            known = [part for part in (rows, training) if part is not None and len(part)]
            chosen = min((_last_at_risk(part.time) for part in known), default=np.inf)
        if not times and len(happened := rows.event_times):
            quartiles = np.quantile(happened, [0.25, 0.5, 0.75], method="inverted_cdf")
            times = sorted({float(f"{time:.3g}") for time in quartiles})
        censoring = None
        if training is not None:
            estimator = ProductLimit(training.time, training.event)
            censoring = (estimator, estimator.censoring(np.ones((len(training), 1))))
        return Basis(float(chosen), tuple(times), censoring, tau is not None)

    def inverse(self, own: ProductLimit, own_steps_GB: FloatArray | None, time_T: FloatArray) -> FloatArray:
        """(T, B) or (T, 1): 1 / G at times; infinite or NaN where nobody is under observation any more.

        Args:
            own: the evaluated rows.
            own_steps_GB: their ``censoring``; not read where there is a training part.
            time_T: times.
        """
        if self.training is not None:
            estimator, steps = self.training
            found = estimator.at(steps, time_T)
            # Beyond the last time of the training part nobody knows how many would have been followed.
            beyond = (time_T > estimator.time[-1])[:, None]
            found = np.where(beyond & (found > 0), np.nan, found)
        else:
            assert own_steps_GB is not None
            found = own.at(own_steps_GB, time_T)
        with np.errstate(divide="ignore"):
            return np.asarray(1 / found)

    def said(self, unit: str) -> str:
        """Where censoring was estimated, and where Uno's C ends, in one sentence."""
        where = "the training part" if self.training is not None else "these rows, as there are none of a training part"
        how = "stated" if self.stated_tau else "the last time at which a tenth of the rows is at risk"
        at = f"{self.tau:.6g} {unit}".rstrip()
        return f"censoring (IPCW) is estimated on {where}; Uno's C ends at tau = {at} ({how})"


def curve_times(rows: Outcomes) -> FloatArray:
    """(T,) times of the AUC's curve: quantiles of the event times that leave events before and people after them."""
    happened = np.sort(rows.event_times)
    if len(happened) < 2:
        return np.zeros(0)
    inside = happened[happened < rows.time.max()]
    if not len(inside):
        return np.zeros(0)
    shares = np.linspace(0.05, 0.95, ON_CURVE)
    return np.unique(np.quantile(inside, shares, method="inverted_cdf"))


def _last_at_risk(time_N: FloatArray) -> float:
    """The last time at which a tenth of the rows is still at risk."""
    ordered = np.sort(time_N)
    return float(ordered[int(np.floor((1 - LEFT_AT_TAU) * (len(ordered) - 1)))])
