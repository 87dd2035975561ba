"""Metrics of subgroups: sex, bands of age, site, scanner, or any other column beside the predictions.

Each group is set against the rest of the rows, under the same draws of patients: so the difference has an interval.
Many groups mean many comparisons: one interval in twenty misses by chance alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.intervals.bootstrap import Units, percentile_interval, resample
from medsoft.evaluation.intervals.estimates import Estimate, estimates
from medsoft.evaluation.metrics.table import COUNTS
from medsoft.evaluation.metrics.thresholds import OperatingPoint
from medsoft.evaluation.metrics.weighted import Key, Measure, Values, weighted_metrics
from medsoft.evaluation.settings import Settings
from medsoft.task import Task

SMALL_ROWS, SMALL_CLASS = 30, 10
"""A group with fewer rows, or fewer positive or negative ones, is called small."""
MOST_VALUES = 8
MISSING = "(missing)"


@dataclass(frozen=True)
class GroupEstimate:
    """One metric of one group; a line of ``subgroups.csv``.

    Attributes:
        column: of the sample table.
        group: its value, or a band.
        n: rows of the group.
        n_patients: units of the group.
        n_positive: positive rows of a binary task, else None.
        estimate: the metric in the group.
        rest: the metric in the other rows; None where undefined.
        difference: group - rest; None where either is undefined.
        difference_low: lower end of its percentile interval.
        difference_high: upper end.
        note: what to beware of.
    """

    column: str
    group: str
    n: int
    n_patients: int
    n_positive: int | None
    estimate: Estimate
    rest: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    note: str

    def to_json(self) -> dict[str, Any]:
        """Plain values in one level."""
        about = {"column": self.column, "group": self.group, "n": self.n, "n_patients": self.n_patients}
        found = self.estimate.to_json() | {"estimate_note": self.estimate.note}
        against = {
            "rest": self.rest,
            "difference": self.difference,
            "difference_low": self.difference_low,
            "difference_high": self.difference_high,
            "note": self.note,
        }
        return about | {"n_positive": self.n_positive} | found | against


def group_columns(
    samples: pd.DataFrame,
    frame: pd.DataFrame,
    task: Task,
    columns: Sequence[str] | None,
    bands: Mapping[str, Sequence[float]],
) -> tuple[pd.DataFrame, list[str]]:
    """The columns to group by, as text for each row of the predictions, and notes on what was chosen.

    Args:
        samples: the sample table's columns for each row.
        frame: the predictions.
        task: their task.
        columns: which; by default all with 2 to 8 different values that do not give the target away.
        bands: limits of bands for columns of numbers: ``{"age": [50, 65]}`` makes < 50, 50 to < 65 and >= 65.

    Raises:
        InputError: a column does not exist, or has too many values and no bands.
    """
    notes = []
    for name in (*(columns or ()), *bands):
        if name not in samples:
            raise InputError(f"no column {name!r} to group by; there are {', '.join(map(str, samples))}")
    grouped = {name: _banded(samples[name], sorted(limits)) for name, limits in bands.items()}
    for name in bands:
        strange = samples[name][(samples[name] != "") & (grouped[name] == MISSING).to_numpy()]
        if len(strange):
            notes.append(f"{len(strange)} values of {name!r} are no numbers, such as {strange.iloc[0]!r}: {MISSING}")
    if columns is None:
        fit = [str(name) for name in samples if name not in bands and _is_group(samples[name], frame, task)]
        notes.append(f"groups by {', '.join(fit) or 'no column'}: those with 2 to {MOST_VALUES} values")
        columns = fit
    for name in columns:
        values = samples[name].where(samples[name] != "", MISSING)
        if name not in bands and values.nunique() > 4 * MOST_VALUES:
            raise InputError(
                f"column {name!r} has {values.nunique()} different values, too many for groups; for numbers say "
                f"limits: --bands '{{{name}: [50, 65]}}'"
            )
        grouped.setdefault(name, values)
    return pd.DataFrame(grouped, index=frame.index), notes


def _in_order(values: pd.Series) -> list[str]:
    """The groups: bands from the lowest, other values by name, the missing last."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return [name for name in values.cat.categories if (values == name).any()]
    return sorted(values.unique(), key=lambda name: (name == MISSING, name))


