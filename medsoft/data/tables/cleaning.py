"""Tables of a sample table's duplicates, and copies of it without the bad rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medsoft.data.tables.duplicates import Content, Pair, duplicate_problems, nearly_same, same_pixels
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.sample_table import SampleTable, targets_of_rows

COLUMNS = ["kind", "bits", *(f"{name}{n}" for n in ("", "_2") for name in ("row", "id", "path", "patient", "split"))]


@dataclass(frozen=True)
class Duplicates:
    """Samples that are in a table twice by what is in them.

    Attributes:
        samples: the table.
        same: pairs of equal content.
        near: pairs that look nearly alike and are in two splits, or without splits are not of one patient (or exam).
    """

    samples: SampleTable
    same: list[Pair]
    near: list[Pair]

    @classmethod
    def find(cls, samples: SampleTable, contents: Sequence[Content | None]) -> Duplicates:
        """Compare the rows of a table; ``contents`` are those of its rows, None where nothing could be read."""
        parts = samples.frame["split"] if samples.has_split else samples.groups
        return cls(samples, same_pixels(contents), nearly_same(contents, list(parts)))

    def problems(self) -> list[Problem]:
        """Rows that are in the table twice, and pictures under two labels, but for those that it has told of itself."""
        assert self.samples.task is not None
        keys = [""] * len(self.samples)
        for pair in self.same:
            keys[pair.first] = keys[pair.second] = str(pair.first)
        answers = targets_of_rows(self.samples.frame[self.samples.task.target_columns])
        frame = self.samples.frame
        found = duplicate_problems(keys, frame["row"].tolist(), answers, frame["path"].tolist())
        kinds = ("duplicate", "contradiction")
        known = {row for problem in self.samples.problems if problem.kind in kinds for row in problem.rows}
        return [problem for problem in found if not known.issuperset(problem.rows)]

    def table(self) -> pd.DataFrame:
        """A row a pair: kind (same, two labels, near), bits of 256 by which it looks different, and both samples."""
        assert self.samples.task is not None
        answers = targets_of_rows(self.samples.frame[self.samples.task.target_columns])
        rows: list[list[object]] = []
        told = [("same" if answers[pair.first] == answers[pair.second] else "two labels", pair) for pair in self.same]
        told += [("near", pair) for pair in sorted(self.near, key=lambda pair: pair.bits)]
        for kind, pair in told:
            both = (self.samples.frame.iloc[at] for at in (pair.first, pair.second))
            about = [one[name] for one in both for name in ("row", "id", "path", "patient", "split")]
            rows.append([kind, pair.bits, *about])
        return pd.DataFrame(rows, columns=COLUMNS)


def bad_rows(samples: SampleTable, problems: Sequence[Problem], near: Sequence[Pair]) -> tuple[set[int], str]:
    """The rows that a clean table leaves out.

    These are rows with a problem of their own, all rows of a picture under two labels, and the later row of two that
    look nearly alike.

    Args:
        samples: read with ``on_error="keep"``.
        problems: all of them.
        near: see ``Duplicates``.

    Returns:
        Numbers of rows, and in words how many of which kind.

    Raises:
        TableError: there are other problems, or a class has no row left.
    """
    left_out: dict[int, str] = {}
    others = []
    for problem in problems:
        if not (problem.skippable or problem.kind == "contradiction"):
            others += [problem] if problem.kind != "empty class" else []
            continue
        for row in problem.rows:
            left_out.setdefault(row, problem.kind)
    rows = samples.frame["row"].tolist()
    for pair in near:
        if rows[pair.first] not in left_out and rows[pair.second] not in left_out:
            left_out[rows[pair.second]] = "near duplicate"
    kept = samples.select(np.array([row not in left_out for row in rows]))
    if kept.task is not None:
        others += kept.task.check_targets(kept.frame[kept.task.target_columns], kept.frame["split"])
    if others:
        raise TableError(f"{samples.source}, without {len(left_out)} bad rows", others)
    counts = Counter(left_out.values())
    return set(left_out), ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "none"
