"""The verb ``auto``: compare candidates on inner folds within a budget, take the best, and report once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from medsoft.data.tables.folds import Design, make_folds
from medsoft.errors import InputError, check_range
from medsoft.parsing.lightning_cli import CommandLine, read_words
from medsoft.parsing.options_of_plans import OF_AUTO
from medsoft.parsing.words import Words
from medsoft.planning.budget import Clock, as_option, duration_in_words, enough, parse_duration
from medsoft.planning.tuning import require_optuna
from medsoft.runs.auto_folder import AutoFolder
from medsoft.runs.table_rows import require_same_table, rows_of, write_rows
from medsoft.storage.files import hold_folder, is_empty, replacing, require_writable
from medsoft.system.signals import Stopped, stopping_at_once
from medsoft.training.predict import show_path
from medsoft.training.silence_warnings import silence_warnings
from medsoft.workflows.plans.develop import Call, develop, needs_now, time_left
from medsoft.workflows.plans.plan import ENCODER, Preparation, prepare, split_for_report
from medsoft.workflows.plans.report import report, report_nested
from medsoft.workflows.tracking.loggers import begin_parent, require_tracker
from medsoft.workflows.tracking.sent import end_parent

OUTER_FOLDS = 5
"""Of a nested cross-validation; 3 where a class has few patients."""

ON_ERROR = "data.on_error"
"""May change when a call is resumed: what is to be done with files that can no longer be read."""

KEPT_OPTIONS = ("folds", *(name for name in OF_AUTO if name != "budget"))
"""Options of the verb itself that a folder is bound to; a budget may be raised."""


def auto(argv: Sequence[str]) -> int:
    """Compare models on inner folds within a budget of time, take the best or their mean, and report once.

    Returns:
        0; 3 where inputs were left out (errors.csv); 130 or 143 after Ctrl-C or SIGTERM, with a state to go on from.

    Raises:
        InputError: the table, an option or the budget is wrong.
        RunError: no candidate has finished.
    """
    silence_warnings()
    words = read_words("auto", argv)
    words = _resumed(words) if words.last("resume") is not None else words
    line = CommandLine("auto", words.without(ENCODER))
    call = _begin(line, argv, words.last(ENCODER))
    if call.is_finished:
        print(f"Finished before: {show_path(call.folder.path)}. A larger --budget goes on with what was not tried")
        return 0
    call.state["finished"] = False  # until it has reported again, wherever it is stopped
    try:
        with stopping_at_once():
            code = _nested(call) if line.config.nested else _once(call)
    except Stopped as stop:  # between trainings, which answer themselves
        return _say_stopped(call, stop)
    if code in (0, 3):
        _say_what_is_left(call)
        print(f"Results: {show_path(call.folder.path)}")
    return code


def _say_stopped(call: Call, stop: Stopped) -> int:
    """Keep the state, and tell the user how to go on; returns the exit code."""
    if call.folder.state.is_file():
        call.save()
        print(f"Stopped. Go on with: medsoft auto --resume {show_path(call.folder.path)}", file=sys.stderr)
    else:
        print("Stopped. Nothing is saved yet.", file=sys.stderr)
    return 128 + stop.signal


def _resumed(words: Words) -> Words:
    """The words of the call that a folder was made by, with a larger budget or another on_error where that is given."""
    folder = AutoFolder.existing(str(words.last("resume")))
    others = [name for name, _ in words.options if name not in ("resume", "budget", "trust", ON_ERROR)]
    if others or words.loose:
        raise InputError(f"--resume goes on as it was begun: leave out {', '.join([*others, *words.loose])}")
    state = folder.read()
    begun = Words((("config", str(folder.config)), ("out", str(folder.path))))
    for name, value in state["asked"].items():
        if value not in (None, False):
            begun = begun.ended_with(name, str(value).lower() if isinstance(value, bool) else str(value))
    budget = words.last("budget") or f"{state['budget']:g}s"
    begun = begun.ended_with("budget", budget)
    if (on_error := words.last(ON_ERROR)) is not None:
        begun = begun.ended_with(ON_ERROR, on_error)
    return begun.ended_with("trust", "true") if words.is_true("trust") else begun


def _begin(line: CommandLine, argv: Sequence[str], encoder: str | None) -> Call:
    """Make the folder of a new call, or find what an earlier one has done."""
    config = line.config
    budget = parse_duration(config.budget)
    require_tracker(config.logger)
    if config.tune:
        require_optuna()
    if config.folds is not None:
        check_range("folds", config.folds, 2)
    folder = AutoFolder(Path(config.out or Path("runs") / f"{config.name}-auto" / _now()))
    require_writable(folder.path)
    asked = {**{name: config[name] for name in KEPT_OPTIONS}, ENCODER: encoder}
    split_for_report(line, config.nested)
    rows = rows_of(line.datamodule)
    given = line.pinned()
    if folder.state.is_file():
        state = folder.read()
        _require_same(folder, state, asked, given)
        require_same_table(folder.rows, rows, line.datamodule.samples.source, config.changed_table == "accept")
        hold_folder(folder.path)
        state["budget"] = max(budget, float(state["budget"]))
        retries = _takes_errors_otherwise(folder, state, given)
        return Call(line, folder, state, Clock(state["budget"], float(state["seconds"])), retries)
    if not is_empty(folder.path):
        raise InputError(f"{folder.path}: holds files already; choose another folder with --out")
    clock = Clock(budget)
    state = {"asked": asked, "config": given, "command": ["medsoft", "auto", *argv], "budget": budget, "folds": 0}
    state |= {"seconds": 0.0, "candidates": [], "chosen": [], "features": {}, "finished": False, "finished_with": 0.0}
    return Call(line, folder, state, clock)


def _takes_errors_otherwise(folder: AutoFolder, state: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether rows that cannot be read are left out from here on, or no more; the folder remembers it."""
    if state["config"]["data"].get("on_error") == given["data"].get("on_error"):
        return False
    state["config"]["data"]["on_error"] = given["data"]["on_error"]
    folder.write_config(state["config"], folder.config)
    state["finished"] = False
    return True


