"""Writes a trained model's predictions table, metrics and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer
from rich.table import Table
from torch.utils.data import DataLoader

from medsoft.data.tables.problems import write_errors
from medsoft.data.tables.sample_table import SampleTable
from medsoft.data.transforms.views import first_views
from medsoft.errors import InputError
from medsoft.evaluation.abstention import abstention_notes
from medsoft.evaluation.metrics.score import Scores, headline, score_splits, write_metrics
from medsoft.evaluation.metrics.table import METRICS
from medsoft.evaluation.tables.exams import Pooled, has_several, pool_rows
from medsoft.evaluation.tables.predictions import make_predictions, score_columns, write_predictions
from medsoft.evaluation.wording import counted
from medsoft.ops.distributed import of_all_processes
from medsoft.runs.run_folder import RunFolder
from medsoft.system.logging import event
from medsoft.system.progress import progress
from medsoft.system.terminal import plain_console
from medsoft.task import Task


class Predicted(Protocol):
    """What is known of samples beside their predictions."""

    @property
    def task(self) -> Task:
        """The question."""

    @property
    def note(self) -> str:
        """What every picture must say of the data."""

    def thumbnail(self, id: str) -> np.ndarray | None:
        """The image of a sample, (H, W, C) uint8; None where there is none."""


class Data(Predicted, Protocol):
    """What a data module offers beside Lightning's loaders."""

    def part(self, split: str) -> SampleTable:
        """Rows and targets of a loaded split, in the order of its loader."""

    def split_dataloader(self, split: str) -> DataLoader[Any]:
        """A loaded split as it is, in order."""


def use_views(model: Any, data: Any, n: int) -> None:
    """Let a model answer with the mean over the first ``n`` views that the data allows; 1 is the picture as it is.

    Raises:
        InputError: the data does not allow so many.
    """
    model.views = first_views(data.views, n) if n != 1 else ()


def load_splits(data: Any, verb: str) -> list[str]:
    """Load the parts of the table that a verb is about.

    Raises:
        InputError: the table has no such rows, or they cannot be read.
    """
    splits = {"validate": ["val"], "test": ["test"]}.get(verb) or list(dict.fromkeys(data.samples.frame["split"]))
    data.load(splits)
    if not data.loaded_splits:
        raise InputError(f"{data.samples.source}: has no rows of the split {splits[0]}")
    return splits


def predict_table(
    trainer: Trainer, model: LightningModule, data: Data, splits: list[str], seen: list[list[np.ndarray]] | None = None
) -> pd.DataFrame:
    """The predictions table of some splits of the data module, in every process.

    Args:
        trainer: decides device and precision.
        model: its ``predict_step`` gives (indices, probabilities), of a regression (indices, numbers (B, 1)), and then
            what it has seen of each sample, out-of-distribution scores first, where it has a detector.
        data: splits are loaded already.
        splits: names, in the order of the table.
        seen: takes, of each split, what the model has seen of its samples.
    """
    frames = []
    views = getattr(model, "views", ())
    for split in splits:
        outputs = trainer.predict(model, data.split_dataloader(split)) or []
        own = (torch.cat(parts).cpu().numpy() for parts in zip(*outputs, strict=True))
        index, answers, *found = of_all_processes(*own)
        if seen is not None and found:
            seen.append(found)
        part = data.part(split)
        assert np.array_equal(index, np.arange(len(part)))
        frames.append(
            make_predictions(
                data.task,
                part.frame["id"].tolist(),
                data.task.exact(answers.astype(np.float64)),
                part.targets,
                patient=part.frame["patient"].tolist(),
                exam=part.frame["exam"].tolist(),
                split=split,
                extra=_extra(found[:1], len(views), len(part)),
            )
        )
    return pd.concat(frames, ignore_index=True)


def _extra(scores: list[np.ndarray], n_views: int, n: int) -> dict[str, Any]:
    """Columns beside the answers: the number of views, and how far each sample lies from the training data."""
    extra: dict[str, Any] = {"views": [n_views] * n} if n_views else {}
    for score_N in scores:
        extra |= score_columns(score_N)
    return extra


