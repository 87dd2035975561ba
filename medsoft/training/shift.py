"""Tests whether a table as a whole differs from the training data, with a two-sample test.

Compared are the samples of the table and the validation part of the training:

* how many lie beyond the detector's limit, against beta-binomial counts: were the samples of one kind, the share beyond
  a limit that k of n validation samples exceed would be distributed as Beta(k + 1, n - k);
* the distributions of the score, of each statistic of the inputs and of the images' sizes, by the test of Kolmogorov
  and Smirnov, its p-values times the number of tests (Bonferroni).

A difference is said where p is below ``LEVEL`` and it is also large: with many samples the smallest difference is
certain. The tests take samples as independent; several of a patient make them too sure.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medsoft.classifiers.out_of_distribution import Detector
from medsoft.system.logging import event

LEVEL = 0.01
LARGE = 0.5
"""Kolmogorov-Smirnov distance: half of the samples would have to move."""
BEYOND = 0.05
"""Share beyond the limit that is worth a word."""
SHOWN = 3
EXACT = 10**6
"""Pairs of samples up to which p-values are exact: the asymptotic ones are far too small for a few samples."""


@dataclass(frozen=True)
class Difference:
    """One quantity whose distribution is another one.

    Attributes:
        name: of the quantity.
        distance: of Kolmogorov and Smirnov, 0 to 1.
        p: times the number of tests.
        here: median of the table.
        there: median of the validation part.
    """

    name: str
    distance: float
    p: float
    here: float
    there: float


@dataclass(frozen=True)
class Shift:
    """A table against the validation part of a training.

    Attributes:
        n: samples of the table.
        n_beyond: from which the model abstains.
        expected: how many that would be of data like the training's.
        p_beyond: probability of as many or more.
        differences: large and significant ones, the largest first.
        note: what is to be said of the detector itself.
        without_limit: whether, and by what, the model cannot abstain.
    """

    n: int
    n_beyond: int
    expected: float
    p_beyond: float
    differences: list[Difference]
    note: str = ""
    without_limit: str = ""

    @property
    def too_many(self) -> bool:
        """Whether the model abstains from more than it should of data like the training's."""
        return self.p_beyond < LEVEL and self.n_beyond >= BEYOND * self.n

    @property
    def differs(self) -> bool:
        """Whether the table as a whole is unlike the training data."""
        return self.too_many or bool(self.differences)


@dataclass(frozen=True)
class ShiftNotes:
    """What was said of a table.

    Attributes:
        warnings: sentences, for the report too.
        numbers: the same in plain values.
    """

    warnings: list[str]
    numbers: dict[str, Any]


def shift_of(detector: Detector | None, names: Sequence[str], seen: Sequence[Sequence[np.ndarray]]) -> Shift | None:
    """Compare what a model has seen of a table with the validation part of its training.

    Args:
        detector: of the run; None gives None.
        names: of the statistics of the inputs.
        seen: of each split: scores (n,), statistics (n, S) and, where they are known, sizes (n, 2).
    """
    if detector is None or not seen:
        return None
    columns = [np.concatenate(parts) for parts in zip(*seen, strict=True)]
    scores_N = columns[0]
    n, beyond = len(scores_N), int((scores_N > 1).sum())
    if not detector.known:
        return Shift(n, beyond, (1 - detector.quantile) * n, 1.0, [], detector.note)
    from scipy.stats import betabinom

    known = detector.known["score"]
    over = int((known > 1).sum())
    likely = betabinom(n, over + 1, max(1, len(known) - over))
    inputs, sizes = _pairs(detector, names, columns)
    differences = _differences({"out-of-distribution score": (known, scores_N)} | inputs | sizes)
    return Shift(n, beyond, float(likely.mean()), float(likely.sf(beyond - 1)), differences, "", detector.without_limit)


Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def _pairs(detector: Detector, names: Sequence[str], columns: Sequence[np.ndarray]) -> tuple[Pairs, Pairs]:
    """Statistics and sizes of the validation part and of the table; features of bags have too many and no meaning."""
    there, here = detector.known["inputs"], columns[1]
    few = len(names) if len(names) <= 64 else 1
    inputs = {name: (there[:, k], here[:, k]) for k, name in enumerate(names[:few])}
    if "sizes" not in detector.known or len(columns) < 3:
        return inputs, {}
    sizes = ("height of the stored image", "width of the stored image")
    return inputs, {name: (detector.known["sizes"][:, k], columns[2][:, k]) for k, name in enumerate(sizes)}


