"""What is reported of survival beside the metrics: risk groups, calibration at each time, and curves over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medsoft.evaluation.intervals.curve import Curve, curve_of
from medsoft.evaluation.metrics.weighted import Key, Values
from medsoft.evaluation.survival.basis import Basis, Outcomes, curve_times
from medsoft.evaluation.survival.calibration import CalibrationAt, calibration_at
from medsoft.evaluation.survival.product_limit import KaplanMeier, kaplan_meier
from medsoft.evaluation.survival.risk_groups import RiskCut, RiskGroups, choose_cut, risk_groups

FloatArray = npt.NDArray[np.float64]

FEW_EVENTS = 10
"""With fewer events, intervals are not to be trusted."""
ON_THESE_ROWS = "the cut is the median risk of these very rows, as no other rows could choose it"


@dataclass(frozen=True, eq=False)
class SurvivalFindings:
    """Of one fold, split and level.

    Attributes:
        unit: of times; "" where nobody said it.
        groups: by risk.
        whole: survival of all rows together.
        calibration: at each time at which survival was predicted.
        auc: AUC(t) over time; None where it is undefined.
        null_brier: by time, the Brier score of the same survival for everybody: that of all rows by Kaplan and Meier.
        notes: what to know before reading.
    """

    unit: str
    groups: RiskGroups
    whole: KaplanMeier
    calibration: tuple[CalibrationAt, ...]
    auc: Curve | None
    null_brier: dict[float, float]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; the curves of the groups have a table of their own."""
        return {
            "unit": self.unit,
            "risk_groups": self.groups.to_json(),
            "calibration": [found.to_json() for found in self.calibration],
            "auc_over_time": self.auc.to_json() if self.auc else None,
            "brier_of_kaplan_meier": [{"time": time, "brier": value} for time, value in self.null_brier.items()],
        }

    def calibration_rows(self) -> list[dict[str, Any]]:
        """A line a time and group."""
        return [
            {"time": found.time, "group": index, "n": group.n, "predicted": group.predicted}
            | {"observed": group.observed, "low": group.low, "high": group.high}
            for found in self.calibration
            for index, group in enumerate(found.groups, start=1)
        ]


def survival_findings(
    outcomes: Outcomes,
    risk_N: FloatArray,
    survival: Mapping[float, FloatArray],
    basis: Basis,
    cut: RiskCut | None,
    unit: str,
    point: Values,
    drawn: Values,
    *,
    clustered: bool = False,
    confidence: float = 0.95,
) -> SurvivalFindings:
    """Put together what is reported of N rows, at least one.

    Args:
        outcomes: of the rows.
        risk_N: (N,) larger is worse.
        survival: by time, predicted survival (N,).
        basis: of the metrics.
        cut: of the risk groups, chosen on other rows; None: at the median of these.
        unit: of times.
        point: values of the metrics (1, ...).
        drawn: the same over the draws (B, ...).
        clustered: whether a patient has several rows.
        confidence: of all intervals.
    """
    own = choose_cut(risk_N, "these rows")
    assert own is not None
    groups = risk_groups(outcomes, risk_N, cut or own, clustered, confidence, "" if cut else ON_THESE_ROWS)
    key = Key("auc_over_time")
    auc = None
    if key in point and np.isfinite(point[key][0]).any():
        auc = curve_of(curve_times(outcomes), point, drawn, key, confidence)
    whole = kaplan_meier(outcomes.time, outcomes.event, confidence)
    null = {time: value * (1 - value) for time in survival if (value := whole.at(time)[0]) is not None}
    return SurvivalFindings(
        unit,
        groups,
        whole,
        tuple(calibration_at(time, values, outcomes, confidence) for time, values in survival.items()),
        auc,
        null,
        tuple(_notes(outcomes, survival, basis, groups, unit, clustered)),
    )


def _notes(
    outcomes: Outcomes,
    survival: Mapping[float, FloatArray],
    basis: Basis,
    groups: RiskGroups,
    unit: str,
    clustered: bool,
) -> list[str]:
    notes = [basis.said(unit), f"risk groups: {groups.cut.said}" if not groups.note else f"risk groups: {groups.note}"]
    events = int(outcomes.event.sum())
    if 0 < events < FEW_EVENTS:
        notes.append(f"{events} events only: intervals are too narrow to be trusted below {FEW_EVENTS}")
    if not survival:
        notes.append(
            "the table gives risks alone: Brier scores, observed / expected and calibration need predicted survival "
            "at times, columns such as s_365"
        )
    if clustered:
        notes.append("a patient has several rows: bands of the survival curves take these as independent")
    return notes