def write_run_results(
    run: RunFolder,
    frame: pd.DataFrame,
    data: Predicted,
    figures: bool,
    monitor: str | None = None,
    pooling: Pooled | None = None,
    of_target: str = "",
) -> dict[str, Scores]:
    """Write predictions, metrics and pictures of a run, and print the summary.

    The same is written by exam and by patient, where one has several rows. Of several targets the summary is that of
    each.

    Args:
        run: where to.
        frame: the predictions.
        data: what was predicted.
        figures: whether to draw.
        monitor: the logged metric that chose the checkpoint.
        pooling: how the rows of an exam, and of a patient, are pooled; nothing is, where it is not named.
        of_target: the target whose part of a run this is; "" for a run.

    Returns:
        Scores by split; empty where no row has a label.
    """
    from medsoft.evaluation.figures import draw_all

    write_predictions(frame, run.predictions)
    results = score_splits(frame, data.task)
    write_metrics(results, run.metrics)
    title = f"Metrics of {of_target}" if of_target else "Metrics"
    if not of_target:
        event("predicted", rows=len(frame))
    for split, scores in results.items():
        named = split if split in ("train", "val", "test", "all") else "other"  # any text may stand in a table
        values: dict[str, Any] = dict(headline(scores))
        event("scores", split=named, n=scores["n"], **values)
    if figures:
        table = run.metrics_table if run.metrics_table.is_file() else None
        more: dict[str, Any] = {"thumbnail": data.thumbnail, "note": data.note, "monitor": monitor}
        with progress("drawing figures"):
            draw_all(frame, data.task, run.figures, metrics_csv=table, **more)
    _print_summary(results, data.task, title)
    for line in [] if of_target else abstention_notes(frame):
        print(line)
    for level, how in (pooling or {}).items():
        if how != "none" and data.task.pools and has_several(frame, level):
            pooled = pool_rows(frame, data.task, how, level)
            write_predictions(pooled, run.pooled_predictions(level))
            by_level = score_splits(pooled, data.task)
            write_metrics(by_level, run.pooled_metrics(level))
            pooled_what = f"{how} of logits" if data.task.has_probabilities else how
            _print_summary(by_level, data.task, f"{title} by {level} ({pooled_what})")
    return results


def _print_summary(results: dict[str, Scores], task: Task, title: str) -> None:
    """Print a table of the main metrics, a row per metric; those of thresholded decisions say at which threshold."""
    if task.parts:
        return
    console = plain_console()
    labelled = {split: scores for split, scores in results.items() if scores["n"]}
    if labelled:
        shown = {split: headline(scores) | _rates(scores) for split, scores in labelled.items()}
        table = Table("metric", *(f"{split} (n={scores['n']})" for split, scores in labelled.items()), title=title)
        for name in dict.fromkeys(name for values in shown.values() for name in values):
            cells = [values.get(name) for values in shown.values()]
            at = " at 0.5" if task.thresholded and METRICS[name].is_decision else ""
            table.add_row(name.replace("_", " ") + at, *("–" if value is None else f"{value:.3f}" for value in cells))
        console.print(table)
    for split, scores in results.items():
        for note in scores["notes"]:
            console.print(f"{title}, {split}: {note}")


def _rates(scores: Scores) -> dict[str, float | None]:
    """Sensitivity and specificity: of the positive class, or the mean over classes or labels."""
    values = scores["macro"] | scores["overall"]
    return {name: values[name] for name in ("sensitivity", "specificity") if name in values}


def write_errors_if_any(run: RunFolder, errors: pd.DataFrame) -> int:
    """Write ``errors.csv`` where there is something to say.

    Returns:
        The exit code: 3 with errors, else 0.
    """
    if errors.empty:
        return 0
    write_errors(errors, run.errors)
    print(f"{counted(len(errors), 'input')} left out: {run.errors}")
    return 3


def show_path(path: Path) -> str:
    """Relative to where the user is, if it lies below."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(resolved)
