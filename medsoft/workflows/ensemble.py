"""``validate``, ``test`` and ``predict`` with several trained models as one."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.locked import decide_each, read_locks, write_decisions
from medsoft.evaluation.tables.ensemble import mean_of
from medsoft.parsing.configurations import read_configuration
from medsoft.parsing.lightning_cli import CommandLine, split_of_this_table
from medsoft.parsing.words import Words
from medsoft.runs.checkpoint_paths import Checkpoint
from medsoft.runs.checkpoints import load_weights
from medsoft.runs.run_folder import RunFolder
from medsoft.runs.table_rows import check_rows
from medsoft.task import Task
from medsoft.training.distributed import Processes
from medsoft.training.ood_features import find_detector
from medsoft.training.predict import load_splits, predict_table, show_path, use_views, write_errors_if_any
from medsoft.training.shift import Shift, say, shift_of
from medsoft.training.trainer import build_trainer
from medsoft.workflows.finish import check_options, end_run

SEES = ("use", "data", "transforms", "model")
"""Parts of a configuration that decide what a model is and what it is shown."""
PLACES = (
    *("table", "root", "splits_from", "split", "batch_size", "num_workers", "cache", "cache_gib", "cache_dir"),
    *("foreground", "parts", "dicom_seg", "resample_masks"),
)
"""Options of the data that do not decide what a model is shown."""


def apply_ensemble(
    verb: str, argv: Sequence[str], words: Words, members: Sequence[Checkpoint], model_of: RunFolder | None = None
) -> int:
    """Predict, and score, with the mean of several models.

    Members of the same architecture and data (folds, seeds) share one reading of the data.

    Args:
        verb: validate, test or predict.
        argv: the command line as it was typed, for the record.
        words: the same without the checkpoints, configurations found.
        members: two or more.
        model_of: the folder that locked thresholds for the mean of these members, where there is one.

    Returns:
        0; 3 where inputs were left out.

    Raises:
        InputError: a member cannot be read, answers another question, or was trained on another split.
    """
    words, notes = _with_a_common_split(verb, words, members)
    if words.last("maps") not in (None, "0"):
        raise InputError("--maps is of one model: name a single checkpoint with --checkpoint")
    lines: dict[str, CommandLine] = {}
    sharing: dict[str, list[int]] = {}
    for index, member in enumerate(members):
        sees = _sees(member)
        if sees not in lines:
            saved = member.config if words.last("config") is None else None
            own = words if saved is None else words.begun_with("config", str(saved))
            lines[sees] = CommandLine(verb, split_of_this_table(own), saved)
            first = next(iter(lines.values()))
            _require_same_question(members[0], first.datamodule.task, member, lines[sees].datamodule.task)
        load_weights(lines[sees].model, member.file)  # what does not fit is known before work starts
        notes += [note for note in lines[sees].model.differences if note not in notes]
        sharing.setdefault(sees, []).append(index)
    config, data = first.config, first.datamodule
    if data.task.no_ensemble:
        raise InputError(f"--checkpoint: {data.task.no_ensemble}: name a single checkpoint, such as that of one fold")
    check_options(data.task, config, words)
    if data.task.has_masks:
        first.model.join(_joined(lines, sharing, members))
        sharing = {next(iter(sharing)): [0]}
    config.checkpoint = [str(member.file.resolve()) for member in members]
    processes = Processes.of(config.trainer)
    run = processes.choose_run(config.out, f"{config.name}-{verb}")
    processes.hush()
    if data.task.has_masks:
        first.model.masks = run.masks
    frames: dict[int, pd.DataFrame] = {}
    shifts: list[Shift] = []
    kept: dict[int, dict[str, Any]] = {}
    for sees, indices in sharing.items():
        line = lines[sees]
        use_views(line.model, line.datamodule, config.tta)
        trainer = build_trainer(line.config, [])
        line.datamodule.keeps_facts = config.shortcuts and line is first
        splits = load_splits(line.datamodule, verb)
        line.datamodule.divide(processes.rank, processes.number)
        if line is first and processes.is_first:
            said = check_rows(data, verb, splits, config, members)
            run.begin(verb, argv, first.resolved())
            about = [f"{len(members)} models", f"Run: {show_path(run.path)}"]
            print("\n".join([*first.notes, *said, *data.notes, *notes, *about]))
        for index in indices:
            load_weights(line.model, members[index].file)
            kept[index] = line.model.kept
            config_file = members[index].config
            line.model.detector = find_detector(RunFolder(config_file.parent), line.model) if config_file else None
            seen: list[list[np.ndarray]] = []
            frames[index] = predict_table(trainer, line.model, line.datamodule, splits, seen)
            if (shift := shift_of(line.model.detector, line.model.input_names, seen)) is not None:
                shifts.append(shift)
    if not processes.is_first:
        return 0
    code = write_errors_if_any(run, data.errors)
    mean = frames[0].assign(members=len(members))
    if not data.task.has_masks:
        mean = mean_of([frames[index] for index in range(len(members))], data.task)
    trained = [RunFolder(member.config.parent) for member in members if member.config]
    end_run(
        run,
        mean,
        data,
        config,
        trainer,
        first.model,
        model_of=model_of,
        members=len(members),
        said=say(verb, shifts, data.unit),
        trained=trained if len(trained) == len(members) else [],
        kept=[kept[index] for index in sorted(kept)],
    )
    if model_of is not None and (locks := read_locks(model_of.path, data.task)):
        write_decisions(decide_each(mean, data.task, locks), run.path / "decisions.csv")
    return code


def _joined(
    lines: Mapping[str, CommandLine], sharing: Mapping[str, Sequence[int]], members: Sequence[Checkpoint]
) -> list[Any]:
    """The models of all members but the first, with their weights: masks are of the mean of all probabilities.

    Raises:
        InputError: a member is shown other pictures, so that pixels do not belong together.
    """
    first, models = _configuration(members[0]), []
    for sees, indices in sharing.items():
        for index in indices:
            own = _configuration(members[index])
            for part in ("transforms", "data"):
                theirs, ours = (
                    {name: value for name, value in (one.get(part) or {}).items() if name not in PLACES}
                    for one in (own, first)
                )
                if differing := sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name)):
                    raise InputError(
                        f"{members[index].file} and {members[0].file} were trained with different {part}."
                        f"{differing[0]}: masks are joined pixel by pixel; name models that are shown the same pictures"
                    )
            if index:
                models.append(copy.deepcopy(lines[sees].model))
                load_weights(models[-1], members[index].file)
    return models


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
        raise InputError(f"{other.file} and {first.file} answer different questions: {task} and {asked}")


def _with_a_common_split(verb: str, words: Words, members: Sequence[Checkpoint]) -> tuple[Words, list[str]]:
    """The command line without the members' own splits of the table at hand where these differ, and what to say.

    Raises:
        InputError: a part of the table is asked for, which is another one for each member.
    """
    if words.last("data.splits_from") is not None:
        return words, []
    table = words.last("data.table")
    splits = set()
    for member in members:
        own = _configuration(member).get("data", {}).get("table")
        if member.config and own and (table is None or Path(own).resolve() == Path(table).resolve()):
            file = member.config.with_name("split.csv")
            splits.add(file.read_bytes() if file.is_file() else b"")
    if len(splits) < 2:
        return words, []
    if verb != "predict":
        raise InputError(
            f"medsoft {verb}: each member was trained on another split of this table, so that there is no {verb} part "
            "that none of them has seen. Name a table of its own with --data.table, or a split with --data.splits_from"
        )
    note = (
        "WARNING: the members were trained on parts of this very table, each on another: these predictions are too "
        "good to judge them by. Those of a cross-validation are in its predictions.csv"
    )
    return words.ended_with("data.splits_from", "null"), [note]
