"""The same samples in several predictions tables: matched by id, and refused where they are not the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.metrics.targets import one_against_rest
from medsoft.evaluation.metrics.thresholds import OperatingPoint, Rule, choose
from medsoft.evaluation.tables.levels import at_level
from medsoft.evaluation.tables.overlap import ChosenRows, Overlap
from medsoft.task import Task
from medsoft.text.spelling import normal_form

FILES_OF_A_RUN = (
    "predictions.csv",
    "predictions_exams.csv",
    "predictions_patients.csv",
    "validation.csv",
    "recalibrated.csv",
)
"""Names that say nothing of which run it is."""
TIME = re.compile(r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}")


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
        task: theirs.
        split: the one compared; "" for tables without splits.
        folds: names; one "" without folds.
        notes: what was left out.
    """

    models: tuple[Model, ...]
    task: Task
    split: str
    folds: tuple[str, ...]
    notes: tuple[str, ...]


def pair(
    tables: Sequence[tuple[str, pd.DataFrame]],
    task: Task,
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
        _refuse_other_spellings(keys, shared)
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
    for (name, table), frame in zip(tables, frames, strict=True) if rule.chooses else ():
        notes += [f"{name}: {said}" for said in _chose_here(table, frame, folds, task, level, choose_on)]
    return Paired(models, task, split, folds, tuple(notes))


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """Names that tell runs apart: those of their folders, or of files that bear a name of their own.

    Folders of one name in all paths (``a/evaluation``, ``b/evaluation``) are left out; folders above are added where
    names would be the same. A folder that is called by its time only, as runs are without ``--out``, has the one above
    it added.

    Raises:
        InputError: a table is named twice.
    """
    parts = [_named_by(Path(path)) for path in paths]
    if len({tuple(part) for part in parts}) < len(parts):  # several files of one run
        parts = [[*Path(path).absolute().parts[:-1], Path(path).stem] for path in paths]
    if len({tuple(part) for part in parts}) < len(parts):
        raise InputError(f"a table is named twice: {', '.join(map(str, paths))}")
    while len({part[-1] for part in parts}) == 1 and all(len(part) > 1 for part in parts):
        parts = [part[:-1] for part in parts]
    length = 2 if any(TIME.fullmatch(part[-1]) for part in parts) else 1
    while len({tuple(part[-length:]) for part in parts}) < len(parts):
        length += 1
    return ["/".join(part[-length:]) for part in parts]


def _named_by(path: Path) -> list[str]:
    """The folders that lead to a run, or to a file by its own name without suffix."""
    whole = path.absolute() if ".." not in path.parts else path.resolve()
    if whole.is_dir() or whole.name in FILES_OF_A_RUN:
        folder = whole if whole.is_dir() else whole.parent
        return [*folder.parts] if len(folder.parts) > 1 else [*folder.parts, whole.stem]
    return [*whole.parts[:-1], whole.stem]


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


def _known(frame: pd.DataFrame, task: Task, level: str) -> pd.DataFrame:
    """Rows with a target at a level, by (fold, id)."""
    levels = [at_level(part, task, level).frame for _, part in frame.groupby("fold", sort=False)]
    table = pd.concat(levels, ignore_index=True) if levels else frame
    table = table[task.known(table)]
    return table.set_index(pd.MultiIndex.from_arrays([table["fold"], table["id"]], names=("", "")))


def _require_same(first: pd.DataFrame, other: pd.DataFrame, task: Task, first_name: str, name: str) -> None:
    for column in (*task.target_columns, "patient"):
        same = (first[column] == other[column]).fillna(False) | (first[column].isna() & other[column].isna())
        if not same.all():
            example = first.index[~same.to_numpy(dtype=bool)][0]
            raise InputError(
                f"{first_name} and {name} do not agree about {column!r} of {int((~same).sum())} samples, such as "
                f"{example[1]!r}{_values(first.loc[example, column], other.loc[example, column], column)}"
            )


def _values(one: object, other: object, column: str) -> str:
    """Two values that should be the same; of patients no name."""
    if column == "patient":
        return " (they differ in writing only)" if normal_form(str(one)) == normal_form(str(other)) else ""
    return f": {one!r} and {other!r}"


def _refuse_other_spellings(keys: Sequence[set[tuple[str, str]]], shared: set[tuple[str, str]]) -> None:
    """Refuse samples that would be left out only because tables write their ids differently."""
    forms: dict[tuple[str, str], set[int]] = {}
    for table, own in enumerate(keys):
        for fold, id in own - shared:
            forms.setdefault((fold, normal_form(id)), set()).add(table)
    alike = [form for form, tables in forms.items() if len(tables) > 1]
    if alike:
        raise InputError(
            f"the tables write {len(alike)} ids differently (case, zeros, spaces or invisible marks): write them "
            "alike, or these samples would not be compared"
        )


def _chose_here(
    table: pd.DataFrame, compared: pd.DataFrame, folds: Sequence[str], task: Task, level: str, choose_on: str
) -> list[str]:
    """A warning where compared rows are among those that choose a model's threshold."""
    if not task.thresholded:
        return []
    n = 0
    for fold in folds:
        choosing = _known(table[(table["fold"] == fold) & (table["split"] == choose_on)], task, level)
        n += int(ChosenRows.of(choosing, task).among(compared[compared["fold"] == fold], task).sum())
    return Overlap(n, len(compared)).warning


def _points(
    name: str, table: pd.DataFrame, folds: Sequence[str], task: Task, level: str, rule: Rule, choose_on: str
) -> tuple[tuple[str, tuple[OperatingPoint, ...]], ...]:
    if not task.thresholded:
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
