"""What the folds of a cross-validation give together: out-of-fold predictions, a table of folds, and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from medsoft.data.tables.problems import write_errors
from medsoft.data.tables.split import UNUSED
from medsoft.errors import InputError, RunError
from medsoft.evaluation.comparison.across_folds import MIXES, AcrossFolds, FoldsEstimate
from medsoft.evaluation.evaluate import Evaluation, evaluate_table
from medsoft.evaluation.learning_curve.curve import LearningCurve, learning_curve
from medsoft.evaluation.learning_curve.curve import sentence as curve_sentence
from medsoft.evaluation.learnt import nothing_learnt
from medsoft.evaluation.metrics.score import write_metrics
from medsoft.evaluation.metrics.table import metric_name
from medsoft.evaluation.metrics.weighted import MOST_PROBABLE
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.content import Given
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.report.run import RunFacts, read_run
from medsoft.evaluation.report.targets import write_targets_report
from medsoft.evaluation.tables.predictions import write_predictions
from medsoft.evaluation.tables.read import Predictions, read_either, read_parts
from medsoft.evaluation.tables.recorded import FILES, record_of
from medsoft.evaluation.terminal import across_table
from medsoft.evaluation.writing import write_evaluation
from medsoft.runs.crossval_folder import CrossvalFolder, PlannedFold
from medsoft.runs.run_folder import RunFolder
from medsoft.storage.files import replacing
from medsoft.storage.own_files import read_json_object
from medsoft.system.terminal import plain_console
from medsoft.task import Task
from medsoft.task_types import KEPT
from medsoft.training.predict import show_path
from medsoft.workflows.run_report import about_target
from medsoft.workflows.shortcuts import kept_shortcuts, say_shortcuts
from medsoft.workflows.tracking.sent import end_parent, stage_report

HOW = "mean of the folds' own values; interval: patients drawn within folds"


def collect(folder: CrossvalFolder) -> int:
    """Gather folds that have all finished, and evaluate them together.

    Writes ``predictions.csv`` (the reported parts: each row predicted by the model that has not seen it),
    ``validation.csv`` (the rows that chose checkpoints, and choose thresholds), ``errors.csv`` where there is something
    to say, ``evaluation/``, ``folds.csv``, and last ``metrics.json``.

    Returns:
        0; 3 where inputs were left out.

    Raises:
        InputError: folds have not finished.
        RunError: a fold's predictions are not those of its part of the table.
    """
    folds = folder.folds
    missing = [str(fold.number) for fold in folds if not folder.is_finished(fold.number)]
    if missing:
        raise InputError(
            f"{show_path(folder.path)}: fold {', '.join(missing)} of 0 to {len(folds) - 1} has not finished: "
            f"medsoft crossval --resume {show_path(folder.path)}"
        )
    gather_predictions(folder)
    code = _gather_errors(folder, folds)
    given = read_parts([folder.path])
    kept = _kept(folder, folds)
    _write_facts(folder, folds[0], kept)
    files = {FILES: record_of([folder.predictions, folder.validation])}
    if not given.task.parts:
        result, by_row = _evaluate(folder, given, RunFolder(folder.path), read_run(folder.path), kept)
        _write_folds(folder, {"": (result, by_row)})
        write_metrics(_summary(result, by_row) | files, folder.metrics)
    else:
        found = _evaluate_targets(folder, given, kept)
        _write_folds(folder, found)
        write_metrics({"targets": {name: _summary(*one) for name, one in found.items()}} | files, folder.metrics)
    config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    end_parent(config.get("logger", ""), str(config.get("name")), folder.path)
    print(f"Results: {show_path(folder.path)}")
    return code


def _evaluate(
    folder: CrossvalFolder, given: Predictions, out: RunFolder, about: RunFacts, kept: Mapping[str, Any]
) -> tuple[Evaluation, AcrossFolds]:
    """Evaluate all folds together, of a single question or of one of several targets, and print what comes of it.

    Args:
        folder: of the cross-validation.
        given: the predictions of all folds.
        out: where the evaluation goes.
        about: what is known of the whole.
        kept: by fold, what its model has kept of its training part.
    """
    result = evaluate_table(given.frame, given.task, kept=kept)
    config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    write_evaluation(result, out.evaluation, given.inputs, bool(config.get("figures", True)))
    shortcuts = None
    if config.get("shortcuts", True):
        shortcuts = kept_shortcuts(out, given.frame, given.task, result.settings)
    curve = _learning_curve(folder, given.frame, result)
    further = Given(given.frame, given.inputs, about, shortcuts=shortcuts, learning_curve=curve)
    write_report(result, out.path, further)
    stage_report(result, out.path, further)
    by_row = next(across for across in result.across if (across.split, across.level) == ("test", "row"))
    _print(result, out.of_target)
    if curve is not None:
        print("\n".join(_curve_in_lines(curve)))
    if shortcuts is not None:
        say_shortcuts(shortcuts, result.settings, about.unit, out.of_target)
    return result, by_row


def _evaluate_targets(
    folder: CrossvalFolder, given: Predictions, kept: Mapping[str, Any]
) -> dict[str, tuple[Evaluation, AcrossFolds]]:
    """Evaluate each of several targets by itself, and write the page above their reports."""
    found = {}
    about = read_run(folder.path)
    for target in given.task.parts:
        out = RunFolder(folder.path).target(target.name)
        frame = given.task.frame_of(target.name, given.frame)
        for path, split in ((out.predictions, "test"), (out.path / folder.validation.name, "val")):
            write_predictions(frame[frame["split"] == split], path)
        own = {fold: [of_model.get(target.name, {}) for of_model in models] for fold, models in kept.items()}
        facts = read_json_object(folder.path / out.facts.name) if (folder.path / out.facts.name).is_file() else {}
        files = {FILES: record_of([out.predictions, out.path / folder.validation.name])}
        write_metrics({**facts, **({KEPT: own} if any(map(any, own.values())) else {}), **files}, out.facts)
        rows = replace(given, frame=frame, task=target.task)
        found[target.name] = _evaluate(folder, rows, out, about_target(about, out, target), own)
    write_targets_report(folder.path, given.task.parts, about)
    return found


def _write_folds(folder: CrossvalFolder, found: Mapping[str, tuple[Evaluation, AcrossFolds]]) -> None:
    """Write ``folds.csv``; the metrics of several targets stand side by side, by their names."""
    rows = []
    for fold in folder.folds:
        row = _about_fold(folder, fold)
        for target, (result, by_row) in found.items():
            own = _fold_row(fold, result, by_row)
            row |= {f"{target}.{name}" if target else name: value for name, value in own.items()}
        rows.append(row)
    with replacing(folder.folds_table) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")


def gather_predictions(folder: CrossvalFolder) -> pd.DataFrame:
    """Write ``predictions.csv`` and ``validation.csv`` of folds that have all finished.

    Returns:
        Both together.

    Raises:
        RunError: a fold's predictions are not those of its part of the table.
    """
    folds = folder.folds
    folder.metrics.unlink(missing_ok=True)  # it says what the tables were that are written anew
    frame = pd.concat([_predictions(folder, fold, folds) for fold in folds], ignore_index=True)
    for path, split in ((folder.predictions, "test"), (folder.validation, "val")):
        with replacing(path) as temporary:
            rows = frame[frame["split"] == split]
            rows.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    return frame


def _kept(folder: CrossvalFolder, folds: Sequence[PlannedFold]) -> dict[str, Any]:
    """By fold, what its model has kept of its training part for an evaluation."""
    files = {str(fold.number): folder.run(fold.number).facts for fold in folds}
    found = {fold: read_json_object(file).get(KEPT, {}).get("") for fold, file in files.items() if file.is_file()}
    return {fold: kept for fold, kept in found.items() if kept}


def _write_facts(folder: CrossvalFolder, first: PlannedFold, kept: dict[str, Any]) -> None:
    """What a fold's run knows of the table that all folds share, for the flow of samples; and what models kept."""
    file = folder.run(first.number).facts
    if not file.is_file():
        return
    data = json.loads(file.read_text(encoding="utf-8"))["data"]
    unused = first.n.get(UNUSED, 0)  # a fold's run does not see them
    data["rows"] += unused
    data["splits"] = {UNUSED: {"rows": unused, "patients": None, "classes": {}}} if unused else {}
    write_metrics({"format": 1, "data": data} | ({KEPT: kept} if kept else {}), folder.path / file.name)