def _differences(pairs: Pairs) -> list[Difference]:
    from scipy.stats import ks_2samp

    found = []
    for name, (there, here) in pairs.items():
        finite = here[np.isfinite(here)]
        if not len(finite) or not len(there):
            continue
        method: Any = "exact" if len(there) * len(finite) <= EXACT else "asymp"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it falls back to the asymptotic form by itself
            test = ks_2samp(there, finite, method=method)
        p = min(1.0, float(test.pvalue) * len(pairs))
        if p < LEVEL and test.statistic >= LARGE:
            found.append(Difference(name, float(test.statistic), p, float(np.median(finite)), float(np.median(there))))
    return sorted(found, key=lambda one: (-one.distance, -abs(one.here - one.there)))


def say(verb: str, shifts: Sequence[Shift], unit: str) -> ShiftNotes | None:
    """Print what a table as a whole is like, before anything else is said of its predictions.

    Args:
        verb: of the command line; of ``fit`` and ``validate``, whose data are the training's own, nothing is said.
        shifts: one a model with a detector.
        unit: what a row is.

    Returns:
        None where there is nothing to compare.
    """
    if not shifts or verb in ("fit", "validate"):
        return None
    differing = [shift for shift in shifts if shift.differs]
    worst = max(differing or shifts, key=lambda shift: shift.n_beyond)
    models = f" of {len(differing)} of {len(shifts)} models" if len(shifts) > 1 else " of the model"
    warnings = [_sentence(worst, models, unit)] if differing else []
    said = [line for shift in shifts for line in (shift.note, shift.without_limit) if line]
    for line in dict.fromkeys([*warnings, *said]):
        print(line)
    event("out_of_distribution", rows=worst.n, abstained=worst.n_beyond, differs=bool(differing))
    numbers = {
        "rows": worst.n,
        "abstained": worst.n_beyond,
        "expected": worst.expected,
        "p": worst.p_beyond,
        "differs": bool(differing),
        "differences": [vars(one) for one in worst.differences],
        "old_kind": any(shift.note for shift in shifts),
    }
    return ShiftNotes(warnings, numbers)


def _sentence(shift: Shift, models: str, unit: str) -> str:
    few = shift.expected < 1
    expected = "fewer than 1" if few else f"about {shift.expected:.0f}"
    verb = "is" if few or round(shift.expected) == 1 else "are"
    parts = [
        f"WARNING: these {unit}s as a whole are unlike the training data{models}: {shift.n_beyond} of {shift.n} "
        f"lie beyond the limit (column abstain), where {expected} {verb} expected"
        + (f" (p {_p(shift.p_beyond)})" if shift.too_many else "")
    ]
    if shift.differences:
        shown = [f"{one.name} ({_moved(one)})" for one in shift.differences[:SHOWN]]
        more = f" and {len(shift.differences) - SHOWN} more" if len(shift.differences) > SHOWN else ""
        parts.append(f"Most different: {', '.join(shown)}{more}")
    parts.append("Measured performance does not hold for such data: evaluate it on labelled samples of this kind first")
    return ". ".join(parts)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _moved(one: Difference) -> str:
    if one.here == one.there:
        return f"different spread, Kolmogorov-Smirnov distance {one.distance:.2f}"
    return f"{one.here:.4g} here, {one.there:.4g} in the training's data"
