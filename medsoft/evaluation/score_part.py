"""Evaluate the samples of one fold, split and level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.abstention import abstention
from medsoft.evaluation.arrays import has_target, one_against_rest, probabilities, targets
from medsoft.evaluation.bootstrap import Units, make_units, patients_of, resample
from medsoft.evaluation.calibration import Calibration, calibrate, top_label_error
from medsoft.evaluation.estimates import Estimate, estimates
from medsoft.evaluation.levels import Level
from medsoft.evaluation.locked import OPTIMISTIC, Chosen
from medsoft.evaluation.part import ClassCurves, Curve, Part
from medsoft.evaluation.regression import Measured
from medsoft.evaluation.scorecard import (
    FALSE_POSITIVE_RATES,
    NET_BENEFIT_THRESHOLDS,
    Classified,
    Key,
    Measure,
    Probabilistic,
    Ranked,
    Values,
    scorecard,
)
from medsoft.evaluation.selective import COVERAGES, selective_measures
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.subgroups import GroupEstimate, subgroup_estimates
from medsoft.evaluation.thresholds import OperatingPoint
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]
FEW_UNITS = 20
"""With fewer patients, intervals are not to be trusted."""
FEW_OF_CLASS = 10
"""With fewer patients of a class, neither are those of what is about it: docs/evaluation.md, Coverage."""


def _units(known: pd.DataFrame, task: Task | None, settings: Settings) -> Units:
    several_labels = task is None or task.kind == "multilabel"
    labels = targets(known, task) if task is not None and not several_labels and settings.stratify else None
    return make_units(patients_of(known), labels)


def score_part(
    level: Level, task: Task, settings: Settings, chosen: Chosen, own: bool, groups: pd.DataFrame | None
) -> Part:
    """Evaluate one split at one level.

    Args:
        level: its samples.
        task: their task.
        settings: options.
        chosen: thresholds and recalibration.
        own: whether these samples did the choosing; what was chosen is then not reported, or marked as optimistic.
        groups: (N, columns) of text for subgroups, in the order of the samples.
    """
    known_N = has_target(level.frame, task)
    known = level.frame[known_N].reset_index(drop=True)
    units = _units(known, task, settings)
    hide = own and not settings.optimistic
    points = [point for point in chosen.points if point.sensitivity is None or not hide]
    how = chosen.recalibration.method if chosen.recalibration and not hide else ""
    recalibrated = chosen.recalibration.apply_to(known, task) if chosen.recalibration and how else None
    parts: list[Measure] = [
        Ranked(known, task, units.of_row, points, settings.prevalences, curves=True),
        Probabilistic(known, task, units.of_row),
    ]
    if task.kind in ("multiclass", "ordinal"):
        parts.append(Classified(known, task, units.of_row, settings.prevalences))
    parts += selective_measures(known, task, units.of_row, level.name, settings.uncertainty)
    if recalibrated is not None:
        parts.append(Probabilistic(recalibrated, task, units.of_row, how))
    part = _empty_part(level, known_N, known, units, task)
    part.notes.extend(_choice_notes(chosen, own, hide))
    if not len(known):
        return part
    point = scorecard(parts, units.ones)
    drawn = resample(units, lambda weights: scorecard(parts, weights), settings.draws, settings.seed)
    found = estimates(point, drawn, known, task, units, settings.confidence, chosen.thresholds)
    grouped = _groups(known, known_N, task, units, groups, points, settings)
    before = points
    if own and settings.optimistic:
        found = [_marked(estimate, chosen) for estimate in found]
        grouped = [_marked_group(group, chosen) for group in grouped]
        before = [point for point in points if point.sensitivity is None]
    aside = abstention(known, task, units, before, settings)
    part.notes.extend([aside.said()] if aside else [])
    return replace(
        part,
        estimates=found,
        calibration=_calibration(known, recalibrated, how, task, units, settings),
        top_label_error=_top_label_errors(known, recalibrated, how, task),
        curves=_curves(point, drawn, known, recalibrated, task, units, settings.confidence),
        risk_coverage=_risk_coverage(point, drawn, settings.confidence),
        groups=grouped,
        abstention=aside,
        recalibrated=recalibrated,
    )


def score_regression(level: Level, settings: Settings, groups: pd.DataFrame | None) -> Part:
    """Evaluate one split of a regression at one level; arguments as for ``score_part``."""
    known_N = level.frame["target"].notna().to_numpy()
    known = level.frame[known_N].reset_index(drop=True)
    units = _units(known, None, settings)
    part = _empty_part(level, known_N, known, units, None)
    if not len(known):
        return part
    parts: list[Measure] = [Measured(known, units.of_row)]
    parts += selective_measures(known, None, units.of_row, level.name, settings.uncertainty)
    point = scorecard(parts, units.ones)
    drawn = resample(units, lambda weights: scorecard(parts, weights), settings.draws, settings.seed)
    found = estimates(point, drawn, known, None, units, settings.confidence, {})
    aside = abstention(known, None, units, (), settings)
    part.notes.extend([aside.said()] if aside else [])
    return replace(
        part,
        estimates=found,
        risk_coverage=_risk_coverage(point, drawn, settings.confidence),
        groups=_groups(known, known_N, None, units, groups, (), settings),
        abstention=aside,
    )


def _groups(
    known: pd.DataFrame,
    known_N: npt.NDArray[np.bool_],
    task: Task | None,
    units: Units,
    groups: pd.DataFrame | None,
    points: Sequence[OperatingPoint],
    settings: Settings,
) -> list[GroupEstimate]:
    if groups is None:
        return []
    return subgroup_estimates(known, task, units, groups[known_N].reset_index(drop=True), points, settings)


def _empty_part(
    level: Level, known_N: npt.NDArray[np.bool_], known: pd.DataFrame, units: Units, task: Task | None
) -> Part:
    """Counts and notes, without any value."""
    named = known["patient"] != ""
    notes = []
    if not len(known):
        notes.append("no row has a target: every metric is undefined")
    elif not named.any():
        notes.append("patients are not named: every row is taken as independent")
    elif not named.all():
        notes.append(f"{int((~named).sum())} rows without a patient stand for themselves")
    if 0 < len(units) < FEW_UNITS:
        what = ("patient" if named.any() else "row") + ("s" if len(units) > 1 else "")
        notes.append(f"{len(units)} {what} only: intervals are too narrow to be trusted below {FEW_UNITS}")
    elif task is not None and task.kind != "multilabel":
        notes.extend(_few_of_a_class(known, task))
    if level.n_mixed:
        what = f"targets of {level.name}s" if task and task.kind == "multilabel" else f"{level.name}s"
        notes.append(f"{level.n_mixed} {what} are left out: their rows disagree about the target")
    if level.name != "row":
        what = "predictions" if task is None else "probabilities"
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
        n_per_class=_n_per_class(known, task),
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
    )


def _n_per_class(known: pd.DataFrame, task: Task | None) -> dict[str, int]:
    if task is None:
        return {}
    target = targets(known, task)
    if task.kind == "multilabel":
        counts = (target == 1).sum(axis=0)
    else:
        counts = np.bincount(target, minlength=len(task.classes))
    return {name: int(count) for name, count in zip(task.classes, counts, strict=True)}


def _few_of_a_class(known: pd.DataFrame, task: Task) -> list[str]:
    named = known["patient"] != ""
    who, codes = known["patient"].where(named, known["id"]), targets(known, task)
    counts = {name: who[codes == code].nunique() for code, name in enumerate(task.classes)}
    few = [f"{n} of {name!r}" for name, n in counts.items() if 0 < n < FEW_OF_CLASS]
    if not few:
        return []
    what = "patients" if named.any() else "rows"
    return [
        f"few {what}: {', '.join(few)}; intervals of what is about a class are too narrow to be trusted below "
        f"{FEW_OF_CLASS}"
    ]


def _choice_notes(chosen: Chosen, own: bool, hide: bool) -> list[str]:
    notes = [
        f"{point.class_name}, {point.rule}: {point.note}"
        for point in chosen.points
        if point.note and not (own and hide)
    ]
    if own and hide and (chosen.recalibration or any(point.sensitivity is not None for point in chosen.points)):
        notes.append("thresholds and recalibration were chosen on these rows; what they give here is not reported")
    if chosen.recalibration and not hide:
        notes += chosen.recalibration.notes
    return notes


def _marked(estimate: Estimate, chosen: Chosen) -> Estimate:
    """Mark a value that was chosen on the rows that it is about."""
    if not chosen.chose(estimate.rule, estimate.probabilities):
        return estimate
    return replace(estimate, note="; ".join(filter(None, (OPTIMISTIC, estimate.note))))


def _marked_group(group: GroupEstimate, chosen: Chosen) -> GroupEstimate:
    """The same for a subgroup."""
    if not chosen.chose(group.estimate.rule, group.estimate.probabilities):
        return group
    return replace(group, note="; ".join(filter(None, (OPTIMISTIC, group.note))))


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
    if task.kind not in ("multiclass", "ordinal"):
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
        after = scorecard([Ranked(recalibrated, task, units.of_row, curves=True)], units.ones)
    curves = {}
    for question in one_against_rest(known, task):
        name = question.name
        if not 0 < question.truth.sum() < len(question.truth):
            continue
        roc = _curve(FALSE_POSITIVE_RATES, point, drawn, Key("roc", name), confidence)
        benefit = _curve(NET_BENEFIT_THRESHOLDS, point, drawn, Key("net_benefit", name), confidence)
        better = None
        if Key("net_benefit", name) in after:
            none = np.array([])
            better = Curve(NET_BENEFIT_THRESHOLDS, after[Key("net_benefit", name)][0], none, none)
        curves[name] = ClassCurves(roc, benefit, better, float(question.truth.mean()))
    return curves


def _risk_coverage(point: Values, drawn: dict[Key, FloatArray], confidence: float) -> dict[str, Curve]:
    keys = [key for key in point if key.metric == "risk_coverage"]
    return {key.class_name: _curve(COVERAGES, point, drawn, key, confidence) for key in keys}


def _curve(x: FloatArray, point: Values, drawn: dict[Key, FloatArray], key: Key, confidence: float) -> Curve:
    defined = drawn[key][np.isfinite(drawn[key]).all(axis=1)]
    if not len(defined):
        return Curve(x, point[key][0], np.array([]), np.array([]))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Curve(x, point[key][0], low, high)
