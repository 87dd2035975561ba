"""Which rows have chosen something, so that what they chose is not reported on them as if they were new.

The rows are remembered by fingerprints: of who they are (id and patient; without a patient, id and target), and of what
the model says of them (target and probabilities), by which a row is known that bears another id. Nobody can read a name
off a fingerprint; who can guess an id together with its patient can check the guess.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.metrics.targets import probabilities
from medsoft.storage.fingerprints import row_hash
from medsoft.task import Task

OPTIMISTIC = "OPTIMISTIC: chosen on these very rows"
"""Mark of a value whose threshold or recalibration comes from the rows that it is about."""
DIGITS = 16
"""Hexadecimal digits that are kept of a hash: among a million rows chance makes two alike once in 10 million tables."""
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ChosenRows:
    """Fingerprints of the rows that chose.

    Attributes:
        names: of who they are.
        answers: of what the model says of them; not of round numbers, nor where the model says the same of several.
    """

    names: frozenset[str] = frozenset()
    answers: frozenset[str] = frozenset()

    @classmethod
    def of(cls, frame: pd.DataFrame, task: Task) -> ChosenRows:
        """Remember the rows of a predictions table."""
        counts = Counter(_answers(frame, task))
        return cls(frozenset(_names(frame, task)), frozenset(w for w, n in counts.items() if w and n == 1))

    def among(self, frame: pd.DataFrame, task: Task) -> BoolArray:
        """(N,) which rows of a predictions table are among them."""
        named = pd.Series(_names(frame, task), dtype=object).isin(self.names)
        answered = pd.Series(_answers(frame, task), dtype=object).isin(self.answers)
        found: BoolArray = (named | answered).to_numpy(dtype=np.bool_)
        return found

    def to_json(self) -> dict[str, str]:
        """Plain values: fingerprints with spaces between."""
        return {"names": " ".join(sorted(self.names)), "answers": " ".join(sorted(self.answers))}

    @staticmethod
    def from_json(values: dict[str, Any]) -> ChosenRows:
        """What ``to_json`` wrote."""
        return ChosenRows(frozenset(values["names"].split()), frozenset(values["answers"].split()))


@dataclass(frozen=True)
class Overlap:
    """How many of the reported rows did the choosing.

    Attributes:
        n: rows that did.
        of: rows that are reported.
        is_known: False where it was not written down which rows chose, and these may be they.
    """

    n: int = 0
    of: int = 0
    is_known: bool = True

    @property
    def whole(self) -> bool:
        """Whether all reported rows did the choosing."""
        return self.is_known and 0 < self.n == self.of

    @property
    def mark(self) -> str:
        """What is put beside a value that rests on the choice; "" where no reported row chose."""
        if not self.is_known:
            return "OPTIMISTIC: may be chosen on these rows, as it was not written down which rows chose"
        if not self.n:
            return ""
        return OPTIMISTIC if self.whole else f"OPTIMISTIC: {self.n} of these {self.of} rows did the choosing"

    def hides(self, optimistic: bool) -> bool:
        """Whether what rests on the choice is left out: all rows chose, and the user has not asked for it."""
        return self.whole and not optimistic

    @property
    def warning(self) -> list[str]:
        """One sentence where rows chose, or may have."""
        if not self.is_known:
            return [
                "WARNING: thresholds or the recalibration may have been chosen on these very rows: locked.json was "
                "written by a version that did not keep which rows chose"
            ]
        if not self.n:
            return []
        rows = f"{self.n} of {self.of} rows {'is' if self.n == 1 else 'are'}"
        return [f"WARNING: {rows} among those that chose thresholds or the recalibration"]

    def said(self) -> list[str]:
        """The warning with what follows from it; nothing where all rows chose, which is said otherwise."""
        return [] if self.whole else [f"{said}: what rests on them is marked OPTIMISTIC" for said in self.warning]


def _names(frame: pd.DataFrame, task: Task) -> list[str]:
    """Fingerprints of ids with their patients; of ids with their targets where no patient is named."""
    values = zip(frame["id"], frame["patient"], _targets(frame, task), strict=True)
    return [
        row_hash("patient", id, patient)[:DIGITS] if patient else row_hash("target", id, *target)[:DIGITS]
        for id, patient, target in values
    ]


def _answers(frame: pd.DataFrame, task: Task) -> list[str]:
    """Fingerprints of targets with probabilities to 10 digits; "" where these are round numbers.

    Round numbers (0.7, 1, 0.25) are given to many rows; a probability of a model's own has some 7 digits or more.
    """
    p_NC = probabilities(frame, task)
    near_end_NC = np.minimum(p_NC, 1 - p_NC) < 1e-6
    round_N: BoolArray = np.all(near_end_NC | (np.abs(p_NC - p_NC.round(4)) < 1e-9), axis=1)
    rows = zip(p_NC.tolist(), list(round_N), _targets(frame, task), strict=True)
    return [
        "" if is_round else row_hash(*target, *(f"{p:.9e}" for p in p_C))[:DIGITS] for p_C, is_round, target in rows
    ]


def _targets(frame: pd.DataFrame, task: Task) -> list[tuple[str, ...]]:
    columns = [["" if pd.isna(value) else str(value) for value in frame[name]] for name in task.target_columns]
    return list(zip(*columns, strict=True))
