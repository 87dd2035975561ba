"""The bootstrap with patients as its unit: percentile intervals, seeded.

A draw takes as many patients as there are, with replacement, and a patient brings all of his rows. Where every
patient's label is constant the draw is stratified by it, so that each draw has the classes in the numbers of the data;
a patient with several labels has no stratum, and then nothing is stratified.
(B. Efron, R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.)

A draw is written down as how often each patient was taken. Statistics are functions of many draws at once, so that
2,000 draws are a few passes over arrays and not 2,000 calls.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.system.cores import usable_cores
from medsoft.task import Task
from medsoft.text.spelling import normal_form

FloatArray = npt.NDArray[np.float64]
Key = TypeVar("Key")
Statistic = Callable[[FloatArray], dict[Key, FloatArray]]
"""From how often each unit was taken, (B, U), to values of shape (B, ...); NaN where a draw cannot answer."""

CELLS_AT_ONCE = 100_000
"""Draws times rows of a chunk: its arrays then stay in a core's cache."""
LEAST_DEFINED = 0.9
"""Share of the draws that must have a value for an interval to be given."""
SAME_IN_EVERY_DRAW = "the same in every draw: the bootstrap has no interval"
FEW_UNITS = 20
"""With fewer patients, intervals are not to be trusted."""
FEW_OF_CLASS = 10
"""With fewer patients of a class, neither are those of what is about it: docs/experiments/intervals.md."""


@dataclass(frozen=True)
class Units:
    """Who is drawn.

    Attributes:
        of_row: (N,) index of the row's unit.
        stratum: (U,) stratum of each unit.
        stratified: whether there are several strata.
        clustered: whether a unit has several rows.
    """

    of_row: npt.NDArray[np.intp]
    stratum: npt.NDArray[np.intp]
    stratified: bool
    clustered: bool

    def __len__(self) -> int:
        return len(self.stratum)

    @property
    def ones(self) -> FloatArray:
        """(1, U): the data as they are, every unit once."""
        return np.ones((1, len(self)))


class Interval(NamedTuple):
    """A percentile interval, or none and the reason; ``undefined`` counts the draws without a value."""

    low: float | None
    high: float | None
    undefined: int
    note: str = ""


def patients_of(frame: pd.DataFrame) -> npt.NDArray[np.intp]:
    """(N,) index of each row's patient; a sample without a patient stands for itself, in all folds together.

    Patients whose names differ in writing only (007 and 7) are one.
    """
    keys = ("patient " + frame["patient"].map(normal_form)).where(frame["patient"] != "", "sample " + frame["id"])
    codes, _ = pd.factorize(keys)
    return codes.astype(np.intp)


def make_units(patient_N: npt.NDArray[np.intp], label_N: npt.NDArray[np.intp] | None = None) -> Units:
    """Units out of rows.

    Args:
        patient_N: (N,) indices from 0 without gaps.
        label_N: (N,) classes to stratify by, used where they are constant within every patient; None for no strata.
    """
    n_units = int(patient_N.max()) + 1 if len(patient_N) else 0
    stratum = np.zeros(n_units, dtype=np.intp)
    if label_N is not None:
        stratum[patient_N] = label_N
        if not np.array_equal(stratum[patient_N], label_N):
            stratum[:] = 0
    return Units(patient_N, stratum, len(np.unique(stratum)) > 1, n_units < len(patient_N))


def draws(units: Units, n_draws: int, seed: int) -> Iterator[FloatArray]:
    """How often each unit is taken, in chunks (B, U) of ``n_draws`` draws; the chunks do not change the numbers."""
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(units.stratum == name) for name in np.unique(units.stratum)]
    at_once = max(1, CELLS_AT_ONCE // max(len(units.of_row), 1))
    for start in range(0, n_draws, at_once):
        counts = np.zeros((min(at_once, n_draws - start), len(units)))
        for row in counts:
            for members in strata:
                n = len(members)
                row[members] = np.bincount(rng.integers(n, size=n), minlength=n)
        yield counts


def resample(units: Units, statistic: Statistic[Key], n_draws: int, seed: int) -> dict[Key, FloatArray]:
    """The statistic's values over all draws, (n_draws, ...) each; ``statistic`` is called from several threads.

    Raises:
        ValueError: there are no units, or no draws.
    """
    if not len(units) or n_draws < 1:
        raise ValueError(f"cannot draw {n_draws} times from {len(units)} units")

    def quietly(counts: FloatArray) -> dict[Key, FloatArray]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return statistic(counts)

    threads = _threads()
    parts: list[dict[Key, FloatArray]] = []
    with ThreadPoolExecutor(threads) as pool:
        # A few chunks ahead and no more: all draws of 100,000 rows together would take gigabytes.
        waiting: deque[Future[dict[Key, FloatArray]]] = deque()
        for counts in draws(units, n_draws, seed):
            waiting.append(pool.submit(quietly, counts))
            if len(waiting) > 2 * threads:
                parts.append(waiting.popleft().result())
        parts += [future.result() for future in waiting]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _threads() -> int:
    """As many as OMP_NUM_THREADS says, as for the libraries below, else as there are cores for this process."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else usable_cores()


def percentile_interval(values_B: FloatArray, confidence: float = 0.95) -> Interval:
    """The interval between two percentiles of the draws that have a value."""
    defined = values_B[np.isfinite(values_B)]
    undefined = len(values_B) - len(defined)
    if len(defined) < LEAST_DEFINED * len(values_B):
        return Interval(None, None, undefined, f"undefined in {undefined} of {len(values_B)} draws: no interval")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    if defined.min() == defined.max():
        return Interval(None, None, undefined, SAME_IN_EVERY_DRAW)
    return Interval(float(low), float(high), undefined)


def few_notes(known: pd.DataFrame, task: Task) -> list[str]:
    """A warning where there are too few patients, or too few of a class, for intervals and tests.

    Args:
        known: rows with a target; a row without a patient stands for itself.
        task: theirs.
    """
    named = known["patient"] != ""
    who = known["patient"].where(named, known["id"])
    n, what = who.nunique(), "patient" if named.any() else "row"
    if 0 < n < FEW_UNITS:
        return [f"{n} {what}{'s' if n > 1 else ''} only: intervals are too narrow to be trusted below {FEW_UNITS}"]
    counts = {name: who[rows].nunique() for name, rows in task.members(known).items()}
    few = [f"{count} of {name!r}" for name, count in counts.items() if 0 < count < FEW_OF_CLASS]
    if not few:
        return []
    return [
        f"few {what}s: {', '.join(few)}; intervals of what is about a class are too narrow to be trusted below "
        f"{FEW_OF_CLASS}"
    ]
