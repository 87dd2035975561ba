"""Folds of a cross-validation: which rows are reported, select the checkpoint, and are trained on.

The reported part of a fold never chooses anything: a validation part is taken out of the other folds, by patient and
stratified, from the targets of these folds alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medsoft.data.tables import checks
from medsoft.data.tables.reading import require_columns, text
from medsoft.data.tables.sample_table import SampleTable
from medsoft.data.tables.split import UNUSED, split_folds, split_holdout
from medsoft.errors import InputError, check_range
from medsoft.text.spelling import spellings


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
        train_fraction: share of the patients of each fold's training part that is trained on; the smaller part of two
            is within the larger.

    Raises:
        InputError: none or several of folds, column and site are given, or a number is out of its range.
    """

    folds: int | None = None
    column: str | None = None
    by_site: bool = False
    repeats: int = 1
    val_fraction: float = 0.15
    seed: int = 0
    train_fraction: float = 1.0

    def __post_init__(self) -> None:
        if sum([self.folds is not None, self.column is not None, self.by_site]) != 1:
            raise InputError(
                "say how to divide the table: --folds 5 to draw folds, --fold_column fold where the table names them, "
                "or --leave_one_site_out; one of the three"
            )
        check_range("folds", 2 if self.folds is None else self.folds, 2)
        check_range("repeats", self.repeats, 1)
        if not 0 < self.train_fraction <= 1:
            raise InputError(f"train_fraction {self.train_fraction:g} must lie above 0, and be 1 at most")
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
            of_row = split_folds(used.strata, used.groups, design.folds, seed).astype(str)
        else:
            of_row = named[taking_part]
            _require_whole(of_row, used)
        names = _in_order(set(of_row))
        if len(names) < 2:
            raise InputError(f"{samples.source}: only one fold ({', '.join(names)}): there is nothing to train on")
        for name in names:
            split = np.full(len(frame), UNUSED, dtype=object)
            parts = _parts(used, of_row == name, design.val_fraction, seed, name)
            split[taking_part] = _thinned(used, parts, design.train_fraction, [seed, len(folds)], name)
            folds.append(Fold(len(folds), repeat, name, seed, split))
    return folds


def _named(samples: SampleTable, design: Design) -> np.ndarray:
    """(N,) the fold or site that the table names for each row; "" for none."""
    names = _as_named(samples, design)
    if alike := spellings(names):
        ways = next(iter(alike.values()))
        rows = [int(samples.frame.loc[names == way, "row"].iloc[0]) for way in ways]
        raise InputError(
            f"{samples.source}: {len(alike)} folds or sites are written in several ways, which differ in case, zeros "
            f"or spaces only, such as in rows {', '.join(map(str, rows))}: write each in one way"
        )
    return names


def _as_named(samples: SampleTable, design: Design) -> np.ndarray:
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
    if used.grouped_by != "sample" and (found := checks.divided(used.frame[used.grouped_by].tolist(), list(of_row))):
        at, folds = found[0]
        one_each = {of_row[row - 1]: int(used.frame["row"].iloc[row - 1]) for row in reversed(at)}
        rows = ", ".join(str(one_each[fold]) for fold in folds)
        raise InputError(
            f"{len(found)} patients (or exams) are in several folds or sites, such as one in "
            f"{' and '.join(map(repr, folds))} (rows {rows}): keep each in one"
        )


def _parts(used: SampleTable, reported: np.ndarray, val_fraction: float, seed: int, name: str) -> np.ndarray:
    """(n,) train, val and test of one fold; of the reported rows nothing is looked at."""
    rest = used.select(~reported)
    shares = {"train": 1 - val_fraction, "val": val_fraction}
    try:
        parts = split_holdout(rest.strata, rest.groups, shares, seed)
    except InputError as error:
        raise InputError(f"fold {name}: {error}") from None
    assert rest.task is not None
    targets = rest.frame[rest.task.target_columns]
    if problems := rest.task.check_targets(targets, pd.Series(parts)):
        what = "; ".join(problem.message for problem in problems)
        raise InputError(f"fold {name}: {what}. Take fewer folds, or another data.val_fraction or seed")
    split = np.full(len(used), "test", dtype=object)
    split[~reported] = parts
    return split


def _thinned(used: SampleTable, parts: np.ndarray, fraction: float, seed: list[int], name: str) -> np.ndarray:
    """The parts of a fold with a share of the training part's patients; the others are not used.

    Of each stratum the first patients of one random order are kept, at least one: a smaller share is within a larger.
    """
    if fraction == 1:
        return parts
    frame = pd.DataFrame({"group": used.groups, "stratum": used.strata})[parts == "train"]
    of_group = frame.groupby("group", sort=True)["stratum"].max()  # a patient of several classes counts as the last
    order = np.random.default_rng(seed).permutation(len(of_group))
    rank = of_group.iloc[order].groupby(of_group.iloc[order]).cumcount()
    size = of_group.map(of_group.value_counts())
    kept = set(rank.index[(rank / size.loc[rank.index] < fraction).to_numpy()])
    parts = np.where((parts == "train") & ~pd.Series(used.groups).isin(kept).to_numpy(), UNUSED, parts)
    assert used.task is not None
    inside = parts != UNUSED
    targets = used.frame.loc[inside, used.task.target_columns]
    taken = pd.Series(parts[inside], index=targets.index)
    keep = taken.isin(["train", "val"])
    if problems := used.task.check_targets(targets[keep], taken[keep]):
        what = "; ".join(problem.message for problem in problems)
        raise InputError(f"fold {name} with train_fraction {fraction:g}: {what}. Take a larger fraction")
    return parts


def notes_on_folds(samples: SampleTable, folds: Sequence[Fold]) -> list[str]:
    """Sentences on classes that the reported part of a fold lacks, counted by patients."""
    assert samples.task is not None
    repeats = {fold.repeat for fold in folds}
    notes = []
    for repeat in sorted(repeats):
        of_row = np.full(len(samples), "", dtype=object)
        for fold in folds:
            if fold.repeat == repeat:
                of_row[fold.split == "test"] = fold.name
        where = f"repeat {repeat}, " if len(repeats) > 1 else ""
        notes += notes_on_classes(samples, of_row, f"{where}fold")
        for name in _in_order(set(of_row) - {""}):
            notes += samples.task.part_notes(samples.frame[of_row == name], f"{where}fold {name}")
    return notes


def notes_on_classes(samples: SampleTable, part_of_row: np.ndarray, what: str) -> list[str]:
    """Sentences on classes that a part of a table lacks, counted by patients (else exams, else samples).

    Args:
        samples: with labels.
        part_of_row: (N,) names of folds or splits, "" for rows in none.
        what: the parts are: "fold" or "split".
    """
    assert samples.task is not None
    parts, groups, notes = _in_order(set(part_of_row) - {""}), samples.groups, []
    units = f"{samples.grouped_by}s"
    for name, there in samples.task.members(samples.frame).items():
        counts = {part: len(set(groups[there & (part_of_row == part)])) for part in parts}
        lacking = [part for part, n in counts.items() if n == 0]
        if lacking:
            listed = ", ".join(f"{part} {n}" for part, n in counts.items())
            notes.append(
                f"class {name!r} has no {samples.grouped_by} in {what} {' and '.join(lacking)} ({units} by {what}: "
                f"{listed}): what needs the class cannot be measured there. Take fewer or other {what}s"
            )
    return notes


def _in_order(names: set[str]) -> list[str]:
    """By number where all are numbers."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