def _predictions(folder: CrossvalFolder, fold: PlannedFold, folds: Sequence[PlannedFold]) -> pd.DataFrame:
    """A fold's predictions of its val and test parts, with its number; its repeat and site where there are several."""
    run = folder.run(fold.number)
    frame, _ = read_either(run.predictions)
    planned = pd.read_csv(folder.split(fold.number), dtype=str, keep_default_na=False).set_index("id")["split"]
    strange = frame["split"].to_numpy() != planned.reindex(frame["id"]).to_numpy()
    if strange.any() or not (frame["split"] == "test").any():
        example = f", such as {frame['id'][strange].iloc[0]!r}" if strange.any() else ""
        raise RunError(f"{run.predictions}: holds other samples than fold {fold.number} reports{example}")
    frame = frame.assign(fold=str(fold.number))
    if folds[-1].repeat > 0:
        frame["repeat"] = fold.repeat
    if not all(other.name.isdecimal() for other in folds):
        frame["held_out"] = fold.name
    return frame


def _learning_curve(folder: CrossvalFolder, frame: pd.DataFrame, result: Evaluation) -> LearningCurve | None:
    """The curve over parts of the training data, with its table and figure; None where there are no parts."""
    if not folder.parts:
        return None
    folders = {**folder.parts, 1.0: folder}
    tables = {fraction: frame if one is folder else read_parts([one.path]).frame for fraction, one in folders.items()}
    sizes = {fraction: [_trained_on(one, fold) for fold in one.folds] for fraction, one in folders.items()}
    named = all(patients is not None for size in sizes.values() for patients, _ in size)
    n = {
        fraction: float(np.mean([(patients if named else rows) or 0 for patients, rows in size]))
        for fraction, size in sizes.items()
    }
    curve = learning_curve(tables, n, result.task, result.settings, "patients" if named else "rows")
    with replacing(folder.learning_curve) as temporary:
        table = pd.DataFrame([vars(point) for point in curve.points])
        table.to_csv(temporary, index=False, lineterminator="\n")
    from medsoft.evaluation.figures.data_size import data_size_chart
    from medsoft.evaluation.figures.panels import figure_of
    from medsoft.evaluation.figures.style import save

    save(figure_of(data_size_chart(curve), f"{curve.n_folds} folds"), folder.learning_curve.with_suffix(".png"))
    return curve


