"""How survival is evaluated: its metrics, figures and sections, and what they must know beside the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from medsoft.evaluation.metrics.table import headline_of
from medsoft.evaluation.metrics.weighted import Key, Values
from medsoft.evaluation.survival.basis import Basis, Censoring, Outcomes
from medsoft.evaluation.survival.findings import SurvivalFindings, survival_findings
from medsoft.evaluation.survival.measures import Survived, why_undefined
from medsoft.evaluation.survival.risk_groups import RiskCut
from medsoft.task import Task
from medsoft.task_types import FloatArray, IntArray, Measure

if TYPE_CHECKING:
    from medsoft.evaluation.metrics.thresholds import OperatingPoint
    from medsoft.evaluation.settings import Settings


@dataclass(frozen=True)
class SurvivalEvaluation(Task):
    """What a survival task answers to an evaluation.

    Attributes:
        times: at which survival is stated, rising; none until the training part has decided.
        unit: of all times; "" where nobody said it.
        basis: what the metrics of some rows must know beside them; None where it follows from the rows.
    """

    times: tuple[float, ...] = ()
    unit: str = field(default="", compare=False)
    basis: Basis | None = field(default=None, kw_only=True, compare=False, repr=False)

    number_metrics = "survival"
    has_risk_groups = True
    metrics_title = "Survival"
    metrics = ("c_index", "uno_c", "integrated_brier", "auc_at", "brier_at")
    monitor = "c_index"
    skill = ("c_index", 0.5)
    key_metrics = ("c_index", "uno_c", "integrated_brier", "auc_at")
    group_metrics = ("c_index", "uno_c")
    figures = ("risk_groups", "survival_calibration", "over_time")
    table_figures = ()
    report_sections = ("figures", "survival", "metrics", "subgroups")
    glossary = ("c_index", "auc_at", "survival_brier", "survival_calibration", "risk_groups")

    @property
    def headline(self) -> tuple[str, ...]:
        return headline_of(self.metrics)

    def measures(
        self,
        frame: pd.DataFrame,
        unit_N: IntArray,
        points: Sequence[OperatingPoint] = (),
        prevalences: Sequence[float] = (),
        curves: bool = False,
    ) -> list[Measure]:
        outcomes = self.outcomes(frame)
        basis = self.basis or Basis.of(outcomes, times=self.times)
        risk_N = frame["risk"].to_numpy(np.float64)
        return [Survived(outcomes, risk_N, self._survival(frame), unit_N, basis, curves)]

    def outcomes(self, frame: pd.DataFrame) -> Outcomes:
        """Times and events of rows with a target."""
        time_N, event_N = self.targets(frame).T
        return Outcomes(time_N, event_N == 1)

    def _survival(self, frame: pd.DataFrame) -> dict[float, FloatArray]:
        """By time, predicted survival (N,) of the columns that there are."""
        names = {time: f"s_{plain_time(time)}" for time in self.times}
        return {time: frame[name].to_numpy(np.float64) for time, name in names.items() if name in frame}

    def tally(self, frame: pd.DataFrame) -> dict[str, int]:
        happened = int(self.outcomes(frame).event.sum())
        return {"events": happened, "censored": len(frame) - happened}

    def as_configured(self, data: Mapping[str, Any]) -> Self:
        return replace(self, unit=str(data.get("time_unit") or self.unit))

    def asked_of(
        self, rows: pd.DataFrame, training: pd.DataFrame, settings: Settings, kept: Sequence[Mapping[str, Any]] = ()
    ) -> Self:
        known, learnt = (self.outcomes(part[self.known(part)]) for part in (rows, training))
        censoring = [Censoring.from_json(one["censoring"]) for one in kept if "censoring" in one]
        mean = Censoring.mean(censoring) if censoring and len(censoring) == len(kept) else None
        return replace(self, basis=Basis.of(known, learnt, settings.times or self.times, settings.tau, mean))

    def why_undefined(self, key: Key, frame: pd.DataFrame) -> str:
        if not len(frame):
            return "no row has a target"
        outcomes = self.outcomes(frame)
        if key.time is not None and key.metric != "auc_at" and key.time not in self._survival(frame):
            return f"the table has no survival at {key.time:g} (a column s_{plain_time(key.time)})"
        return why_undefined(key, outcomes, self.basis or Basis.of(outcomes, times=self.times))

    def shared_with(self, other: Task) -> Self | None:
        """With the times that both have: a table of risks alone can be compared by its order."""
        if not isinstance(other, SurvivalEvaluation) or (self.unit and other.unit and self.unit != other.unit):
            return None
        return replace(self, times=tuple(time for time in self.times if time in other.times))

    def survival_findings(
        self, frame: pd.DataFrame, cut: RiskCut | None, point: Values, drawn: Values, clustered: bool, confidence: float
    ) -> SurvivalFindings:
        outcomes = self.outcomes(frame)
        basis = self.basis or Basis.of(outcomes, times=self.times)
        risk_N, survival = frame["risk"].to_numpy(np.float64), self._survival(frame)
        return survival_findings(
            outcomes,
            risk_N,
            survival,
            basis,
            cut,
            self.unit,
            point,
            drawn,
            clustered=clustered,
            confidence=confidence,
        )


def plain_time(time: float) -> str:
    """A time as columns and messages write it."""
    return f"{time:.10g}"
