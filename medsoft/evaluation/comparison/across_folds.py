"""A procedure judged over the folds of a cross-validation: the mean of the folds' own values, and the pooled value.

Each fold is a model of its own, so that the primary figure is the mean over folds of a metric within each. Its interval
comes from draws of patients within the folds; it is about the patients, with the models as they are, and holds nothing
of the chance in training. How far folds lie apart is the standard deviation beside it, which is no standard error:
folds share their training data (Y. Bengio, Y. Grandvalet, JMLR 5, 2004).

The pooled value puts the scores of all models into one table, as if one model had given them. Models that are
calibrated differently then spoil each other's order (T. Fawcett, Pattern Recognition Letters 27, 2006, section 8;
G. Forman, M. Scholz, ACM SIGKDD Explorations 12, 2010). It is shown beside, and labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.comparison.mean_over_folds import strata_by_fold
from medsoft.evaluation.intervals.bootstrap import Units, make_units, patients_of, percentile_interval, resample
from medsoft.evaluation.intervals.estimates import Estimate, estimates
from medsoft.evaluation.locked import Locked
from medsoft.evaluation.metrics.selective import selective_measures
from medsoft.evaluation.metrics.table import COUNTS, CURVES
from medsoft.evaluation.metrics.thresholds import OperatingPoint, at_half
from medsoft.evaluation.metrics.weighted import Key, Measure, Probabilistic, Values, weighted_metrics
from medsoft.evaluation.part import Part
from medsoft.evaluation.settings import Settings
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]
MIXES = "pooled: mixes the scores of different models in one table"


@dataclass(frozen=True)
class FoldsEstimate:
    """A metric over folds; a line of ``cross_validation.csv``.

    Attributes:
        metric: its name; the next five as in ``Estimate``.
        value: mean of the folds' own values; None where no fold has one.
        low: lower end of its percentile interval, patients drawn within folds.
        high: its upper end.
        undefined_draws: draws of the bootstrap without a value.
        n_folds: folds that have a value.
        undefined_folds: names of those that have none, and are left out of the mean.
        sd: standard deviation of the folds' values (n - 1); None with fewer than two.
        lowest: of the folds' values.
        highest: of the folds' values.
        pooled: the value of all rows in one table; None where undefined or where each fold has a threshold of its own.
        pooled_low: lower end of its interval.
        pooled_high: its upper end.
        pooled_method: of that interval.
        note: why there is no value or interval, or what to beware of.
        time: as in ``Estimate``.
    """

    metric: str
    class_name: str
    average: str
    rule: str
    prevalence: float | None
    probabilities: str
    value: float | None
    low: float | None
    high: float | None
    undefined_draws: int
    n_folds: int
    undefined_folds: tuple[str, ...]
    sd: float | None
    lowest: float | None
    highest: float | None
    pooled: float | None
    pooled_low: float | None
    pooled_high: float | None
    pooled_method: str
    note: str
    time: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``class_name`` is called ``class``, and the folds without a value are one text."""
        values = asdict(self) | {"undefined_folds": ", ".join(self.undefined_folds)}
        if self.time is None:
            del values["time"]
        return {"class" if name == "class_name" else name: value for name, value in values.items()}


@dataclass(frozen=True)
class AcrossFolds:
    """All metrics of one split at one level over the folds.

    Attributes:
        split: name; "all" for a table without splits.
        level: row, exam or patient.
        n_per_fold: samples with a target, by fold.
        n_patients: units that were drawn, in all folds together.
        bootstrap: what was drawn, in words.
        estimates: of all metrics.
        notes: what to know before reading.
    """

    split: str
    level: str
    n_per_fold: dict[str, int]
    n_patients: int
    bootstrap: str
    estimates: list[FoldsEstimate]
    notes: list[str]

    def find(self, metric: str, **about: Any) -> FoldsEstimate | None:
        """The first estimate of a metric with these attributes, such as ``class_name="yes"``."""
        for found in self.estimates:
            if found.metric == metric and all(getattr(found, name) == value for name, value in about.items()):
                return found
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"estimates": [estimate.to_json() for estimate in self.estimates]}


def across_folds(parts: Sequence[Part], task: Task, settings: Settings, locked: Locked | None) -> list[AcrossFolds]:
    """Summarise parts of several folds, each split and level by itself; empty where no split has two folds.

    Args:
        parts: of an evaluation.
        task: theirs.
        settings: of the bootstrap.
        locked: thresholds of each fold.
    """
    found = []
    for split, level in dict.fromkeys((part.split, part.level) for part in parts):
        same = [part for part in parts if (part.split, part.level) == (split, level) and part.n]
        if len(same) > 1:
            found.append(_summary(same, task, settings, locked))
    return found