def _trained_on(folder: CrossvalFolder, fold: PlannedFold) -> tuple[int | None, int]:
    """Patients (None where they are not named) and rows that a fold was trained on."""
    facts = json.loads(folder.run(fold.number).facts.read_text(encoding="utf-8"))
    train = facts["data"]["splits"]["train"]
    return train["patients"], train["rows"]


def _curve_in_lines(curve: LearningCurve) -> list[str]:
    """What the terminal says of it."""
    lines = [f"Learning curve ({metric_name(curve.metric)} by {curve.unit} in training):"]
    for point in curve.points:
        value = "undefined" if point.value is None else f"{point.value:.3f}"
        interval = "" if point.low is None or point.high is None else f" ({point.low:.3f} to {point.high:.3f})"
        lines.append(f"  {point.n:,.0f}: {value}{interval}")
    return [*lines, *(f"  {note}" for note in (curve_sentence(curve), *curve.notes) if note)]


def _gather_errors(folder: CrossvalFolder, folds: Sequence[PlannedFold]) -> int:
    files = [folder.run(fold.number).errors for fold in folds]
    errors = [pd.read_csv(file, dtype=str, keep_default_na=False) for file in files if file.is_file()]
    if not errors:
        folder.errors.unlink(missing_ok=True)
        return 0
    write_errors(pd.concat(errors, ignore_index=True).drop_duplicates(), folder.errors)
    print(f"Some inputs were left out: {show_path(folder.errors)}")
    return 3


