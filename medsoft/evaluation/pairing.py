"""The same samples in several predictions tables: matched by id, and refused where they are not the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.arrays import has_target, one_against_rest
from medsoft.evaluation.levels import at_level
from medsoft.evaluation.thresholds import OperatingPoint, Rule, choose
from medsoft.task import Task


@dataclass(frozen=True)
class Model:
    """One model's predictions of the samples, and its thresholds.

    Attributes:
        name: short and unique among those compared.
        frame: the reported split, rows with a target, in the order of all models.
        points: operating points by fold.
    """

    name: str
    frame: pd.DataFrame
    points: tuple[tuple[str, tuple[OperatingPoint, ...]], ...]

    def points_of(self, fold: str) -> tuple[OperatingPoint, ...]:
        """The operating points of a fold's model."""
        return dict(self.points).get(fold, ())


@dataclass(frozen=True)
class Paired:
    """Models on the same samples; the last is the reference.

    Attributes:
        models: two or more.
        task: None for regression.
        split: the one compared; "" for tables without splits.
        folds: names; one "" without folds.
        notes: what was left out.
    """

    models: tuple[Model, ...]
    task: Task | None
    split: str
    folds: tuple[str, ...]
    notes: tuple[str, ...]


def pair(
    tables: Sequence[tuple[str, pd.DataFrame]],
    task: Task | None,
    *,
    split: str | None,
    level: str,
    rule: Rule,
    choose_on: str = "val",
    common: bool = False,
) -> Paired:
    """Match the samples of several tables.

    Args:
        tables: name and predictions of each model.
        task: theirs.
        split: the one to compare; by default ``test``, or the only one that all have.
        level: row, exam or patient.
        rule: of thresholds; one that chooses does so for each model and fold on its own rows of ``choose_on``.
        choose_on: a split other than the compared one.
        common: compare on the samples that all have, instead of refusing tables that differ.

    Raises:
        InputError: the tables do not hold the same samples, targets and patients, or there is nothing to choose on.
    """
    split = _split([frame for _, frame in tables], split)
    if rule.chooses and choose_on == split:
        raise InputError(f"--threshold {rule.text} would be chosen on the split {split!r} that is compared")
    frames = [_known(frame[frame["split"] == split], task, level) for _, frame in tables]
    for (name, _), frame in zip(tables, frames, strict=True):
        if frame.empty:
            raise InputError(f"{name}: no row of the split {split!r} has a target")
    notes = []
    keys = [set(frame.index) for frame in frames]
    shared = set.intersection(*keys)
    if any(key != shared for key in keys):
        lacking = [f"{len(key - shared)} of {len(key)} in {name}" for key, (name, _) in zip(keys, tables, strict=True)]
        example = sorted(set.union(*keys) - shared)[0]
        what = f"{', '.join(lacking)} are not in all tables, such as id {example[1]!r}"
        what += f" of fold {example[0]!r}" if example[0] else ""
        if not common:
            raise InputError(
                f"the tables hold different samples: {what}. Predict the same ones, or compare those that all have "
                "with --common true"
            )
        if not shared:
            raise InputError(f"the tables have no sample in common: {what}")
        notes.append(f"left out: {what}")
    order = [key for key in frames[0].index if key in shared]
    frames = [frame.loc[order] for frame in frames]
    for (name, _), frame in zip(tables[1:], frames[1:], strict=True):
        _require_same(frames[0], frame, task, tables[0][0], name)
    if not (frames[0]["patient"] != "").any():
        notes.append("patients are not named: every sample is taken as independent")
    folds = tuple(dict.fromkeys(frames[0]["fold"]))
    models = tuple(
        Model(name, frame.reset_index(drop=True), _points(name, table, folds, task, level, rule, choose_on))
        for (name, table), frame in zip(tables, frames, strict=True)
    )
    return Paired(models, task, split, folds, tuple(notes))


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """Names that tell files apart: without the parts of their paths that all share, and without ``predictions.csv``."""
    parts = [[*Path(path).parts[:-1], Path(path).stem] for path in paths]
    if len({tuple(part) for part in parts}) < len(parts):
        raise InputError(f"a table is named twice: {', '.join(map(str, paths))}")
    while len({part[-1] for part in parts}) == 1 and all(len(part) > 1 for part in parts):
        parts = [part[:-1] for part in parts]
    length = 1
    while len({tuple(part[-length:]) for part in parts}) < len(parts):
        length += 1
    return ["/".join(part[-length:]) for part in parts]


def _split(frames: Sequence[pd.DataFrame], split: str | None) -> str:
    shared = set.intersection(*(set(frame["split"]) for frame in frames))
    if split is None and "test" in shared:
        return "test"
    if split is None and len(shared) == 1:
        return str(shared.pop())
    if split is None or split not in shared:
        if shared:
            there = ", ".join(repr(name) for name in sorted(shared))
            raise InputError(f"name the split to compare with --split; all tables have: {there}")
        have = "; ".join(", ".join(name or "rows of no split" for name in sorted(set(f["split"]))) for f in frames)
        raise InputError(
            f"no split is in all tables: name splits alike in the column split, or in none; there is {have}"
        )
    return split


def _known(frame: pd.DataFrame, task: Task | None, level: str) -> pd.DataFrame:
    """Rows with a target at a level, by (fold, id)."""
    levels = [at_level(part, task, level).frame for _, part in frame.groupby("fold", sort=False)]
    table = pd.concat(levels, ignore_index=True) if levels else frame
    known = table["target"].notna() if task is None else has_target(table, task)
    table = table[known]
    return table.set_index(pd.MultiIndex.from_arrays([table["fold"], table["id"]], names=("", "")))


def _require_same(first: pd.DataFrame, other: pd.DataFrame, task: Task | None, first_name: str, name: str) -> None:
    for column in (*(task.target_columns if task else ("target",)), "patient"):
        same = (first[column] == other[column]).fillna(False) | (first[column].isna() & other[column].isna())
        if not same.all():
            example = first.index[~same.to_numpy(dtype=bool)][0]
            raise InputError(
                f"{first_name} and {name} do not agree about {column!r} of {int((~same).sum())} samples, such as "
                f"{example[1]!r}: {first.loc[example, column]!r} and {other.loc[example, column]!r}"
            )


def _points(
    name: str, table: pd.DataFrame, folds: Sequence[str], task: Task | None, level: str, rule: Rule, choose_on: str
) -> tuple[tuple[str, tuple[OperatingPoint, ...]], ...]:
    if task is None or task.kind not in ("binary", "multilabel"):
        return ()
    found = []
    for fold in folds:
        rows = _known(table[(table["fold"] == fold) & (table["split"] == choose_on)], task, level)
        if rule.chooses and rows.empty:
            raise InputError(
                f"{name}: no rows of the split {choose_on!r} with targets{f' in fold {fold!r}' if fold else ''}, on "
                f"which --threshold {rule.text} would be chosen"
            )
        found.append((fold, tuple(choose(question, rule) for question in one_against_rest(rows, task))))
    return tuple(found)