def _banded(values: pd.Series, limits: Sequence[float]) -> pd.Series:
    if not limits:
        raise InputError(f"no limits for the bands of {values.name!r}")
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    names = [f"< {limits[0]:g}", *(f"{a:g} to < {b:g}" for a, b in pairwise(limits))]
    names.append(f">= {limits[-1]:g}")
    which = np.searchsorted(np.asarray(limits, dtype=np.float64), numbers, side="right")
    banded = np.where(np.isnan(numbers), MISSING, np.array(names, dtype=object)[which])
    return pd.Series(pd.Categorical(banded, [*names, MISSING], ordered=True), index=values.index)


def _is_group(values: pd.Series, frame: pd.DataFrame, task: Task) -> bool:
    if not 2 <= values.nunique() <= MOST_VALUES:
        return False
    # A few patients are no groups, and the report must not name them.
    values = values.reset_index(drop=True)
    if any((values == frame[about].reset_index(drop=True)).all() for about in ("id", "patient", "exam")):
        return False
    if not task.exclusive:
        return True
    # A column that gives the target away (the label itself, a diagnosis) has groups of one class.
    target = frame["target"].reset_index(drop=True)
    return bool((target.groupby(values).nunique() > 1).all())


def subgroup_estimates(
    frame: pd.DataFrame,
    task: Task,
    units: Units,
    groups: pd.DataFrame,
    points: Sequence[OperatingPoint],
    settings: Settings,
) -> list[GroupEstimate]:
    """Metrics of every group of every column.

    Args:
        frame: rows with a target.
        task: their task.
        units: patients.
        groups: (N, columns) of text.
        points: operating points, locked.
        settings: of the evaluation.
    """
    masks: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}
    for column in map(str, groups):
        for value in _in_order(groups[column]):
            masks[(column, value)] = (groups[column] == value).to_numpy()
    sets: dict[bytes, list[Measure]] = {}
    for mask in masks.values():
        for rows in (mask, ~mask):
            if rows.any() and rows.tobytes() not in sets:
                sets[rows.tobytes()] = task.measures(frame[rows], units.of_row[rows], points)

    def statistic(weights: npt.NDArray[np.float64]) -> dict[tuple[bytes, Key], npt.NDArray[np.float64]]:
        return {
            (rows, key): value
            for rows, parts in sets.items()
            for key, value in weighted_metrics(parts, weights).items()
            if is_shown(key, task) or key.metric in COUNTS
        }

    if not sets:
        return []
    point = statistic(units.ones)
    drawn = resample(units, statistic, settings.draws, settings.seed)
    found = []
    for (column, value), mask in masks.items():
        inside: Values = {key: v for (rows, key), v in point.items() if rows == mask.tobytes()}
        drawn_inside = {key: drawn[mask.tobytes(), key] for key in inside}
        of_row = units.of_row[mask]
        clustered = len(np.unique(of_row)) < len(of_row)
        own = replace(units, of_row=of_row, clustered=clustered)
        thresholds = {(p.class_name, p.rule): p.threshold for p in points}
        n_positive = int((frame.loc[mask, "target"] == task.positive).sum()) if task.positive else None
        small = _small(int(mask.sum()), n_positive)
        for estimate in estimates(inside, drawn_inside, frame[mask], task, own, settings.confidence, thresholds):
            key = estimate.key
            if key.metric in COUNTS:
                continue
            other = ((~mask).tobytes(), key)
            rest = float(point[other][0]) if other in point else np.nan
            difference = low = high = None
            if estimate.value is not None and not np.isnan(rest):
                difference = estimate.value - rest
                low, high, *_ = percentile_interval(drawn_inside[key] - drawn[other], settings.confidence)
            against = (None if np.isnan(rest) else rest, difference, low, high)
            about = (column, value, int(mask.sum()), len(np.unique(of_row)), n_positive)
            found.append(GroupEstimate(*about, estimate, *against, small))
    return found


def is_shown(key: Key, task: Task) -> bool:
    """Whether it is one of the few metrics of a subgroup: of the whole table, for multilabel also of each label."""
    whole = task.several_columns or key.class_name in ("", task.positive)
    return key.metric in task.group_metrics and whole and key.average != "micro"


def _small(n: int, n_positive: int | None) -> str:
    if n_positive is not None and min(n_positive, n - n_positive) < SMALL_CLASS:
        return f"small group: {n_positive} positive and {n - n_positive} negative rows"
    return f"small group: {n} rows" if n < SMALL_ROWS else ""