def _about_fold(folder: CrossvalFolder, fold: PlannedFold) -> dict[str, Any]:
    """What a line of ``folds.csv`` begins with: sizes, and the epoch that validation chose."""
    about: dict[str, Any] = {"fold": fold.number, "repeat": fold.repeat, "held_out": fold.name, "seed": fold.seed}
    about |= {f"n_{name}": fold.n.get(name, 0) for name in ("train", "val", "test")}
    return about | {"best_epoch": _best_epoch(folder.run(fold.number))}


def _fold_row(fold: PlannedFold, result: Evaluation, across: AcrossFolds) -> dict[str, Any]:
    """The rest of a line: how many rows were scored, and the main metrics of the reported part."""
    part = next(p for p in result.parts if (p.fold, p.split, p.level) == (str(fold.number), "test", "row"))
    return {"n_scored": part.n, "n_patients": part.n_patients} | {
        _short(estimate): _value(part, estimate) for estimate in across.estimates if _is_main(estimate, result.task)
    }


def _is_main(estimate: FoldsEstimate, task: Task) -> bool:
    whole = estimate.class_name in ("", task.positive)
    return whole and estimate.average != "micro" and estimate.prevalence is None and not estimate.probabilities


def _short(estimate: FoldsEstimate) -> str:
    """``auroc``, ``auroc_macro``, ``sensitivity@youden``."""
    name = estimate.metric + (f"_{estimate.average}" if estimate.average else "")
    return name if estimate.rule in ("", MOST_PROBABLE) else f"{name}@{estimate.rule}"


def _value(part: Part, wanted: FoldsEstimate) -> float | None:
    names = ("class_name", "average", "rule", "prevalence", "probabilities")
    found = part.find(wanted.metric, **{name: getattr(wanted, name) for name in names})
    return found.value if found else None


def _best_epoch(run: RunFolder) -> int:
    """From 1."""
    return int(torch.load(run.best, map_location="cpu", weights_only=True, mmap=True)["epoch"]) + 1


def _summary(result: Evaluation, by_row: AcrossFolds) -> dict[str, Any]:
    """What stands in the paper first, then all else."""
    chief = by_row.find(**result.task.primary)
    assert chief is not None
    values = chief.to_json()
    pooled = {name: values.pop(f"pooled{name}") for name in ("", "_low", "_high", "_method")}
    return {
        "primary": {"split": "test", **values, "how": HOW},
        "pooled": {(name.removeprefix("_") or "value"): value for name, value in pooled.items()} | {"how": MIXES},
        "n_per_fold": by_row.n_per_fold,
        "bootstrap": by_row.bootstrap,
        "notes": [*by_row.notes, *result.notes],
        "across_folds": [across.to_json() for across in result.across],
    }


def _print(result: Evaluation, of_target: str) -> None:
    console = plain_console()
    if of_target:
        print(f"{of_target}:")
    for across in result.across:
        if across.split == "test":
            console.print(across_table(across))
            for note in across.notes:
                console.print(f"  {note}", soft_wrap=True)
    if said := nothing_learnt(result):
        print(f"WARNING: {of_target}: {said}" if of_target else f"WARNING: {said}")
