"""What is reported of one fold, split and level."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from medsoft.evaluation.abstention import Abstention
from medsoft.evaluation.intervals.curve import Curve
from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.metrics.calibration import Calibration
from medsoft.evaluation.subgroups import GroupEstimate
from medsoft.evaluation.survival.findings import SurvivalFindings
from medsoft.evaluation.tables.overlap import Overlap
from medsoft.task import Task


@dataclass(frozen=True)
class ClassCurves:
    """Curves of one class or label against the rest: ROC, net benefit as predicted and recalibrated (or None)."""

    roc: Curve
    net_benefit: Curve
    net_benefit_recalibrated: Curve | None
    prevalence: float


@dataclass(frozen=True)
class Part:
    """One fold, split and level.

    Attributes:
        fold: name; "" without folds.
        split: name; "all" for a table without splits.
        level: row, exam or patient.
        n: samples with a target, all of what follows.
        n_missing: samples without.
        n_mixed: exams or patients (multilabel: their targets) whose rows disagree; counted in ``n_missing`` too.
        n_patients: None where the table names none.
        n_per_class: samples of each class; for multilabel, that have the label; for survival, with the event and
            censored. Empty for regression.
        clustered: whether a patient has several samples here.
        bootstrap: what was drawn, in words.
        estimates: all metrics.
        calibration: by class or label, as predicted ("") and recalibrated.
        top_label_error: calibration error of the predicted class's probability, likewise; for several classes.
        curves: by class or label.
        risk_coverage: errors among the rows that are answered, by label, "" for the whole table; empty where nothing
            says how certain the answers are.
        froc: sensitivity against false positives per image, by class of boxes, "" for all together; else empty.
        groups: subgroups; by row only.
        abstention: what is left where the model abstains, by row; None for tables that say nothing of it.
        frame: the samples with a target, as a predictions table.
        recalibrated: the same with recalibrated probabilities, or None.
        notes: what to know before reading.
        task: the question, with what its metrics must know of these rows.
        survival: risk groups, calibration and curves over time; None where the task has no times.
        overlap: how many of the samples with a target chose the thresholds or the recalibration.
    """

    fold: str
    split: str
    level: str
    n: int
    n_missing: int
    n_mixed: int
    n_patients: int | None
    n_per_class: dict[str, int]
    clustered: bool
    bootstrap: str
    estimates: list[Estimate]
    calibration: dict[str, dict[str, Calibration]]
    top_label_error: dict[str, float]
    curves: dict[str, ClassCurves]
    risk_coverage: dict[str, Curve]
    groups: list[GroupEstimate]
    abstention: Abstention | None
    frame: pd.DataFrame
    recalibrated: pd.DataFrame | None
    notes: list[str]
    task: Task
    survival: SurvivalFindings | None = None
    overlap: Overlap = field(default_factory=Overlap)
    froc: dict[str, Curve] = field(default_factory=dict)

    def find(self, metric: str, **about: Any) -> Estimate | None:
        """The first estimate of a metric with these attributes, such as ``class_name="yes"``."""
        for found in self.estimates:
            if found.metric == metric and all(getattr(found, name) == value for name, value in about.items()):
                return found
        return None
