"""The verb crossval: one ordinary run a fold, one after another, in parallel, or as jobs of a cluster."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from medsoft.data.folds import Design, make_folds
from medsoft.errors import InputError, RunError, check_range
from medsoft.learn.command_line import CommandLine, option
from medsoft.learn.crossval_folder import CrossvalFolder, PlannedFold
from medsoft.learn.crossval_jobs import run_in_processes
from medsoft.learn.crossval_results import collect
from medsoft.learn.outcome import show_path
from medsoft.learn.processes import Processes
from medsoft.learn.quiet import quieten
from medsoft.learn.training import build_trainer, check_monitored, monitored
from medsoft.learn.verbs import fit
from medsoft.parsing import call, with_configurations_found

FLAGS = ("--leave_one_site_out", "--collect")
WITH_DASHES = ("--leave-one-site-out", "--fold-column")


def crossval(argv: Sequence[str]) -> int:
    """Train and report each fold of a table, then gather the folds.

    Returns:
        0; 3 where inputs were left out (errors.csv); 130 or 143 after Ctrl-C or SIGTERM, with a state to go on from.
    """
    quieten()
    words = with_configurations_found(_own_spelling(argv))
    if option(words, "--resume") is not None:
        code: int = call(go_on, words, "crossval")
        return code
    line = CommandLine("crossval", words)
    config = line.config
    if config.fold is not None and config.out is None:
        raise InputError("--fold runs one fold of several: name the folder where all meet with --out")
    folder = CrossvalFolder(Path(config.out or Path("runs") / f"{config.name}-crossval" / _now()))
    begun = _plan(line, folder)
    print("\n".join([*line.datamodule.notes, *_described(folder, begun)]))
    return work(folder, config.jobs, config.fold, config.collect)


def go_on(resume: str, jobs: int = 1, fold: int | None = None, collect: bool = False) -> int:
    """Go on with a cross-validation in its own folder, as it was configured.

    Args:
        resume: The folder.
        jobs: Folds that run at the same time, each in a process of its own.
        fold: Run this fold alone, and gather nothing.
        collect: Run nothing, and gather folds that have all finished.
    """
    folder = CrossvalFolder.existing(resume)
    print("\n".join(_described(folder, begun=True)))
    return work(folder, jobs, fold, collect)


def work(folder: CrossvalFolder, jobs: int, fold: int | None, only_collect: bool) -> int:
    """Run what has not finished, and gather.

    Args:
        folder: of a cross-validation that has begun.
        jobs: folds that run at the same time.
        fold: the only one to run; None for all.
        only_collect: run none.

    Returns:
        An exit code.

    Raises:
        InputError: there is no such fold, or folds are missing that are to be gathered.
        RunError: folds failed.
    """
    check_range("jobs", jobs, 1)
    folds = folder.folds
    if fold is not None:
        if only_collect:
            raise InputError("--fold runs one fold and --collect gathers all of them: leave out one of the two")
        if not 0 <= fold < len(folds):
            raise InputError(f"--fold {fold}: there are folds 0 to {len(folds) - 1}")
        return run_fold(folder, folds[fold], of=len(folds))
    if not only_collect:
        code = _run_all(folder, folds, jobs)
        if code not in (0, 3):
            return code
    return collect(folder)


def run_fold(folder: CrossvalFolder, fold: PlannedFold, of: int) -> int:
    """Train and predict one fold, go on with it where it was stopped, or find it finished.

    Returns:
        The exit code of its run.

    Raises:
        RunError: another process is at work on it, or the training failed.
    """
    run = folder.run(fold.number)
    with folder.working_on(fold.number):
        if folder.is_finished(fold.number):
            print(f"Fold {fold.number}: has finished before ({show_path(run.path)})")
            return 3 if run.errors.is_file() else 0
        print(f"Fold {fold.number} ({of} folds, from 0): {_counts(fold)}", flush=True)
        if run.last.is_file():
            return fit(["--resume", str(run.path)])
        if run.path.exists():  # what was killed before its first checkpoint begins anew
            shutil.rmtree(run.path)
        words = ["--config", str(folder.config), f"--data.splits_from={folder.split(fold.number)}"]
        return fit([*words, f"--seed_everything={fold.seed}", f"--out={run.path}"])


def _run_all(folder: CrossvalFolder, folds: Sequence[PlannedFold], jobs: int) -> int:
    """Run all folds that have not finished; what fails is told when the others are done."""
    waiting = [fold for fold in folds if not folder.is_finished(fold.number)]
    if jobs > 1 and len(waiting) > 1:
        return run_in_processes(folder, waiting, jobs)
    failed: list[str] = []
    worst = 0
    for fold in waiting:
        try:
            code = run_fold(folder, fold, of=len(folds))
        except RunError as error:
            print(f"Fold {fold.number}: {error}", file=sys.stderr)
            failed.append(str(fold.number))
            continue
        if code not in (0, 3):  # stopped by the user or the cluster
            again = f"medsoft crossval --resume {show_path(folder.path)}"
            print(f"Go on with the cross-validation: {again}", file=sys.stderr)
            return code
        worst = max(worst, code)
    if failed:
        raise RunError(f"fold {', '.join(failed)} of {show_path(folder.path)} did not finish; the others are kept")
    return worst


def _plan(line: CommandLine, folder: CrossvalFolder) -> bool:
    """Divide the table, check what every fold would check, and write it down; says whether it had been already."""
    config, data = line.config, line.datamodule
    design = Design(
        folds=config.folds,
        column=config.fold_column,
        by_site=config.leave_one_site_out,
        repeats=config.repeats,
        val_fraction=config.data.val_fraction,
        seed=config.seed_everything,
    )
    check_range("jobs", config.jobs, 1)
    monitor, _ = monitored(config.monitor, data.task.kind)
    build_trainer(config, [])
    if Processes.of(config.trainer).number > 1:
        raise InputError("trainer.devices: crossval trains each fold in one process; --jobs trains folds side by side")
    folds = make_folds(data.samples, design)
    if config.fold is not None and not 0 <= config.fold < len(folds):
        raise InputError(f"--fold {config.fold}: there are folds 0 to {len(folds) - 1}")
    for fold in folds:
        part = data.samples.select(fold.split == "val")
        try:
            check_monitored(monitor, part, data.eval_batch_size, config.trainer.limit_val_batches)
        except InputError as error:
            raise InputError(f"fold {fold.number} ({fold.name}): {error}") from None
    each = line.pinned()
    each["data"]["splits_from"] = None  # each fold brings its own
    return folder.begin(design, folds, data.samples.frame["id"].tolist(), each)


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


def _own_spelling(argv: Sequence[str]) -> list[str]:
    """Options with - as with _, and flags as true."""
    words = []
    for word, following in zip(argv, [*argv, None][1:], strict=True):
        name, equals, value = word.partition("=")
        name = name.replace("-", "_").replace("__", "--", 1) if name in WITH_DASHES else name
        bare = name in FLAGS and not equals and following not in ("true", "false")
        words.append(f"{name}=true" if bare else name + equals + value)
    return words


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
