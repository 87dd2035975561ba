"""A metric as the mean over folds, with draws of patients that run through all folds.

In a cross-validation every patient is in one fold, and the draws are made within the folds. Where patients are in
several (repeats, or seeds with a test part each), a drawn patient counts in all of his folds alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.comparison.pairing import Model
from medsoft.evaluation.intervals.bootstrap import make_units, patients_of, resample
from medsoft.evaluation.metrics.by_name import Asked, wanted_key
from medsoft.evaluation.metrics.targets import targets
from medsoft.evaluation.metrics.weighted import weighted_metrics
from medsoft.evaluation.settings import Settings
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]


def mean_over_folds(
    models: Sequence[Model], task: Task, asked: Asked, settings: Settings
) -> tuple[dict[str, FloatArray], dict[str, FloatArray], list[str]]:
    """Each model's mean over its folds' own values of a metric.

    Folds in which a model has none (such as for want of a class) are left out for all models. So are, of a single draw,
    folds that have none in it: a rare class, or patients with rows of several classes, would else leave nearly every
    draw of several folds without a value, and the mean without an interval.

    Args:
        models: one or several, with the same samples in the same order, all with a target; the column ``fold`` says
            which model of a cross-validation predicted a row.
        task: theirs.
        asked: the metric.
        settings: of the bootstrap.

    Returns:
        By the model's name: the draws (B,), the same ones for all models, NaN where no fold has a value in a draw; and
        the value as it is (1,), NaN where no fold has one. Then the folds that were left out.

    Raises:
        InputError: the task has no such metric.
    """
    key = wanted_key(asked, task)
    first = models[0].frame
    task = task.asked_of(first, first.iloc[:0], replace(settings, times=() if key.time is None else (key.time,)))
    patients = patients_of(first)
    units = make_units(patients, strata_by_fold(first, task, patients, settings.stratify)[0])
    folds = {fold: np.flatnonzero(first["fold"] == fold) for fold in dict.fromkeys(first["fold"])}
    parts = {
        (model.name, fold): task.measures(
            model.frame.iloc[rows].reset_index(drop=True), patients[rows], model.points_of(fold)
        )
        for model in models
        for fold, rows in folds.items()
    }

    def values(model: Model, fold: str, weights_BU: FloatArray) -> FloatArray:
        undefined = np.full(len(weights_BU), np.nan)
        return weighted_metrics(parts[model.name, fold], weights_BU).get(key, undefined)

    as_it_is = {fold: [float(values(model, fold, units.ones)[0]) for model in models] for fold in folds}
    defined = [fold for fold, found in as_it_is.items() if not np.isnan(found).any()]
    kept = defined or list(folds)

    def statistic(weights_BU: FloatArray) -> dict[str, FloatArray]:
        values_MFB = np.array([[values(model, fold, weights_BU) for fold in kept] for model in models])
        has_value_FB = ~np.isnan(values_MFB).any(axis=0)
        count_B = has_value_FB.sum(axis=0)
        total_MB = np.where(has_value_FB, values_MFB, 0).sum(axis=1)
        mean_MB = np.where(count_B > 0, total_MB / np.maximum(count_B, 1), np.nan)
        return {model.name: mean_B for model, mean_B in zip(models, mean_MB, strict=True)}

    drawn = resample(units, statistic, settings.draws, settings.seed)
    return drawn, statistic(units.ones), [fold for fold in folds if fold not in kept]


def strata_by_fold(
    frame: pd.DataFrame, task: Task, patients: npt.NDArray[np.intp], by_class: bool
) -> tuple[npt.NDArray[np.intp] | None, str]:
    """Strata that keep the draws within the folds, and within the classes where that is asked for and can be.

    Args:
        frame: rows with a target.
        task: theirs.
        patients: (N,) index of each row's patient.
        by_class: whether to draw within the classes too.

    Returns:
        (N,) strata, or None for none; and what they are, in words. Folds count where each patient is in one of them (a
        cross-validation without repeats), classes where each patient has one.
    """
    fold, _ = pd.factorize(frame["fold"])
    candidates = {"fold": fold.astype(np.intp)}
    if by_class and task.exclusive:
        candidates["class"] = targets(frame, task)
    constant = {name: values for name, values in candidates.items() if _is_constant(values, patients)}
    if not constant:
        return None, "not stratified"
    strata, _ = pd.factorize(pd.MultiIndex.from_arrays(list(constant.values())))
    return strata.astype(np.intp), f"stratified by {' and '.join(constant)}"


def _is_constant(values: npt.NDArray[np.intp], patients: npt.NDArray[np.intp]) -> bool:
    of_patient = np.zeros(int(patients.max()) + 1, dtype=np.intp)
    of_patient[patients] = values
    return bool(np.array_equal(of_patient[patients], values))
