"""Several trained models as one: the mean of their answers, and how far these lie apart.

(L. Breiman, Machine Learning 24, 1996; B. Lakshminarayanan, A. Pritzel, C. Blundell, NeurIPS 2017.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.errors import InputError, RunError
from medsoft.learn.checkpoints import Checkpoint, load_weights
from medsoft.learn.command_line import CommandLine, option, read_configuration, split_of_this_table
from medsoft.learn.ending import end_run
from medsoft.learn.familiar import score_columns
from medsoft.learn.features import find_familiar
from medsoft.learn.outcome import load_splits, predict_table, show_path, use_views, write_errors_if_any
from medsoft.learn.processes import Processes
from medsoft.learn.run_folder import RunFolder
from medsoft.learn.training import build_trainer
from medsoft.task import Task

SEES = ("use", "data", "transforms", "model")
"""Parts of a configuration that decide what a model is and what it is shown."""


def apply_ensemble(verb: str, argv: Sequence[str], words: Sequence[str], members: Sequence[Checkpoint]) -> int:
    """Predict, and score, with the mean of several models.

    Members of the same architecture and data (folds, seeds) share one reading of the data.

    Args:
        verb: validate, test or predict.
        argv: the command line as it was typed, for the record.
        words: the same without the checkpoints, configurations found.
        members: two or more.

    Returns:
        0; 3 where inputs were left out.

    Raises:
        InputError: a member cannot be read, answers another question, or was trained on another split.
    """
    words, notes = _with_a_common_split(verb, words, members)
    if option(words, "--maps") not in (None, "0"):
        raise InputError("--maps is of one model: name a single checkpoint with --ckpt_path")
    lines: dict[str, CommandLine] = {}
    sharing: dict[str, list[int]] = {}
    for index, member in enumerate(members):
        sees = _sees(member)
        if sees not in lines:
            own = ["--config", str(member.config)] if member.config and option(words, "--config") is None else []
            lines[sees] = CommandLine(verb, split_of_this_table([*own, *words]))
            first = next(iter(lines.values()))
            _require_same_question(members[0], first.datamodule.task, member, lines[sees].datamodule.task)
        load_weights(lines[sees].model, member.file)  # what does not fit is known before work starts
        sharing.setdefault(sees, []).append(index)
    config, data = first.config, first.datamodule
    config.ckpt_path = [str(member.file.resolve()) for member in members]
    processes = Processes.of(config.trainer)
    run = processes.choose_run(config.out, f"{config.name}-{verb}")
    processes.hush()
    frames: dict[int, pd.DataFrame] = {}
    for sees, indices in sharing.items():
        line = lines[sees]
        use_views(line.model, line.datamodule, config.tta)
        trainer = build_trainer(line.config, [])
        splits = load_splits(line.datamodule, verb)
        line.datamodule.divide(processes.rank, processes.number)
        if line is first and processes.is_first:
            run.begin(verb, argv, first.resolved())
            print("\n".join([*data.notes, *notes, f"{len(members)} models", f"Run: {show_path(run.path)}"]))
        for index in indices:
            load_weights(line.model, members[index].file)
            config_file = members[index].config
            line.model.familiar = find_familiar(RunFolder(config_file.parent), line.model) if config_file else None
            frames[index] = predict_table(trainer, line.model, line.datamodule, splits)
    if not processes.is_first:
        return 0
    code = write_errors_if_any(run, data.errors)
    mean = mean_of([frames[index] for index in range(len(members))], data.task)
    end_run(run, mean, data, config, trainer, first.model, members=len(members))
    return code


def mean_of(frames: Sequence[pd.DataFrame], task: Task) -> pd.DataFrame:
    """Predictions tables of several models on the same samples as one.

    Args:
        frames: two or more.
        task: theirs.

    Returns:
        The first table with the mean of all answers, then ``members``, their number, and for each class
        ``spread_<class>`` (of a regression ``spread``): the standard deviation over the members (n - 1). The mean of
        ``ood_score`` where all have one, and ``abstain`` where that is above 1.

    Raises:
        RunError: the tables hold different samples.
    """
    first = frames[0]
    for frame in frames[1:]:
        if not frame[["id", "split"]].equals(first[["id", "split"]]):
            raise RunError("the members predicted different samples: their configurations leave out different rows")
    names = task.p_columns
    answers_MNC = np.stack([frame[names].to_numpy(dtype=np.float64) for frame in frames])
    mean = first.copy()
    mean[names] = answers_MNC.mean(axis=0)
    if all("ood_score" in frame for frame in frames):
        for name, values in score_columns(np.mean([frame["ood_score"] for frame in frames], axis=0)).items():
            mean[name] = values
    else:
        mean = mean.drop(columns=["ood_score", "abstain"], errors="ignore")
    mean["members"] = len(frames)
    for name, spread in zip(names, answers_MNC.std(axis=0, ddof=1).T, strict=True):
        mean["spread" if name == "prediction" else f"spread_{name.removeprefix('p_')}"] = spread
    return mean


def _sees(member: Checkpoint) -> str:
    """What decides a member's architecture and data, as text; members of which it is equal share a reading."""
    config = _configuration(member)
    parts = {name: config.get(name) for name in SEES}
    parts["data"] = {name: value for name, value in (parts["data"] or {}).items() if name != "splits_from"}
    return json.dumps(parts, sort_keys=True)


def _configuration(member: Checkpoint) -> dict[str, Any]:
    return read_configuration(member.config) if member.config else {}


def _require_same_question(first: Checkpoint, asked: Task, other: Checkpoint, task: Task) -> None:
    if asked != task:
        raise InputError(
            f"{other.file} and {first.file} answer different questions: {task.kind} ({', '.join(task.classes)}) and "
            f"{asked.kind} ({', '.join(asked.classes)})"
        )


def _with_a_common_split(verb: str, words: Sequence[str], members: Sequence[Checkpoint]) -> tuple[list[str], list[str]]:
    """The command line without the members' own splits of the table at hand where these differ, and what to say.

    Raises:
        InputError: a part of the table is asked for, which is another one for each member.
    """
    if option(words, "--data.splits_from") is not None:
        return list(words), []
    table = option(words, "--data.table")
    splits = set()
    for member in members:
        own = _configuration(member).get("data", {}).get("table")
        if member.config and own and (table is None or Path(own).resolve() == Path(table).resolve()):
            file = member.config.with_name("split.csv")
            splits.add(file.read_bytes() if file.is_file() else b"")
    if len(splits) < 2:
        return list(words), []
    if verb != "predict":
        raise InputError(
            f"medsoft {verb}: each member was trained on another split of this table, so that there is no {verb} part "
            "that none of them has seen. Name a table of its own with --data.table, or a split with --data.splits_from"
        )
    note = (
        "WARNING: the members were trained on parts of this very table, each on another: these predictions are too "
        "good to judge them by. Those of a cross-validation are in its predictions.csv"
    )
    return [*words, "--data.splits_from=null"], [note]
