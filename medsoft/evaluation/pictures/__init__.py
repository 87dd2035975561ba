"""Pictures of a predictions table and of a training run, as PNG.

Each picture has a function that writes it and a ``figure_...`` that returns the Matplotlib figure. Titles say the
split and the number of rows; ``note`` stands in the footer (that the data are phantoms, for one).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.arrays import has_target
from medsoft.evaluation.pictures.confusion import confusion_matrix, figure_confusion_matrix
from medsoft.evaluation.pictures.curves import figure_precision_recall, figure_roc_curve, precision_recall, roc_curve
from medsoft.evaluation.pictures.learning import figure_learning_curves, learning_curves
from medsoft.evaluation.pictures.mistakes import confident_mistakes, figure_confident_mistakes
from medsoft.evaluation.pictures.regression import agreement_of_split
from medsoft.task import Task

__all__ = [
    "agreement_of_split",
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


def draw_all(
    frame: pd.DataFrame,
    task: Task,
    out_dir: Path | str,
    metrics_csv: Path | str | None = None,
    thumbnail: Callable[[str], npt.NDArray[np.generic] | None] | None = None,
    note: str = "",
    monitor: str | None = None,
) -> list[Path]:
    """Draw every picture for which there is material.

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
    for split in frame.loc[has_target(frame, task), "split"].unique():
        part = frame[frame["split"] == split]
        # A split's name comes from the user's table: nothing in it may lead out of the folder.
        suffix = re.sub(r"[^\w-]+", "-", f"_{split}" if split else "") + ".png"
        if task.kind == "regression":
            written.append(agreement_of_split(part, split, out_dir / f"agreement{suffix}", note=note))
            continue
        written.append(roc_curve(part, task, out_dir / f"roc{suffix}", note=note))
        written.append(precision_recall(part, task, out_dir / f"precision_recall{suffix}", note=note))
        written.append(confusion_matrix(part, task, out_dir / f"confusion_matrix{suffix}", note=note))
        if thumbnail is not None:
            out = out_dir / f"confident_mistakes{suffix}"
            written.append(confident_mistakes(part, task, thumbnail, out, note=note))
    return written
