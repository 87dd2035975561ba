"""The verb crossval: one ordinary run a fold, one after another, in parallel, or as jobs of a cluster."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np

from medsoft.data.tables.folds import Design, make_folds, notes_on_folds
from medsoft.data.tables.split import UNUSED
from medsoft.encoders.choice import with_default_encoder
from medsoft.errors import InputError, RunError, check_range
from medsoft.parsing.lightning_cli import CommandLine, read_words
from medsoft.parsing.parser import call
from medsoft.runs.crossval_folder import CrossvalFolder, PlannedFold
from medsoft.runs.table_rows import require_same_table, rows_of, write_rows
from medsoft.system.signals import Stopped, stopping_at_once
from medsoft.training.distributed import Processes
from medsoft.training.predict import show_path
from medsoft.training.silence_warnings import silence_warnings
from medsoft.training.trainer import build_trainer, check_monitored, monitored
from medsoft.workflows.crossval_jobs import run_in_processes
from medsoft.workflows.crossval_results import collect
from medsoft.workflows.fit import fit
from medsoft.workflows.tracking.loggers import begin_parent, require_tracker


def crossval(argv: Sequence[str]) -> int:
    """Train and report each fold of a table, then gather the folds.

    Returns:
        0; 3 where inputs were left out (errors.csv); 130 or 143 after Ctrl-C or SIGTERM, with a state to go on from.
    """
    silence_warnings()
    words = read_words("crossval", argv)
    if words.last("resume") is not None:
        code: int = call(go_on, argv, "crossval")
        return code
    words, notes = with_default_encoder(words)
    line = CommandLine("crossval", words)
    line.notes[:0] = notes
    config = line.config
    require_tracker(config.logger)
    line.model.check_training(config, line.datamodule)
    if config.fold is not None and config.out is None:
        raise InputError("--fold runs one fold of several: name the folder where all meet with --out")
    folder = CrossvalFolder(Path(config.out or Path("runs") / f"{config.name}-crossval" / _now()))
    fractions = _fractions(config.learning_curve, config.train_fraction)
    if fractions and line.datamodule.task.parts:
        raise InputError("--learning_curve is of one target: leave it out with data.targets")
    begun = divide(line, folder, config.train_fraction)
    begin_parent(config.logger, config.name, folder.path)
    for fraction in fractions:
        divide(line, folder.part(fraction), fraction)
    said = _same_table(line, folder, config.changed_table) if begun else []
    print("\n".join([*line.notes, *said, *line.datamodule.notes, *_described(folder, begun)]))
    return work(folder, config.jobs, config.fold, config.collect, line.trusted)


def go_on(
    resume: str,
    jobs: int = 1,
    fold: int | None = None,
    collect: bool = False,
    changed_table: Literal["error", "accept"] = "error",
    trust: bool = False,
) -> int:
    """Go on with a cross-validation in its own folder, as it was configured.

    Args:
        resume: The folder.
        jobs: Folds that run at the same time, each in a process of its own.
        fold: Run this fold alone, and gather nothing.
        collect: Run nothing, and gather folds that have all finished.
        changed_table: Where the table has changed since it was divided (rows, labels, parts), error, or accept.
        trust: Import classes of your own that its configuration names.
    """
    folder = CrossvalFolder.existing(resume)
    said = []
    if folder.rows.is_file() and not collect:
        line = CommandLine("crossval", ["--config", str(folder.config), *(["--trust"] if trust else [])])
        said = _same_table(line, folder, changed_table)
    print("\n".join([*said, *_described(folder, begun=True)]))
    return work(folder, jobs, fold, collect, trust)


def work(folder: CrossvalFolder, jobs: int, fold: int | None, only_collect: bool, trusted: bool) -> int:
    """Run what has not finished, and gather; first the parts of a learning curve, which take the least time.

    Args:
        folder: of a cross-validation that has begun.
        jobs: folds that run at the same time.
        fold: the only one to run; None for all.
        only_collect: run none.
        trusted: whether the configuration may name classes other than medsoft's own.

    Returns:
        An exit code.

    Raises:
        InputError: there is no such fold, or folds are missing that are to be gathered.
        RunError: folds failed.
    """
    check_range("jobs", jobs, 1)
    try:
        with stopping_at_once():
            return _work(folder, jobs, fold, only_collect, trusted)
    except Stopped as stop:  # outside of the folds' runs, which tell it themselves
        print(f"Stopped. {_go_on_with(folder)}", file=sys.stderr)
        return 128 + stop.signal


def _work(folder: CrossvalFolder, jobs: int, fold: int | None, only_collect: bool, trusted: bool) -> int:
    for fraction, part in folder.parts.items():
        if part.metrics.is_file() and not only_collect:
            continue  # gathered before
        print(f"Learning curve: {fraction:g} of the training patients", flush=True)
        code = _work(part, jobs, fold, only_collect, trusted)
        if code not in (0, 3):
            return code
    folds = folder.folds
    if fold is not None:
        if only_collect:
            raise InputError("--fold runs one fold and --collect gathers all of them: leave out one of the two")
        if not 0 <= fold < len(folds):
            raise InputError(f"--fold {fold}: there are folds 0 to {len(folds) - 1}")
        return run_fold(folder, folds[fold], len(folds), trusted)
    if not only_collect:
        code = _run_all(folder, folds, jobs, trusted)
        if code not in (0, 3):
            return code
    return collect(folder)


def run_fold(folder: CrossvalFolder, fold: PlannedFold, of: int, trusted: bool) -> int:
    """Train and predict one fold, go on with it where it was stopped, or find it finished.

    Returns:
        The exit code of its run.

    Raises:
        RunError: another process is at work on it, or the training failed.
    """
    run = folder.run(fold.number)
    trust = ["--trust"] if trusted else []
    with folder.working_on(fold.number):
        if folder.is_finished(fold.number):
            print(f"Fold {fold.number}: has finished before ({show_path(run.path)})")
            return 3 if run.errors.is_file() else 0
        print(f"Fold {fold.number} ({of} folds, from 0): {_counts(fold)}", flush=True)
        if run.last.is_file():
            # The table was compared with that of the whole cross-validation before.
            words = ["--resume", str(run.path), "--changed_table=accept"]
        else:
            folder.check_split(fold)
            if run.path.exists():  # what was killed before its first checkpoint begins anew
                shutil.rmtree(run.path)
            words = ["--config", str(folder.config), f"--data.splits_from={folder.split(fold.number)}"]
            words += [f"--seed_everything={fold.seed}", f"--out={run.path}"]
        with stopping_at_once() as came:
            code = fit([*words, *trust])
        return 128 + came[0] if came and code in (0, 3) else code


def _run_all(folder: CrossvalFolder, folds: Sequence[PlannedFold], jobs: int, trusted: bool) -> int:
    """Run all folds that have not finished; what fails is told when the others are done."""
    waiting = [fold for fold in folds if not folder.is_finished(fold.number)]
    if jobs > 1 and len(waiting) > 1:
        return run_in_processes(folder, waiting, jobs, trusted)
    failed: list[str] = []
    worst = 0
    for fold in waiting:
        try:
            code = run_fold(folder, fold, len(folds), trusted)
        except RunError as error:
            print(f"Fold {fold.number}: {error}", file=sys.stderr)
            failed.append(str(fold.number))
            continue
        if code not in (0, 3):  # stopped by the user or the cluster
            print(_go_on_with(folder), file=sys.stderr)
            return code
        worst = max(worst, code)
    if failed:
        raise RunError(f"fold {', '.join(failed)} of {show_path(folder.path)} did not finish; the others are kept")
    return worst


def _go_on_with(folder: CrossvalFolder) -> str:
    return f"Go on with the cross-validation: medsoft crossval --resume {show_path(folder.path)}"


def _same_table(line: CommandLine, folder: CrossvalFolder, changed_table: str) -> list[str]:
    """Compare the table with what it said when it was divided; what is accepted holds from here on.

    Raises:
        InputError: it has changed, and that is not accepted.
    """
    source, rows = line.datamodule.samples.source, rows_of(line.datamodule)
    changed = require_same_table(folder.rows, rows, source, changed_table == "accept")
    if changed:
        for one in (folder, *folder.parts.values()):
            write_rows(rows, one.rows)
    return changed.accepted(source)


def _fractions(asked: str | list[float] | None, train_fraction: float) -> list[float]:
    """The parts of the training data for a learning curve, beside all of it.

    Raises:
        InputError: they are no numbers between 0 and 1, or a part alone is asked for at the same time.
    """
    if asked is None:
        return []
    if train_fraction != 1:
        raise InputError("--train_fraction trains on one part, --learning_curve on several: leave out one of the two")
    words = asked.strip("[] ").split(",") if isinstance(asked, str) else asked
    try:
        fractions = {float(word) for word in words}
    except ValueError:
        raise InputError(f"--learning_curve {asked}: fractions separated by commas, such as 0.25,0.5") from None
    if not all(0 < fraction <= 1 for fraction in fractions) or not fractions - {1.0}:
        raise InputError(f"--learning_curve {asked}: each fraction must lie above 0, and one at least below 1")
    return sorted(fractions - {1.0})


def divide(line: CommandLine, folder: CrossvalFolder, train_fraction: float = 1) -> bool:
    """Divide the table, check what every fold would check, and write it down; says whether it had been already.

    Raises:
        InputError: the table cannot be divided so, or the folder holds something else.
    """
    config, data = line.config, line.datamodule
    design = Design(
        folds=config.folds,
        column=config.fold_column,
        by_site=config.leave_one_site_out,
        repeats=config.repeats,
        val_fraction=config.data.val_fraction,
        seed=config.seed_everything,
        train_fraction=train_fraction,
    )
    check_range("jobs", config.jobs, 1)
    monitored(config.monitor, data.task)  # raises where there is no such metric
    build_trainer(config, [])
    if Processes.of(config.trainer).number > 1:
        raise InputError("trainer.devices: crossval trains each fold in one process; --jobs trains folds side by side")
    folds = make_folds(data.samples, design)
    if config.fold is not None and not 0 <= config.fold < len(folds):
        raise InputError(f"--fold {config.fold}: there are folds 0 to {len(folds) - 1}")
    for fold in folds:
        part = data.samples.select(fold.split == "val")
        monitor, _ = monitored(config.monitor, data.task, part.frame)
        try:
            check_monitored(monitor, part, data.eval_batch_size, config.trainer.limit_val_batches)
            data.covariates_in(fold.split)
        except InputError as error:
            raise InputError(f"fold {fold.number} ({fold.name}): {error}") from None
    data.notes += [note for note in notes_on_folds(data.samples, folds) if note not in data.notes]
    each = line.pinned()
    each["data"]["splits_from"] = None  # each fold brings its own
    aside = np.full(len(data.set_aside), UNUSED, dtype=object)  # by the file of splits that was given
    folds = [replace(fold, split=np.concatenate([fold.split, aside])) for fold in folds]
    return folder.begin(design, folds, data.all_rows["id"].tolist(), each, rows_of(data))


def _described(folder: CrossvalFolder, begun: bool) -> list[str]:
    folds = folder.folds
    finished = sum(folder.is_finished(fold.number) for fold in folds)
    repeats = len({fold.repeat for fold in folds})
    what = f"{len(folds) // repeats} folds" + (f", {repeats} times" if repeats > 1 else "")
    state = f", {finished} of {len(folds)} finished" if begun else ""
    return [f"Cross-validation: {what}{state}: {show_path(folder.path)}"]


def _counts(fold: PlannedFold) -> str:
    n = ", ".join(f"{part} {fold.n.get(part, 0)}" for part in ("train", "val", "test"))
    unused = f", unused {fold.n['unused']}" if fold.n.get("unused") else ""
    named = "" if fold.name.isdecimal() else f"test is {fold.name}; "
    return f"{named}{n}{unused}, seed {fold.seed}"


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
