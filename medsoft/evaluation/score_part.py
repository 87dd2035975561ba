"""Evaluate the samples of one fold, split and level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.abstention import abstention
from medsoft.evaluation.detection.measures import CURVE, CURVE_RATES
from medsoft.evaluation.intervals.bootstrap import Units, few_notes, make_units, patients_of, resample
from medsoft.evaluation.intervals.curve import Curve, curve_of
from medsoft.evaluation.intervals.estimates import Estimate, estimates
from medsoft.evaluation.locked import Chosen
from medsoft.evaluation.metrics.calibration import Calibration, calibrate, top_label_error
from medsoft.evaluation.metrics.selective import COVERAGES, selective_measures
from medsoft.evaluation.metrics.targets import one_against_rest, probabilities, targets
from medsoft.evaluation.metrics.thresholds import OperatingPoint
from medsoft.evaluation.metrics.weighted import (
    FALSE_POSITIVE_RATES,
    NET_BENEFIT_THRESHOLDS,
    Key,
    Probabilistic,
    Ranked,
    Values,
    weighted_metrics,
)
from medsoft.evaluation.part import ClassCurves, Part
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.subgroups import GroupEstimate, subgroup_estimates
from medsoft.evaluation.tables.levels import Level
from medsoft.evaluation.tables.overlap import Overlap
from medsoft.evaluation.wording import counted
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]


def _units(known: pd.DataFrame, task: Task, settings: Settings) -> Units:
    labels = targets(known, task) if task.exclusive and settings.stratify else None
    return make_units(patients_of(known), labels)


def score_part(level: Level, task: Task, settings: Settings, chosen: Chosen, groups: pd.DataFrame | None) -> Part:
    """Evaluate one split at one level.

    Args:
        level: its samples.
        task: their task.
        settings: options.
        chosen: thresholds and recalibration; where samples here did the choosing, what they chose is not reported, or
            is marked as optimistic.
        groups: (N, columns) of text for subgroups, in the order of the samples.
    """
    known_N = task.known(level.frame)
    known = level.frame[known_N].reset_index(drop=True)
    units = _units(known, task, settings)
    overlap = chosen.overlap(known, task)
    hide = overlap.hides(settings.optimistic)
    points = [point for point in chosen.points if point.sensitivity is None or not hide]
    how = chosen.recalibration.method if chosen.recalibration and not hide else ""
    recalibrated = chosen.recalibration.apply_to(known, task) if chosen.recalibration and how else None
    parts = task.measures(known, units.of_row, points, settings.prevalences, curves=True)
    parts += selective_measures(known, task, units.of_row, level.name, settings.uncertainty)
    if recalibrated is not None:
        parts.append(Probabilistic(recalibrated, task, units.of_row, how))
    part = _empty_part(level, known_N, known, units, task)
    part.notes.extend(_choice_notes(chosen, overlap, hide))
    part = replace(part, overlap=overlap)
    if not len(known):
        return part
    point = weighted_metrics(parts, units.ones)
    drawn = resample(units, lambda weights: weighted_metrics(parts, weights), settings.draws, settings.seed)
    found = estimates(point, drawn, known, task, units, settings.confidence, chosen.thresholds)
    grouped = _groups(known, known_N, task, units, groups, points, settings)
    before = points
    if overlap.mark and not hide:
        found = [_marked(estimate, chosen, overlap.mark) for estimate in found]
        grouped = [_marked_group(group, chosen, overlap.mark) for group in grouped]
        before = [point for point in points if point.sensitivity is None]
    survival = task.survival_findings(known, chosen.risk_cut, point, drawn, units.clustered, settings.confidence)
    part.notes.extend(survival.notes if survival else ())
    aside = abstention(known, task, units, before, settings)
    part.notes.extend([aside.said()] if aside and aside.n_answered < aside.n else [])
    return replace(
        part,
        estimates=found,
        calibration=_calibration(known, recalibrated, how, task, units, settings),
        top_label_error=_top_label_errors(known, recalibrated, how, task),
        curves=_curves(point, drawn, known, recalibrated, task, units, settings.confidence),
        risk_coverage=_by_class(point, drawn, settings.confidence, "risk_coverage", COVERAGES),
        froc=_by_class(point, drawn, settings.confidence, CURVE, CURVE_RATES),
        groups=grouped,
        abstention=aside,
        recalibrated=recalibrated,
        survival=survival,
    )


def _groups(
    known: pd.DataFrame,
    known_N: npt.NDArray[np.bool_],
    task: Task,
    units: Units,
    groups: pd.DataFrame | None,
    points: Sequence[OperatingPoint],
    settings: Settings,
) -> list[GroupEstimate]:
    if groups is None:
        return []
    return subgroup_estimates(known, task, units, groups[known_N].reset_index(drop=True), points, settings)


def _empty_part(level: Level, known_N: npt.NDArray[np.bool_], known: pd.DataFrame, units: Units, task: Task) -> Part:
    """Counts and notes, without any value."""
    named = known["patient"] != ""
    notes = []
    if not len(known):
        notes.append("no row has a target: every metric is undefined")
    elif not named.any():
        notes.append("patients are not named: every row is taken as independent")
    elif not named.all():
        n_unnamed = int((~named).sum())
        stand = "stands for itself" if n_unnamed == 1 else "stand for themselves"
        notes.append(f"{counted(n_unnamed, 'row')} without a patient {stand}")
    notes.extend(few_notes(known, task))
    if level.n_mixed:
        several = "" if level.n_mixed == 1 else "s"
        what = f"{level.name}{several}"
        if task.several_columns:
            what = f"target{several} of {level.name}s"
        notes.append(f"{level.n_mixed} {what} left out, as their rows disagree about the target")
    if level.name != "row":
        what = "probabilities" if task.has_probabilities else "predictions"
        notes.append(f"one sample a{'n' if level.name == 'exam' else ''} {level.name}: mean of the {what} of its rows")
    stratified = ", stratified by class" if units.stratified else ", not stratified"
    return Part(
        fold="",
        split="",
        level=level.name,
        n=len(known),
        n_missing=int((~known_N).sum()),
        n_mixed=level.n_mixed,
        n_patients=len(units) if len(known) and named.any() else None,
        n_per_class=task.tally(known),
        clustered=units.clustered,
        bootstrap=f"{len(units)} {'patients' if named.any() else 'rows'}{stratified}",
        estimates=[],
        calibration={},
        top_label_error={},
        curves={},
        risk_coverage={},
        groups=[],
        abstention=None,
        frame=known,
        recalibrated=None,
        notes=notes,
        task=task,
    )


def _choice_notes(chosen: Chosen, overlap: Overlap, hide: bool) -> list[str]:
    notes = overlap.said()
    notes += [f"{point.class_name}, {point.rule}: {point.note}" for point in chosen.points if point.note and not hide]
    if hide:
        notes.append("thresholds and recalibration were chosen on these rows; what they give here is not reported")
    if chosen.recalibration and not hide:
        notes += chosen.recalibration.notes
    return notes


def _marked(estimate: Estimate, chosen: Chosen, mark: str) -> Estimate:
    """Mark a value that was chosen on the rows that it is about."""
    if not chosen.chose(estimate.rule, estimate.probabilities):
        return estimate
    return replace(estimate, note="; ".join(filter(None, (mark, estimate.note))))


def _marked_group(group: GroupEstimate, chosen: Chosen, mark: str) -> GroupEstimate:
    """The same for a subgroup."""
    if not chosen.chose(group.estimate.rule, group.estimate.probabilities):
        return group
    return replace(group, note="; ".join(filter(None, (mark, group.note))))


def _calibration(
    known: pd.DataFrame, recalibrated: pd.DataFrame | None, how: str, task: Task, units: Units, settings: Settings
) -> dict[str, dict[str, Calibration]]:
    found: dict[str, dict[str, Calibration]] = {}
    for name, table in (("", known), (how, recalibrated)):
        for question in one_against_rest(table, task) if table is not None else ():
            result = calibrate(
                question.truth,
                question.p,
                clustered=units.clustered,
                confidence=settings.confidence,
                seed=settings.seed,
            )
            if result is not None:
                found.setdefault(question.name, {})[name] = result
    return found


def _top_label_errors(known: pd.DataFrame, recalibrated: pd.DataFrame | None, how: str, task: Task) -> dict[str, float]:
    if task.thresholded or not task.has_classes:
        return {}
    tables = {"": known} | ({how: recalibrated} if recalibrated is not None else {})
    errors = {name: top_label_error(probabilities(t, task), targets(t, task)) for name, t in tables.items()}
    return {name: error for name, error in errors.items() if error is not None}


def _curves(
    point: Values,
    drawn: dict[Key, FloatArray],
    known: pd.DataFrame,
    recalibrated: pd.DataFrame | None,
    task: Task,
    units: Units,
    confidence: float,
) -> dict[str, ClassCurves]:
    after = {}
    if recalibrated is not None:
        after = weighted_metrics([Ranked(recalibrated, task, units.of_row, curves=True)], units.ones)
    curves = {}
    for question in one_against_rest(known, task):
        name = question.name
        if not 0 < question.truth.sum() < len(question.truth):
            continue
        roc = curve_of(FALSE_POSITIVE_RATES, point, drawn, Key("roc", name), confidence)
        benefit = curve_of(NET_BENEFIT_THRESHOLDS, point, drawn, Key("net_benefit", name), confidence)
        better = None
        if Key("net_benefit", name) in after:
            none = np.array([])
            better = Curve(NET_BENEFIT_THRESHOLDS, after[Key("net_benefit", name)][0], none, none)
        curves[name] = ClassCurves(roc, benefit, better, float(question.truth.mean()))
    return curves


def _by_class(
    point: Values, drawn: dict[Key, FloatArray], confidence: float, metric: str, x: FloatArray
) -> dict[str, Curve]:
    """The curves of a metric that is known at ``x``, by class."""
    keys = [key for key in point if key.metric == metric and not np.isnan(point[key]).any()]
    return {key.class_name: curve_of(x, point, drawn, key, confidence) for key in keys}