def _summary(parts: list[Part], task: Task, settings: Settings, locked: Locked | None) -> AcrossFolds:
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    fold_of_row = np.repeat([part.fold for part in parts], [part.n for part in parts])
    patients = patients_of(frame)
    strata, stratified = strata_by_fold(frame.assign(fold=fold_of_row), task, patients, settings.stratify)
    units = make_units(patients, strata)
    cards = {
        part.fold: _measures(
            part, task, patients[fold_of_row == part.fold], _points(part, locked, settings.optimistic), settings
        )
        for part in parts
    }
    own = {fold: weighted_metrics(card, units.ones) for fold, card in cards.items()}
    keys = [
        key
        for key in dict.fromkeys(key for values in own.values() for key in values)
        if key.metric not in (*COUNTS, *CURVES)
    ]
    defined = {key: [fold for fold, v in own.items() if key in v and np.isfinite(v[key]).all()] for key in keys}

    def means(weights_BU: FloatArray) -> dict[Key, FloatArray]:
        values = {fold: weighted_metrics(card, weights_BU) for fold, card in cards.items()}
        return {key: np.mean([values[fold][key] for fold in folds], axis=0) for key, folds in defined.items() if folds}

    drawn = resample(units, means, settings.draws, settings.seed)
    pooled = _pooled(frame, task, units, settings)
    estimates_ = [
        _estimate(key, {f: float(own[f][key][0]) for f in defined[key]}, list(own), drawn, pooled.get(key), settings)
        for key in keys
    ]
    estimates_ = [_marked(estimate, parts, locked) for estimate in estimates_]
    named = bool((frame["patient"] != "").any())
    return AcrossFolds(
        split=parts[0].split,
        level=parts[0].level,
        n_per_fold={part.fold: part.n for part in parts},
        n_patients=len(units),
        bootstrap=f"{len(units)} {'patients' if named else 'rows'}, {stratified}",
        estimates=estimates_,
        notes=_notes(parts, task),
    )


def _marked(estimate: FoldsEstimate, parts: Sequence[Part], locked: Locked | None) -> FoldsEstimate:
    """Mark a value that was chosen, in a fold, on the rows that it is about."""
    for part in parts if locked else ():
        assert locked is not None
        rests = locked.find(part.fold, part.level).chose(estimate.rule, estimate.probabilities)
        if rests and part.overlap.mark:
            return replace(estimate, note="; ".join(filter(None, (part.overlap.mark, estimate.note))))
    return estimate


def _points(part: Part, locked: Locked | None, optimistic: bool) -> list[OperatingPoint]:
    """The fold's thresholds without those that are hidden, as its own rows chose them."""
    points = locked.find(part.fold, part.level).points if locked else ()
    hide = part.overlap.hides(optimistic)
    return [point for point in points if point.sensitivity is None or not hide]


def _measures(
    part: Part,
    task: Task,
    unit_N: npt.NDArray[np.intp],
    points: Sequence[OperatingPoint],
    settings: Settings,
) -> list[Measure]:
    found = part.task.measures(part.frame, unit_N, points, settings.prevalences)
    found += selective_measures(part.frame, task, unit_N, part.level, settings.uncertainty)
    if part.recalibrated is not None:
        methods = {estimate.probabilities for estimate in part.estimates} - {""}
        found += [Probabilistic(part.recalibrated, task, unit_N, how) for how in methods]
    return found


def _pooled(frame: pd.DataFrame, task: Task, units: Units, settings: Settings) -> dict[Key, Estimate]:
    """All rows as if they were one model's, at the thresholds that all models share."""
    fixed = at_half(task)
    task = task.asked_of(frame, frame.iloc[:0], settings)
    card = task.measures(frame, units.of_row, fixed)
    point: Values = weighted_metrics(card, units.ones)
    drawn = resample(units, lambda weights: weighted_metrics(card, weights), settings.draws, settings.seed)
    thresholds = {(p.class_name, p.rule): p.threshold for p in fixed}
    found = estimates(point, drawn, frame, task, units, settings.confidence, thresholds)
    return {estimate.key: estimate for estimate in found}


def _estimate(
    key: Key,
    values: Mapping[str, float],
    folds: Sequence[str],
    drawn: Mapping[Key, FloatArray],
    pooled: Estimate | None,
    settings: Settings,
) -> FoldsEstimate:
    undefined = tuple(fold for fold in folds if fold not in values)
    numbers = np.array(list(values.values()))
    value = float(numbers.mean()) if len(numbers) else None
    low = high = None
    undefined_draws, notes = 0, []
    if undefined:
        notes.append(f"undefined in {len(undefined)} of {len(folds)} folds, which are left out")
    if len(numbers):
        interval = percentile_interval(drawn[key], settings.confidence)
        low, high, undefined_draws = interval.low, interval.high, interval.undefined
        notes += [interval.note] if interval.note else []
    return FoldsEstimate(
        *key[:6],
        value=value,
        low=low,
        high=high,
        undefined_draws=undefined_draws,
        n_folds=len(numbers),
        undefined_folds=undefined,
        sd=float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        lowest=float(numbers.min()) if len(numbers) else None,
        highest=float(numbers.max()) if len(numbers) else None,
        pooled=pooled.value if pooled else None,
        pooled_low=pooled.low if pooled else None,
        pooled_high=pooled.high if pooled else None,
        pooled_method=pooled.method if pooled else "",
        note="; ".join(notes),
        time=key.time,
    )


def _notes(parts: Sequence[Part], task: Task) -> list[str]:
    notes = [MIXES]
    for name in task.classes:
        without = [part.fold for part in parts if not part.n_per_class[name]]
        if without:
            notes.append(
                f"{name!r} has no row in {len(without)} of {len(parts)} folds ({', '.join(without)}): what is about it "
                "is left out there, and macro means of these folds are without it"
            )
    return notes
