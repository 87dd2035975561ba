"""Confusion matrices: true classes in rows, predicted ones in columns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medsoft.evaluation.figures.style import (
    GREY,
    INK,
    caption,
    facts,
    longest_line,
    new_figure,
    save,
    shortened,
    styled,
)
from medsoft.evaluation.metrics.confusion import confusion_counts
from medsoft.evaluation.metrics.targets import THRESHOLD, one_against_rest, predicted, targets
from medsoft.task import Task


def confusion_matrix(frame: pd.DataFrame, task: Task, out: Path | str, note: str = "") -> Path:
    """Write the confusion matrix with counts and row percentages; for multilabel a panel a label."""
    return save(figure_confusion_matrix(frame, task, note), out)


@styled
def figure_confusion_matrix(frame: pd.DataFrame, task: Task, note: str = "") -> Figure:
    """Counts, and percentages of each row; classes in the order of the task."""
    if task.several_columns:
        return _panels(frame, task, note)
    known_N = task.known(frame)
    counts_CC = confusion_counts(targets(frame, task)[known_N], predicted(frame, task)[known_N], len(task.classes))
    side = 1.7 + 0.72 * max(len(task.classes), 3)
    figure = new_figure(side + 0.3, side)
    axes = figure.add_subplot()
    _matrix(axes, counts_CC, [shortened(name, width=18) for name in task.classes])
    rule = f"positive where p ≥ {THRESHOLD}" if task.thresholded else "the most probable"
    axes.set(xlabel=f"predicted class ({rule})", ylabel="true class")
    caption(figure, "Confusion matrix: counts, % of the row", facts(frame, task), note)
    return figure


def _panels(frame: pd.DataFrame, task: Task, note: str) -> Figure:
    questions = one_against_rest(frame, task)
    n_columns = min(len(questions), 4)
    n_rows = math.ceil(len(questions) / n_columns)
    figure = new_figure(max(2.2 * n_columns, 4.6), 2.6 * n_rows + 0.7)
    for index, question in enumerate(questions):
        axes = figure.add_subplot(n_rows, n_columns, index + 1)
        _matrix(axes, confusion_counts(question.truth, question.predicted, 2), ["no", "yes"])
        axes.set_title(f"{shortened(question.name, width=26)}\nn = {len(question.truth)}")
        if index % n_columns == 0:
            axes.set_ylabel("true")
        if index + n_columns >= len(questions):
            axes.set_xlabel(f"predicted (p ≥ {THRESHOLD})")
    caption(figure, "Confusion matrix of each label: counts, % of the row", facts(frame, task), note)
    return figure


def _matrix(axes: Axes, counts_CC: npt.NDArray[np.intp], names: list[str]) -> None:
    rows_C1 = counts_CC.sum(axis=1, keepdims=True)
    percent_CC = 100 * counts_CC / np.maximum(rows_C1, 1)
    axes.imshow(percent_CC, cmap="Blues", vmin=0, vmax=100)
    for (row, column), n in np.ndenumerate(counts_CC):
        percent = percent_CC[row, column]
        colour = "white" if percent > 60 else INK if n else GREY
        text = f"{n}\n{percent:.0f} %" if n else "0"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    # Nine characters fit under a cell of a matrix of three or more classes.
    if longest_line(names) > 9 * max(3 / len(names), 1):
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
