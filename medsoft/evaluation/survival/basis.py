"""What metrics of survival must know beside the rows: times, where they end, and who was under observation how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
class Censoring:
    """Who was under observation how long among some rows, as a step function.

    Attributes:
        time: (G,) times at which rows were censored, rising.
        followed: (G,) the chance P(C > t) of being under observation from each on; 1 before the first.
        last: the last time of all rows: nothing is known beyond it, unless ``followed`` has come down to 0.
        tenth: the last time at which a tenth of the rows is still at risk.
    """

    time: FloatArray
    followed: FloatArray
    last: float
    tenth: float

    @staticmethod
    def of(rows: Outcomes) -> Censoring:
        """Of rows, at least one."""
        estimator = ProductLimit(rows.time, rows.event)
        steps = estimator.censoring(np.ones((len(rows), 1)))[:, 0]
        falls = np.diff(steps, prepend=1.0) != 0
        return Censoring(estimator.time[falls], steps[falls], float(rows.time.max()), _last_at_risk(rows.time))

    @staticmethod
    def mean(several: Sequence[Censoring]) -> Censoring:
        """The mean over the members of an ensemble, each of which has a training part of its own."""
        if len(several) == 1:
            return several[0]
        time = np.unique(np.concatenate([one.time for one in several]))
        followed = np.mean([one._steps(time) for one in several], axis=0)
        return Censoring(time, followed, min(one.last for one in several), min(one.tenth for one in several))

    def _steps(self, time_T: FloatArray) -> FloatArray:
        found: FloatArray = np.concatenate([[1.0], self.followed])[np.searchsorted(self.time, time_T, side="right")]
        return found

    def at(self, time_T: FloatArray) -> FloatArray:
        """(T,) P(C > t); NaN where nobody knows how many would have been followed."""
        found = self._steps(time_T)
        return np.where((time_T > self.last) & (found > 0), np.nan, found)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "time": self.time.tolist(),
            "followed": self.followed.tolist(),
            "last": self.last,
            "tenth": self.tenth,
        }

    @staticmethod
    def from_json(known: Mapping[str, Any]) -> Censoring:
        """What ``to_json`` gave."""
        time, followed = (np.array(known[name], dtype=np.float64) for name in ("time", "followed"))
        return Censoring(time, followed, float(known["last"]), float(known["tenth"]))


@dataclass(frozen=True, eq=False)
class Basis:
    """What is the same for all draws, subgroups and folds of an evaluation.

    Attributes:
        tau: where Uno's C ends: events from there on are left out.
        times: at which AUC(t) is reported.
        training: who was under observation how long in the training part; None: the evaluated rows say it, in each
            draw anew.
        stated_tau: whether tau was stated.
        kept: whether ``training`` was kept with the model; else the rows of the training part are in the table.
    """

    tau: float
    times: tuple[float, ...]
    training: Censoring | None = None
    stated_tau: bool = False
    kept: bool = False

    @staticmethod
    def of(
        rows: Outcomes,
        training: Outcomes | None = None,
        times: Sequence[float] = (),
        tau: float | None = None,
        kept: Censoring | None = None,
    ) -> Basis:
        """Decide what was not stated.

        Args:
            rows: of the part, in all folds together.
            training: the training part of the fold; None or empty where it is not at hand.
            times: stated for AUC(t); if none, the quartiles of the event times.
            tau: stated end of Uno's C; if None, the last time at which a tenth of the rows is still at risk, here and
                in the training part.
            kept: what the model has kept of its training part, for where its rows are not at hand.
        """
        at_hand = training is not None and len(training) > 0
        censoring = Censoring.of(training) if training is not None and at_hand else kept
        chosen = tau
        if chosen is None:
            ends = [_last_at_risk(rows.time)] if len(rows) else []
            chosen = min([*ends, *([] if censoring is None else [censoring.tenth])], default=np.inf)
        if not times and len(happened := rows.event_times):
            quartiles = np.quantile(happened, [0.25, 0.5, 0.75], method="inverted_cdf")
            times = sorted({float(f"{time:.3g}") for time in quartiles})
        return Basis(float(chosen), tuple(times), censoring, tau is not None, not at_hand)

    def inverse(self, own: ProductLimit, own_steps_GB: FloatArray | None, time_T: FloatArray) -> FloatArray:
        """(T, B) or (T, 1): 1 / G at times; infinite or NaN where nobody is under observation any more.

        Args:
            own: the evaluated rows.
            own_steps_GB: their ``censoring``; not read where there is a training part.
            time_T: times.
        """
        if self.training is not None:
            found = self.training.at(time_T)[:, None]
        else:
            assert own_steps_GB is not None
            found = own.at(own_steps_GB, time_T)
        with np.errstate(divide="ignore"):
            return np.asarray(1 / found)

    def said(self, unit: str) -> str:
        """Where censoring was estimated, and where Uno's C ends, in one sentence."""
        where = "these rows, as nothing of a training part is at hand"
        if self.training is not None:
            where = "the training part" + (", as kept with the model" if self.kept else "")
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
