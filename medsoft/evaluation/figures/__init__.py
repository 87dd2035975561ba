"""Figures of predictions, of their evaluation and of a training run: one set for folders (PNG) and the report (SVG).

What an evaluation shows is in charts (``panels.Chart``); ``part_figures.charts_of`` lists those of a part.
What is drawn of a predictions table alone, at the end of a run, has a function that writes it and a ``figure_...``
that returns the Matplotlib figure. Titles say the split and the number of rows; ``note`` stands in the footer (such as
that the data are phantoms).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from medsoft.evaluation.figures.confusion import confusion_matrix, figure_confusion_matrix
from medsoft.evaluation.figures.learning import figure_learning_curves, learning_curves
from medsoft.evaluation.figures.mistakes import Thumbnail, confident_mistakes, figure_confident_mistakes
from medsoft.evaluation.figures.regression import agreement
from medsoft.evaluation.figures.roc import figure_precision_recall, figure_roc_curve, precision_recall, roc_curve
from medsoft.task import Task

__all__ = [
    "agreement",
    "confident_mistakes",
    "confusion_matrix",
    "draw_all",
    "figure_confident_mistakes",
    "figure_confusion_matrix",
    "figure_learning_curves",
    "figure_precision_recall",
    "figure_roc_curve",
    "learning_curves",
    "precision_recall",
    "roc_curve",
]


TABLE_FIGURES: dict[str, Callable[[pd.DataFrame, Task, Path, str, Thumbnail | None], Path | None]] = {
    "roc": lambda frame, task, out, note, _: roc_curve(frame, task, out, note),
    "precision_recall": lambda frame, task, out, note, _: precision_recall(frame, task, out, note),
    "confusion_matrix": lambda frame, task, out, note, _: confusion_matrix(frame, task, out, note),
    "confident_mistakes": lambda frame, task, out, note, thumbnail: (
        None if thumbnail is None else confident_mistakes(frame, task, thumbnail, out, note=note)
    ),
    "agreement": lambda frame, task, out, note, _: agreement(frame, task, out, note),
}
"""The figures that a task can name in ``Task.table_figures``, by the name of their file; None where none is drawn."""


def draw_all(
    frame: pd.DataFrame,
    task: Task,
    out_dir: Path | str,
    metrics_csv: Path | str | None = None,
    thumbnail: Thumbnail | None = None,
    note: str = "",
    monitor: str | None = None,
) -> list[Path]:
    """Draw the task's figures for which there is material.

    Args:
        frame: a predictions table; each split gets its own pictures, a split without any target none.
        task: its task.
        out_dir: folder of the PNG files ``<picture>_<split>.png`` and ``learning_curves.png``; created.
        metrics_csv: the run's log, for learning curves.
        thumbnail: from the id of a row to its picture, for the confident mistakes (see ``confident_mistakes``).
        note: footer of every picture.
        monitor: the logged metric that chose the checkpoint (see ``learning_curves``).

    Returns:
        The files written.
    """
    out_dir = Path(out_dir)
    written = []
    if metrics_csv is not None:
        written.append(learning_curves(metrics_csv, out_dir / "learning_curves.png", note=note, monitor=monitor))
    for split in frame.loc[task.known(frame), "split"].unique():
        part = frame[frame["split"] == split]
        # A split's name comes from the user's table: nothing in it may lead out of the folder.
        suffix = re.sub(r"[^\w-]+", "-", f"_{split}" if split else "") + ".png"
        for name in task.table_figures:
            drawn = TABLE_FIGURES[name](part, task, out_dir / f"{name}{suffix}", note, thumbnail)
            written += [drawn] if drawn is not None else []
    return written
