"""Turns facts into columns for a linear model, as the training part says: scaled numbers, and words as 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]

LEAST = 5
"""Training rows that a word must have to get a column."""
MOST_WORDS = 20
FURTHEST = 5.0
"""Standard deviations at which scaled numbers end: what is as strange as that is strange in another way too."""


@dataclass(frozen=True, eq=False)
class Columns:
    """How facts become columns.

    Attributes:
        scales: by name of a number, mean and standard deviation of the training part.
        doubtful: numbers that are unknown of some rows of the training part: they get a column that says so.
        words: by name of a fact in words, those that get a column.
    """

    scales: dict[str, tuple[float, float]]
    doubtful: tuple[str, ...]
    words: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, train: pd.DataFrame, numbers: Sequence[str], kinds: Sequence[str]) -> Columns:
        """Learn from the training part; facts that are the same everywhere, or the same as another, are left out."""
        scales: dict[str, tuple[float, float]] = {}
        taken: set[bytes] = set()
        for name in numbers:
            values = train[name].to_numpy(dtype=np.float64)
            known = values[np.isfinite(values)]
            same = known.size == 0 or float(np.ptp(known)) <= 1e-9 * (1 + float(np.abs(known).max()))
            if not same and values.tobytes() not in taken:
                taken.add(values.tobytes())
                scales[name] = (float(known.mean()), float(known.std()))
        shares = {name: float(np.isfinite(train[name].to_numpy(dtype=np.float64)).mean()) for name in numbers}
        words = {}
        for name in kinds:
            counts = train[name].value_counts(sort=True)
            often = tuple(str(word) for word, n in counts.items() if LEAST <= n < len(train))[:MOST_WORDS]
            # Of two words that all rows have, one says all that there is to say.
            words[name] = often[1:] if len(counts) == 2 and len(often) == 2 else often
        doubtful = tuple(name for name, share in shares.items() if 0 < share < 1)
        return cls(scales, doubtful, {name: often for name, often in words.items() if often})

    @property
    def names(self) -> list[str]:
        """What the columns are."""
        one_of = [f"{name}: {word or 'none'}" for name, often in self.words.items() for word in often]
        return [*self.scales, *(f"{name} unknown" for name in self.doubtful), *one_of]

    def __call__(self, facts: pd.DataFrame) -> FloatArray:
        """(N, K) columns; an unknown number is the mean, an unknown fact is none of the words."""
        columns = []
        for name, (mean, spread) in self.scales.items():
            scaled = (_numbers(facts, name) - mean) / spread
            columns.append(np.clip(np.where(np.isfinite(scaled), scaled, 0.0), -FURTHEST, FURTHEST))
        columns += [(~np.isfinite(_numbers(facts, name))).astype(np.float64) for name in self.doubtful]
        for name, often in self.words.items():
            said = facts[name].astype(str).to_numpy(dtype=object) if name in facts else np.full(len(facts), "")
            columns += [(said == word).astype(np.float64) for word in often]
        return np.stack(columns, axis=1) if columns else np.zeros((len(facts), 0))


def _numbers(facts: pd.DataFrame, name: str) -> FloatArray:
    return facts[name].to_numpy(dtype=np.float64) if name in facts else np.full(len(facts), np.nan)
