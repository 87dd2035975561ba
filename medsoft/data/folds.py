"""Folds of a cross-validation: what is reported, what chooses the checkpoint, and what is learnt from.

The reported part of a fold never chooses anything: a validation part is taken out of the other folds, by patient and
stratified, from the targets of these folds alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from medsoft.data import checks
from medsoft.data.source import require_columns, text
from medsoft.data.split import UNUSED, split_folds, split_holdout
from medsoft.data.table import SampleTable
from medsoft.errors import InputError, check_range


@dataclass(frozen=True)
class Design:
    """How a table is divided.

    Attributes:
        folds: number of folds that are drawn; None where a column names them.
        column: column that names each row's fold; rows without one take no part.
        by_site: leave one site out: the folds are the values of the table's ``site``.
        repeats: how often all is done, each time with the next seed.
        val_fraction: share of the rows outside the reported fold that chooses the checkpoint.
        seed: of the first repeat.

    Raises:
        InputError: none or several of folds, column and site are given, or a number is out of its range.
    """

    folds: int | None = None
    column: str | None = None
    by_site: bool = False
    repeats: int = 1
    val_fraction: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if sum([self.folds is not None, self.column is not None, self.by_site]) != 1:
            raise InputError(
                "say how to divide the table: --folds 5 to draw folds, --fold_column fold where the table names them, "
                "or --leave_one_site_out; one of the three"
            )
        check_range("folds", 2 if self.folds is None else self.folds, 2)
        check_range("repeats", self.repeats, 1)
        if not 0 < self.val_fraction < 1:
            raise InputError(
                f"data.val_fraction {self.val_fraction:g} must lie between 0 and 1: it chooses checkpoints"
            )


@dataclass(frozen=True, eq=False)
class Fold:
    """One model's share of the table.

    Attributes:
        number: from 0, through all repeats.
        repeat: from 0.
        name: of the reported part: a number from 0, the site, or the value of the column.
        seed: of this repeat.
        split: (N,) train, val, test (the reported part) or unused.
    """

    number: int
    repeat: int
    name: str
    seed: int
    split: np.ndarray


def make_folds(samples: SampleTable, design: Design) -> list[Fold]:
    """Divide a table for a cross-validation.

    Rows that the table calls test take no part, so that they stay unseen; its train and val rows are one.

    Args:
        samples: the table, with labels; rows of one patient (else of one exam) stay together.
        design: how.

    Raises:
        InputError: too few patients, a patient (or exam) in two folds, a site that is not named, or a class without a
            sample in the train or val part of a fold.
    """
    frame = samples.frame
    taking_part = np.ones(len(frame), dtype=bool)
    if samples.splits != ["test"]:
        taking_part = (frame["split"] != "test").to_numpy()
    named = _named(samples, design)
    if design.column is not None:
        taking_part = taking_part & (named != "")
    used = samples.select(taking_part)
    folds: list[Fold] = []
    for repeat in range(design.repeats):
        seed = design.seed + repeat
        if design.folds is not None:
            of_row = split_folds(used.targets, used.groups, design.folds, seed).astype(str)
        else:
            of_row = named[taking_part]
            _require_whole(of_row, used)
        names = _in_order(set(of_row))
        if len(names) < 2:
            raise InputError(f"{samples.source}: one fold only ({', '.join(names)}): there is nothing to train on")
        for name in names:
            split = np.full(len(frame), UNUSED, dtype=object)
            split[taking_part] = _parts(used, of_row == name, design.val_fraction, seed, name)
            folds.append(Fold(len(folds), repeat, name, seed, split))
    return folds


def _named(samples: SampleTable, design: Design) -> np.ndarray:
    """(N,) the fold or site that the table names for each row; "" for none."""
    if design.column is not None:
        require_columns(samples.source, samples.frame.columns, {"fold_column": [design.column]})
        return text(samples.frame[design.column]).to_numpy(dtype=object)
    if not design.by_site:
        return np.full(len(samples), "", dtype=object)
    sites = samples.frame["site"].to_numpy(dtype=object)
    if not (sites != "").any():
        raise InputError(f"{samples.source}: to leave one site out, name the column with the site with data.site")
    if (sites == "").any():
        rows = samples.frame.loc[sites == "", "row"].tolist()
        raise InputError(f"{samples.source}: {len(rows)} rows have no site, such as row {rows[0]}: fill it in")
    return sites


def _require_whole(of_row: np.ndarray, used: SampleTable) -> None:
    """Refuse a patient or exam in several folds: the model would be reported on whom it has seen."""
    frame = pd.DataFrame({"group": used.groups, "fold": of_row, "row": used.frame["row"]})
    folds = frame.groupby("group", sort=True)["fold"].nunique()
    divided = folds.index[folds > 1]
    if len(divided):
        first = frame[frame["group"] == divided[0]].drop_duplicates("fold").sort_values("fold")
        raise InputError(
            f"{len(divided)} patients (or exams) are in several folds or sites, such as one in "
            f"{' and '.join(map(repr, first['fold']))} (rows {', '.join(map(str, first['row']))}): keep each in one"
        )


def _parts(used: SampleTable, reported: np.ndarray, val_fraction: float, seed: int, name: str) -> np.ndarray:
    """(n,) train, val and test of one fold; of the reported rows nothing is looked at."""
    rest = used.select(~reported)
    shares = {"train": 1 - val_fraction, "val": val_fraction}
    try:
        parts = split_holdout(rest.targets, rest.groups, shares, seed)
    except InputError as error:
        raise InputError(f"fold {name}: {error}") from None
    assert rest.task is not None
    targets = rest.frame[rest.task.target_columns]
    if problems := checks.check_classes(targets, pd.Series(parts), rest.task):
        what = "; ".join(problem.message for problem in problems)
        raise InputError(f"fold {name}: {what}. Take fewer folds, or another data.val_fraction or seed")
    split = np.full(len(used), "test", dtype=object)
    split[~reported] = parts
    return split


def _in_order(names: set[str]) -> list[str]:
    """By number where all are numbers."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
