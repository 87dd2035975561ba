"""From a predictions table to everything that is reported of it: ``evaluate_table``.

One fold is one model, and is evaluated by itself; the mean over folds stands beside. Within a fold every split is read
at every level (row, exam, patient). Thresholds and recalibration are chosen on one split and then locked; on that split
they are not reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from medsoft.evaluation.comparison.across_folds import AcrossFolds, across_folds
from medsoft.evaluation.locked import Chosen, Locked
from medsoft.evaluation.metrics.recalibration import fit_recalibration
from medsoft.evaluation.metrics.targets import one_against_rest
from medsoft.evaluation.metrics.thresholds import choose
from medsoft.evaluation.part import Part
from medsoft.evaluation.score_part import score_part
from medsoft.evaluation.settings import Plan, Settings, plan, plan_groups
from medsoft.evaluation.survival.risk_groups import choose_cut
from medsoft.evaluation.tables.levels import at_level, levels_of
from medsoft.evaluation.tables.overlap import ChosenRows
from medsoft.system.progress import progress, tracked
from medsoft.task import Task


@dataclass(frozen=True)
class Evaluation:
    """Everything that is reported of one model, or of the folds of one procedure.

    Attributes:
        task: the question that was answered.
        settings: how it was done.
        parts: in the order of the table.
        locked: thresholds and recalibration, of survival the cut between risk groups; None for numbers.
        notes: on the whole.
        across: means over the folds, where there are several.
        choose_on: the split whose rows chose here; None where nothing was chosen, or it was locked before.
    """

    task: Task
    settings: Settings
    parts: list[Part]
    locked: Locked | None
    notes: list[str] = field(default_factory=list)
    across: list[AcrossFolds] = field(default_factory=list)
    choose_on: str | None = None


def evaluate_table(
    frame: pd.DataFrame,
    task: Task,
    settings: Settings | None = None,
    groups: pd.DataFrame | None = None,
    locked: Locked | None = None,
    kept: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Evaluation:
    """Evaluate a predictions table.

    Args:
        frame: as read or made by ``medsoft.evaluation.tables.predictions``.
        task: its task.
        settings: options.
        groups: (N, columns) of text, in the order of the table, for subgroups.
        locked: thresholds and recalibration chosen before; nothing is chosen then.
        kept: by fold ("" without folds), what its model, or each member of an ensemble, has kept of its training part
            (``medsoft.task.Task.asked_of``).

    Raises:
        InputError: something is to be chosen that cannot be, or would be chosen on what is reported.
    """
    settings = settings or Settings()
    frame = frame.reset_index(drop=True)
    groups = None if groups is None else groups.reset_index(drop=True)
    levels = settings.levels or tuple(levels_of(frame, task))
    intended = Plan((), "none", None)
    if task.has_probabilities and locked is None:
        intended = plan(frame, task, settings)
    chosen_things = "risk groups" if task.has_risk_groups else "thresholds"
    parts: list[Part] = []
    all_chosen: list[Chosen] = []
    if task.has_risk_groups and locked is None:
        intended = plan_groups(frame, task, settings)
    notes = list(intended.notes)
    for fold, of_fold in frame.groupby("fold", sort=False):
        for name in levels:
            chosen = (
                locked.find(str(fold), name) if locked else _choose(of_fold, task, str(fold), name, intended, settings)
            )
            if locked is None:
                all_chosen.append(chosen)
                notes += _not_recalibrated(chosen, intended)
            by_split = of_fold.groupby("split", sort=False)
            for split, rows in tracked(by_split, f"evaluating by {name}", by_split.ngroups):
                shown = None if groups is None or name != "row" else groups.loc[rows.index]
                level = at_level(rows.reset_index(drop=True), task, name)
                asked = _asked(frame, rows, of_fold, task, name, settings, (kept or {}).get(str(fold), ()))
                part = score_part(level, asked, settings, chosen, shown)
                part.notes.extend(_shared(of_fold, str(split), intended.choose_on, chosen_things))
                parts.append(replace(part, fold=str(fold), split=str(split) or "all"))
    if (task.has_probabilities or task.has_risk_groups) and locked is None:
        locked = Locked(task, tuple(all_chosen))
    with progress("evaluating the mean over the folds"):
        across = across_folds(parts, task, settings, locked)
    return Evaluation(task, settings, parts, locked, notes, across, intended.choose_on)


def _asked(
    frame: pd.DataFrame,
    rows: pd.DataFrame,
    of_fold: pd.DataFrame,
    task: Task,
    level: str,
    settings: Settings,
    kept: Sequence[Mapping[str, Any]],
) -> Task:
    """The task with what its metrics must know of a part: its rows in all folds, and the fold's training part."""
    train = of_fold[of_fold["split"] == "train"]
    train = at_level(train.reset_index(drop=True), task, level).frame if len(train) else train
    return task.asked_of(frame[frame["split"] == rows["split"].iloc[0]], train, settings, kept)


def _choose(of_fold: pd.DataFrame, task: Task, fold: str, level: str, intended: Plan, settings: Settings) -> Chosen:
    rows = of_fold[of_fold["split"] == intended.choose_on] if intended.choose_on is not None else of_fold.iloc[:0]
    known = at_level(rows.reset_index(drop=True), task, level).frame if len(rows) else rows
    known = known[task.known(known)] if len(known) else known
    points = []
    for rule in intended.rules:
        points += [choose(question, rule) for question in one_against_rest(known, task)]
    recalibration = None
    if intended.choose_on is not None and len(known):
        recalibration = fit_recalibration(known, task, intended.recalibrate)
    who = ChosenRows.of(known, task) if len(known) else ChosenRows()
    cut = None
    if task.has_risk_groups:
        risks = known["risk"].to_numpy(dtype="float64")
        cut = choose_cut(risks, intended.choose_on or "", settings.risk_cut)
    return Chosen(fold, level, intended.choose_on or "", len(known), tuple(points), recalibration, who, cut)


def _not_recalibrated(chosen: Chosen, intended: Plan) -> list[str]:
    if intended.recalibrate == "none" or chosen.recalibration is not None:
        return []
    fold = f" of fold {chosen.fold!r}" if chosen.fold else ""
    return [f"not recalibrated by {chosen.level}: the {chosen.n} rows of {chosen.split!r}{fold} are all of one class"]


def _shared(of_fold: pd.DataFrame, split: str, choose_on: str | None, chosen: str) -> list[str]:
    """Patients, or samples without a patient, that are in this split and in the one that chose."""
    if choose_on is None or split == choose_on:
        return []
    notes = []
    is_named = of_fold["patient"] != ""
    for what, column, rows in (("patients", "patient", of_fold[is_named]), ("samples", "id", of_fold[~is_named])):
        here = set(rows.loc[rows["split"] == split, column])
        shared = here & set(rows.loc[rows["split"] == choose_on, column])
        if shared:
            notes.append(
                f"WARNING: {len(shared)} of {len(here)} {what} are in {choose_on!r} too, where {chosen} were chosen, "
                f"such as {sorted(shared)[0]!r}"
            )
    return notes
