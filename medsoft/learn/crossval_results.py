"""What the folds of a cross-validation give together: out-of-fold predictions, a table of folds, and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
import yaml
from rich.console import Console

from medsoft.data.problems import write_errors
from medsoft.errors import InputError, RunError
from medsoft.evaluation.across_folds import MIXES, AcrossFolds, FoldsEstimate, primary
from medsoft.evaluation.evaluate import Evaluation, evaluate_table
from medsoft.evaluation.metrics import write_metrics
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.content import Given
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.report.run_facts import read_run
from medsoft.evaluation.run_evaluate import across_table
from medsoft.evaluation.scorecard import MOST_PROBABLE
from medsoft.evaluation.tables import read_either, read_parts
from medsoft.evaluation.writing import write_evaluation
from medsoft.files import replacing
from medsoft.learn.crossval_folder import CrossvalFolder, PlannedFold
from medsoft.learn.outcome import show_path
from medsoft.learn.run_folder import RunFolder
from medsoft.task import Task

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
    frame = pd.concat([_predictions(folder, fold, folds) for fold in folds], ignore_index=True)
    for path, split in ((folder.predictions, "test"), (folder.validation, "val")):
        with replacing(path) as temporary:
            rows = frame[frame["split"] == split]
            rows.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
    code = _gather_errors(folder, folds)
    given = read_parts([folder.path])
    result = evaluate_table(given.frame, given.task)
    pictures = bool(yaml.safe_load(folder.config.read_text(encoding="utf-8")).get("pictures", True))
    write_evaluation(result, folder.evaluation, given.inputs, pictures)
    write_report(result, folder.path, Given(given.frame, given.inputs, read_run(folder.path)))
    by_row = next(across for across in result.across if (across.split, across.level) == ("test", "row"))
    with replacing(folder.folds_table) as temporary:
        table = pd.DataFrame([_fold_row(folder, fold, result, by_row) for fold in folds])
        table.to_csv(temporary, index=False, lineterminator="\n")
    write_metrics(_summary(result, by_row), folder.metrics)
    _print(folder, result)
    return code


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


def _gather_errors(folder: CrossvalFolder, folds: Sequence[PlannedFold]) -> int:
    files = [folder.run(fold.number).errors for fold in folds]
    errors = [pd.read_csv(file, dtype=str, keep_default_na=False) for file in files if file.is_file()]
    if not errors:
        folder.errors.unlink(missing_ok=True)
        return 0
    write_errors(pd.concat(errors, ignore_index=True).drop_duplicates(), folder.errors)
    print(f"Some inputs were left out: {show_path(folder.errors)}")
    return 3


def _fold_row(folder: CrossvalFolder, fold: PlannedFold, result: Evaluation, across: AcrossFolds) -> dict[str, Any]:
    """A line of ``folds.csv``: sizes, the epoch that validation chose, and the main metrics of the reported part."""
    part = next(p for p in result.parts if (p.fold, p.split, p.level) == (str(fold.number), "test", "row"))
    about: dict[str, Any] = {"fold": fold.number, "repeat": fold.repeat, "held_out": fold.name, "seed": fold.seed}
    about |= {f"n_{name}": fold.n.get(name, 0) for name in ("train", "val", "test")}
    about |= {"n_scored": part.n, "n_patients": part.n_patients, "best_epoch": _best_epoch(folder.run(fold.number))}
    return about | {
        _short(estimate): _value(part, estimate) for estimate in across.estimates if _is_main(estimate, result.task)
    }


def _is_main(estimate: FoldsEstimate, task: Task | None) -> bool:
    whole = not estimate.class_name or (task is not None and task.kind == "binary")
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
    chief = by_row.find(**primary(result.task))
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


def _print(folder: CrossvalFolder, result: Evaluation) -> None:
    console = Console(highlight=False)
    for across in result.across:
        if across.split == "test":
            console.print(across_table(across))
            for note in across.notes:
                console.print(f"  {note}", soft_wrap=True, markup=False)
    print(f"Results: {show_path(folder.path)}")
