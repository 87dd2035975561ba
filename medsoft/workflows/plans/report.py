"""How ``auto`` ends: the chosen models predict what they have not seen, thresholds are locked, and all is reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medsoft.data.tables.problems import write_errors
from medsoft.errors import InputError
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.learnt import nothing_learnt
from medsoft.evaluation.metrics.score import score_splits, write_metrics
from medsoft.evaluation.metrics.table import metric_name
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.shortcuts.judge import Shortcuts
from medsoft.evaluation.tables.ensemble import mean_of
from medsoft.evaluation.tables.predictions import write_predictions
from medsoft.evaluation.tables.read import read_either
from medsoft.evaluation.tables.recorded import FILES, record_of
from medsoft.evaluation.writing import write_evaluation
from medsoft.parsing.lightning_cli import CommandLine, read_words
from medsoft.runs.auto_folder import AutoFolder
from medsoft.runs.checkpoints import find_checkpoints
from medsoft.runs.facts import part_facts
from medsoft.runs.run_folder import RunFolder
from medsoft.storage.files import replacing
from medsoft.task import Task
from medsoft.training.predict import show_path
from medsoft.workflows.ensemble import apply_ensemble
from medsoft.workflows.example_figures import write_run_examples
from medsoft.workflows.plans.bench import inner_predictions, quietly
from medsoft.workflows.run_report import write_run_report
from medsoft.workflows.shortcuts import say_shortcuts, shortcuts_of_splits

COLUMNS = ("id", "patient", "exam", "split", "fold", "task")
DRAWS = 2000
"""Of the bootstrap: the report is what is quoted."""


def report(line: CommandLine, folder: AutoFolder, state: Mapping[str, Any]) -> int:
    """Predict the test part with the mean of the chosen models, lock what inner predictions choose, and report.

    Returns:
        0; 3 where inputs were left out.
    """
    task: Task = line.datamodule.task
    frames = [inner_mean(folder, state["chosen"], task)]
    if (line.datamodule.samples.frame["split"] == "test").any():
        frames.append(_predict_test(folder, state["chosen"]))
    frame = _together(frames, task)
    _write(line, folder, state, frame, task, _notes(state, len(frames) > 1), {"": _developed_on(folder)})
    if len(frames) == 1:
        print("No test part was set aside: the inner scores chose, and are too good to report")
    return _errors(folder, [folder])


def report_nested(line: CommandLine, folder: AutoFolder, state: Mapping[str, Any], outer: Sequence[AutoFolder]) -> int:
    """Report on the rows that each outer fold has held out, predicted by what was chosen without them.

    Returns:
        0; 3 where inputs were left out.
    """
    task: Task = line.datamodule.task
    frames = []
    for number, one in enumerate(outer):
        chosen = one.read()["chosen"]
        parts = [inner_mean(one, chosen, task), _predict_test(one, chosen)]
        frames += [part.assign(fold=str(number)) for part in parts]
    notes = _notes(state, True)
    notes.append(
        f"nested cross-validation: in each of {len(outer)} outer folds the whole choice was repeated without its rows"
    )
    learnt_from = {str(number): _developed_on(one) for number, one in enumerate(outer)}
    kept = inner_mean(folder, state["chosen"], task)
    _write(line, folder, state, _together(frames, task), task, notes, learnt_from, kept)
    return _errors(folder, [*outer, folder])


def inner_mean(folder: AutoFolder, chosen: Sequence[str], task: Task) -> pd.DataFrame:
    """Mean over the chosen candidates of their out-of-fold predictions, as the part that chooses thresholds."""
    frames = [inner_predictions(folder, name).set_index("id", drop=False) for name in chosen]
    shared = [id for id in frames[0].index if all(id in frame.index for frame in frames)]
    frames = [_numbers(frame.loc[shared].reset_index(drop=True)).assign(split="val", fold="") for frame in frames]
    return mean_of(frames, task) if len(frames) > 1 else frames[0]


def _predict_test(folder: AutoFolder, chosen: Sequence[str]) -> pd.DataFrame:
    """Predictions of the rows set aside, by the mean of all fold models of the chosen candidates."""
    run = RunFolder(folder.path / "test")
    if run.path.exists():  # of another choice, before there was more time
        shutil.rmtree(run.path)
    members = find_checkpoints([str(folder.crossval(name).path) for name in chosen])
    argv = [f"--data.splits_from={folder.split.resolve()}", f"--out={run.path}"]
    argv += ["--figures=false", "--report=false", "--examples=0", "--shortcuts=false"]
    print(f"Predicting the part that was set aside with {len(members)} models", flush=True)
    with quietly(folder.log):
        apply_ensemble("test", argv, read_words("test", argv), members)
    frame, _ = read_either(run.predictions)
    return _numbers(frame)


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """With the out-of-distribution score as the number that it is; a file holds text."""
    if "ood_score" not in frame:
        return frame
    return frame.assign(ood_score=frame["ood_score"].astype(float), abstain=frame["abstain"].astype(int))


def _together(frames: Sequence[pd.DataFrame], task: Task) -> pd.DataFrame:
    """One predictions table, with the columns that all parts have."""
    own = [*COLUMNS, *task.target_columns, *task.p_columns, "ood_score", "abstain"]
    kept = [name for name in own if all(name in frame for frame in frames)]
    return pd.concat([frame[kept] for frame in frames], ignore_index=True)


def _write(
    line: CommandLine,
    folder: AutoFolder,
    state: Mapping[str, Any],
    frame: pd.DataFrame,
    task: Task,
    notes: Sequence[str],
    learnt_from: Mapping[str, Sequence[str]],
    kept: pd.DataFrame | None = None,
) -> None:
    """Write predictions, what is locked, the evaluation and the report.

    Args:
        line: the command line.
        folder: of the call.
        state: what it remembers.
        frame: predictions to evaluate; rows of val choose thresholds, those of test are reported.
        task: the question.
        notes: what the report must say.
        learnt_from: by fold, ids of the rows that were developed on.
        kept: out-of-fold predictions of the model that is kept, where the evaluation is of others.
    """
    run = RunFolder(folder.path)
    write_predictions(frame, run.predictions)
    write_metrics(score_splits(frame, task), run.metrics)
    _write_facts(line, folder, run)
    _write_versions(folder, run, state)
    settings = Settings(draws=DRAWS)
    result = evaluate_table(frame, task, settings)
    result.notes[:0] = notes
    locked = result.locked if kept is None else evaluate_table(kept, task, Settings(draws=1)).locked
    if locked is not None:
        write_metrics(locked.to_json(), folder.locked)
    data = line.datamodule
    config = line.config
    is_tested = bool((frame["split"] == "test").any())
    shows = config.examples if config.figures and is_tested and kept is None and data.unit == "image" else 0
    shortcuts = None
    if is_tested and (shows or config.shortcuts):
        data.keeps_facts = config.shortcuts
        try:
            with quietly(folder.log):
                data.load(["train", "test"] if config.shortcuts else ["test"])
        except InputError as error:  # features were made otherwise than a training would read these samples
            reason = (str(error).splitlines()[1:2] or [str(error)])[0].strip()  # behind the name of the table
            shows, shortcuts = 0, Shortcuts(notes=(f"no baselines: the samples could not be read again ({reason})",))
    if is_tested and config.shortcuts and shortcuts is None:
        tested = frame[frame["split"] == "test"].reset_index(drop=True)
        shortcuts = shortcuts_of_splits(run, tested, data, settings, learnt_from)
        say_shortcuts(shortcuts, settings, data.unit)
    if shows:
        write_run_examples(run.examples, frame, data, None, shows)
    if said := nothing_learnt(result):
        print(f"WARNING: {said}")
    if config.report:
        write_run_report(run, frame, result, shows, shortcuts=shortcuts)
        print(f"Report: {show_path(run.report)}")
    else:
        write_evaluation(result, run.evaluation, figures=False)
    _print_result(result, task)


def _developed_on(folder: AutoFolder) -> list[str]:
    """Ids of the rows that candidates were compared on."""
    split = pd.read_csv(folder.split, dtype=str, keep_default_na=False)
    return list(split.loc[split["split"] == "train", "id"])


def _print_result(result: Any, task: Task) -> None:
    """The main metric of what was reported, in a line."""
    across = next((one for one in result.across if (one.split, one.level) == ("test", "row")), None)
    part = across or next((one for one in result.parts if (one.split, one.level) == ("test", "row")), None)
    found = part.find(**task.primary) if part is not None else None
    if found is None or found.value is None:
        return
    interval = "" if found.low is None else f" ({found.low:.3f} to {found.high:.3f})"
    of = "mean over the outer folds" if across else "test part"
    print(f"{metric_name(found.metric)}, {of}: {found.value:.3f}{interval}")


def _notes(state: Mapping[str, Any], tested: bool) -> list[str]:
    chosen = [entry["name"] for entry in state["candidates"] if entry["chosen"]]
    tried = [entry for entry in state["candidates"] if entry["state"] == "done"]
    how = chosen[0] if len(chosen) == 1 else f"the mean of {', '.join(chosen)}"
    notes = [
        f"medsoft auto compared {len(tried)} of {len(state['candidates'])} candidates on {state['folds']} inner folds "
        f"by patient and took {how}; thresholds and recalibration were chosen on inner predictions"
    ]
    return notes if tested else [*notes, "OPTIMISTIC: no part was set aside, so that these rows chose the model"]


def _write_facts(line: CommandLine, folder: AutoFolder, run: RunFolder) -> None:
    """``facts.json`` of the whole table; of the model what the prediction of the test part says."""
    data = line.datamodule
    samples = data.samples
    parts = {name: samples.subset(split) for name, split in (("val", "train"), ("test", "test"))}
    about = {
        "table": samples.source.name,
        "unit": data.unit,
        "note": data.note,
        "rows": len(samples) + len(samples.dropped),
        "patients": part_facts(samples)["patients"],
        "splits": {name: part_facts(part) for name, part in parts.items() if len(part)},
    }
    tested = RunFolder(folder.path / "test").facts
    model = json.loads(tested.read_text(encoding="utf-8"))["model"] if tested.is_file() else {}
    facts = {"format": 1, "data": about, "model": model, "training": {}, FILES: record_of([run.predictions])}
    write_metrics(facts, run.facts)


def _write_versions(folder: AutoFolder, run: RunFolder, state: Mapping[str, Any]) -> None:
    """What ran: as the first fold of a chosen candidate wrote it, with the command of the whole."""
    first = folder.crossval(state["chosen"][0]).run(0).versions
    versions = json.loads(first.read_text(encoding="utf-8")) | {"command": state["command"]}
    with replacing(run.versions) as temporary:
        temporary.write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")


def _errors(folder: AutoFolder, parts: Sequence[AutoFolder]) -> int:
    """Gather what was left out on the way into ``errors.csv``."""
    found = sorted(
        file for part in parts for file in part.path.glob("**/errors.csv") if file != RunFolder(folder.path).errors
    )
    frames = [pd.read_csv(file, dtype=str, keep_default_na=False) for file in found]
    if not frames:
        return 0
    errors = pd.concat(frames, ignore_index=True)
    if "id" in errors:  # of what could not be encoded: that its features are missing says nothing new
        failed = set(errors["id"].dropna())
        features = (folder.path / "features").resolve()
        is_of_features = errors["path"].map(lambda path: features in Path(path).resolve().parents)
        errors = errors[~(is_of_features & errors["path"].map(lambda path: Path(path).stem in failed))]
    errors = errors.drop_duplicates(["path", "stage", "reason"])
    write_errors(errors, RunFolder(folder.path).errors)
    print(f"Some inputs were left out: {show_path(RunFolder(folder.path).errors)}")
    return 3
