"""Shortcut baselines of a run: facts of its samples are kept, and baselines learn from those of the training part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.shortcuts.judge import PREFIXES, Shortcuts, alarm, baseline_tables, judge
from medsoft.evaluation.tables.ensemble import mean_of
from medsoft.evaluation.tables.predictions import write_predictions
from medsoft.evaluation.tables.read import read_either
from medsoft.runs.checkpoint_paths import is_crossval
from medsoft.runs.run_folder import RunFolder
from medsoft.storage.files import replacing
from medsoft.system.progress import progress
from medsoft.task import Task

NOT_KEPT = (
    "the run that trained this model keeps no facts of its samples (an earlier medsoft, --shortcuts false, or a bundle)"
)


def facts_of(data: Any) -> pd.DataFrame:
    """The table of facts of all loaded parts of a data module (``medsoft.data.facts.table``)."""
    tables = [data.facts(split) for split in data.loaded_splits]
    facts: pd.DataFrame = pd.concat(tables, ignore_index=True)
    for name in facts:
        if not pd.api.types.is_numeric_dtype(facts[name]):
            facts[name] = facts[name].fillna("").astype(object)
    return facts


def shortcuts_of_run(
    run: RunFolder, frame: pd.DataFrame, data: Any, settings: Settings, trained: Sequence[RunFolder] | None
) -> Shortcuts:
    """Baselines beside a run's predictions; what they rest on is kept in the run's folder.

    Args:
        run: its folder.
        frame: the model's predictions of the loaded parts.
        data: the data module, with loaded parts.
        settings: of the model's evaluation.
        trained: the runs that trained the model, or an ensemble's members; None for this run itself.
    """
    task: Task = data.task
    if not task.known(frame).any():
        return Shortcuts()
    if trained is not None and not (trained and all(one.shortcut_facts.is_file() for one in trained)):
        return Shortcuts(notes=(NOT_KEPT,))
    with progress("comparing with shortcut baselines"):
        facts = facts_of(data)
        if trained is None:
            _write(facts, run.shortcut_facts)
            learnt_from = [facts[facts["split"] == "train"]]
        else:
            learnt_from = [_read_train(one.shortcut_facts, task) for one in trained]
        each = [baseline_tables(train, facts, frame, task) for train in learnt_from]
        names = [name for name in PREFIXES if all(name in tables for tables in each)]
        tables = {
            name: mean_of([one[name] for one in each], task) if len(each) > 1 else each[0][name] for name in names
        }
        for name, table in tables.items():
            write_predictions(table, run.shortcut_predictions(name))
        return judge(frame, tables, task, settings, _names_of(learnt_from[0]))


def kept_shortcuts(run: RunFolder, frame: pd.DataFrame, task: Task, settings: Settings) -> Shortcuts | None:
    """The baselines that a run has kept, beside predictions of the same rows; None where it has kept none.

    Args:
        run: its folder, or that of a cross-validation; or what either has of one of several targets.
        frame: predictions; of a cross-validation those of all folds, with their column ``fold``.
        task: theirs.
        settings: of their evaluation.

    Raises:
        InputError: a baseline's predictions were altered.
    """
    folds = sorted({fold for fold in frame["fold"] if fold.isdecimal()}, key=int)
    whole = run.path.parents[1] if run.of_target else run.path
    runs = {fold: RunFolder(whole / f"fold-{fold}") for fold in folds} if is_crossval(whole) else {"": RunFolder(whole)}
    if run.of_target:
        runs = {fold: one.target(run.of_target) for fold, one in runs.items()}
    tables = {}
    for name in PREFIXES:
        files = {fold: one.shortcut_predictions(name) for fold, one in runs.items()}
        if files and all(file.is_file() for file in files.values()):
            parts = [read_either(file)[0].assign(fold=fold) for fold, file in files.items()]
            there = set(zip(frame["id"], frame["split"], strict=True))
            table = pd.concat(parts, ignore_index=True)
            same = [row in there for row in zip(table["id"], table["split"], strict=True)]
            tables[name] = table[same].reset_index(drop=True)
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        return None
    with progress("comparing with shortcut baselines"):
        first = next(iter(runs.values())).shortcut_facts
        return judge(frame, tables, task, settings, _names_of(_read(first, task)) if first.is_file() else ())


def shortcuts_of_splits(
    run: RunFolder, frame: pd.DataFrame, data: Any, settings: Settings, learnt_from: Mapping[str, Collection[str]]
) -> Shortcuts:
    """Baselines beside predictions of rows that were set aside, where the training part is not one of the run's own.

    Args:
        run: whose folder keeps what they predict.
        frame: the model's predictions of the rows set aside.
        data: the data module, with all parts loaded.
        settings: of the model's evaluation.
        learnt_from: by fold, ids of the rows that the baselines may learn from.
    """
    task: Task = data.task
    with progress("comparing with shortcut baselines"):
        facts = facts_of(data)
        found: dict[str, list[pd.DataFrame]] = {}
        for fold, ids in learnt_from.items():
            train, rows = facts[facts["id"].isin(set(ids))], frame[frame["fold"] == fold].reset_index(drop=True)
            for name, table in baseline_tables(train, facts, rows, task).items():
                found.setdefault(name, []).append(table)
        whole = {name: tables for name, tables in found.items() if len(tables) == len(learnt_from)}
        tables = {name: pd.concat(parts, ignore_index=True) for name, parts in whole.items()}
        for name, table in tables.items():
            write_predictions(table, run.shortcut_predictions(name))
        return judge(frame, tables, task, settings, _names_of(facts))


def say_shortcuts(found: Shortcuts, settings: Settings, unit: str, of_target: str = "") -> None:
    """Warn on the terminal where a model is not ahead of a baseline; of one of several targets by its name."""
    if said := alarm(found, settings.confidence, unit):
        print(f"WARNING: {of_target}: {said}" if of_target else f"WARNING: {said}")


def _names_of(facts: pd.DataFrame) -> list[str]:
    """Facts without what their columns begin with."""
    prefixes = PREFIXES["facts"]
    return [str(name).partition(" ")[2] for name in facts if str(name).startswith(prefixes)]


def _write(facts: pd.DataFrame, path: Path) -> None:
    with replacing(path) as temporary:
        facts.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def _read(path: Path, task: Task) -> pd.DataFrame:
    """A table of facts as it was written.

    Raises:
        InputError: it is damaged, or of another question.
    """
    try:
        facts = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    if missing := [name for name in ("id", "split", *task.target_columns) if name not in facts]:
        raise InputError(f"{path}: is damaged: it has no column {', '.join(missing)}")
    numbers = [str(name) for name in facts if str(name).startswith(("number ", "covariate "))]
    numbers += task.target_columns if task.several_columns or not task.has_classes else []
    for name in numbers:
        facts[name] = pd.to_numeric(facts[name], errors="coerce")
    return facts


def _read_train(path: Path, task: Task) -> pd.DataFrame:
    facts = _read(path, task)
    return facts[facts["split"] == "train"]