def _require_same(folder: AutoFolder, state: dict[str, Any], asked: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse a folder that another command has made."""
    before = {**state["asked"], **_flat(state["config"])}
    now = {**asked, **_flat(given)}
    names = (before.keys() | now.keys()) - {ON_ERROR}
    differing = [name for name in names if before.get(name) != now.get(name)]
    if differing:
        name = sorted(differing)[0]
        raise InputError(
            f"{folder.path}: was begun with other options ({name} was {before.get(name)!r}, and is {now.get(name)!r} "
            f"now); choose another folder with --out, or go on as it was: medsoft auto --resume {folder.path}"
        )


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat


def _plan(call: Call) -> Preparation | None:
    """Look at the table, propose candidates and measure them, unless that was done before.

    Raises:
        InputError: the table is too small, or the budget for any candidate.
    """
    state, line = call.state, call.line
    if state["candidates"]:
        return None
    made = prepare(line, line.config.nested, state["asked"][ENCODER], trains=True)
    print("\n".join([*line.notes, *line.datamodule.notes, *made.facts.in_words(), *made.said]))
    state["folds"] = made.folds
    for one in made.planned:
        predicted = (
            {} if one.cost is None else {"predicted_seconds": one.cost.seconds, "predicted_features": one.cost.features}
        )
        if one.cost is not None and one.cost.bytes is not None:
            predicted["predicted_gib"] = one.cost.bytes / 2**30
        fits = {"state": "waiting"} if one.cost is not None else {"state": "cannot run", "reason": one.note}
        state["candidates"].append(
            {"name": one.candidate.name, "what": one.candidate.what, "why": one.candidate.why, "chosen": False}
            | {"candidate": one.candidate.to_json(), **predicted, **fits}
        )
    _require_time(call, made)
    hold_folder(call.folder.path)
    call.folder.write_config(state["config"], call.folder.config)
    write_rows(rows_of(line.datamodule), call.folder.rows)
    _write_split(call.folder, line.datamodule.samples.frame["split"].to_numpy(), line)
    begin_parent(line.config.logger, line.config.name, call.folder.path)
    call.save()
    for one in made.planned:
        if one.cost is None:
            print(f"{one.candidate.name}: cannot run: {one.note}")
    names = ", ".join(one.candidate.name for one in made.planned if one.cost is not None)
    print(f"Candidates: {names}; each on {made.folds} inner folds. Budget: {duration_in_words(call.clock.budget)}")
    return made


def _require_time(call: Call, made: Preparation) -> None:
    cheapest = next(one for one in made.planned if one.cost is not None)
    assert cheapest.cost is not None
    runs = 1 + OUTER_FOLDS if call.line.config.nested else 1
    needs = cheapest.cost.seconds * runs + cheapest.cost.features
    if needs > time_left(call):
        budget = enough(call.clock.spent, needs)
        raise InputError(
            f"--budget {call.line.config.budget}: too little for a single candidate. The cheapest, "
            f"{cheapest.candidate.name}, takes about {duration_in_words(needs)} here"
            f"{f' for {runs} runs of a nested cross-validation' if runs > 1 else ''}: "
            f"--budget {as_option(budget)} or more"
        )


def _once(call: Call) -> int:
    """Choose on the development part, and report on the test part."""
    config = call.line.config
    _plan(call)
    code = develop(call, call.folder, call.state)
    if code:
        return code
    code = report(call.line, call.folder, call.state)
    end_parent(config.logger, config.name, call.folder.path)
    _finish(call)
    return code


def _nested(call: Call) -> int:
    """Repeat the whole choice within each outer fold, report on the rows it has not seen, then choose on all rows."""
    _plan(call)
    data, config = call.line.datamodule, call.line.config
    design = Design(folds=_outer_folds(call), seed=config.seed_everything, val_fraction=config.data.val_fraction)
    folds = make_folds(data.samples, design)
    runs = len(folds) + 1
    for done, fold in enumerate(folds):
        folder = call.folder.outer(fold.number)
        state = folder.read() if folder.state.is_file() else _copy_of(call.state)
        _write_split(folder, np.where(fold.split == "test", "test", "train"), call.line)
        print(f"Outer fold {fold.number + 1} of {len(folds)}")
        code = develop(call, folder, state, share=runs - done)
        if code:
            return code
    print("All rows, for the model that is kept")
    code = develop(call, call.folder, call.state)
    if code:
        return code
    code = report_nested(call.line, call.folder, call.state, [call.folder.outer(fold.number) for fold in folds])
    end_parent(config.logger, config.name, call.folder.path)
    _finish(call)
    return code


def _outer_folds(call: Call) -> int:
    return min(OUTER_FOLDS, int(call.state["folds"]))


def _copy_of(state: dict[str, Any]) -> dict[str, Any]:
    candidates = [
        {**entry, "state": "waiting"} if entry["state"] != "cannot run" else entry for entry in state["candidates"]
    ]
    return {**state, "candidates": candidates, "chosen": [], "seconds": 0.0}


def _finish(call: Call) -> None:
    call.state |= {"finished": True, "finished_with": call.state["budget"]}
    call.save()


def _say_what_is_left(call: Call) -> None:
    """What more time would buy."""
    left = [entry for entry in call.state["candidates"] if entry["state"] in ("no time", "stopped")]
    if not left:
        print(
            "Every candidate was tried: more time would change nothing"
            + ("" if call.line.config.tune else "; --tune true would search settings")
        )
        return
    more = sum(needs_now(entry, call.state) for entry in left)
    names = ", ".join(f"{entry['name']} (about {duration_in_words(needs_now(entry, call.state))})" for entry in left)
    again = f"medsoft auto --resume {show_path(call.folder.path)} --budget {as_option(enough(call.clock.spent, more))}"
    print(f"Not tried for want of time: {names}. To try them: {again}")


def _write_split(folder: AutoFolder, split: np.ndarray, line: CommandLine) -> None:
    """Which rows are developed on (train), and which are set aside (test)."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with replacing(folder.split) as temporary:
        frame = line.datamodule.samples.frame[["id"]].assign(split=split)
        frame.to_csv(temporary, index=False, lineterminator="\n")


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
