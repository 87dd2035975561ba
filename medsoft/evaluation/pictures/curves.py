"""ROC and precision-recall curves, one for each yes-or-no question of the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import precision_recall_curve as precision_recall_points
from sklearn.metrics import roc_curve as roc_points

from medsoft.evaluation.arrays import OneAgainstRest, one_against_rest
from medsoft.evaluation.metrics import score
from medsoft.evaluation.pictures.style import (
    GREY,
    caption,
    facts,
    longest_line,
    looks,
    new_figure,
    save,
    shortened,
    styled,
)
from medsoft.task import Task


def roc_curve(frame: pd.DataFrame, task: Task, out: Path | str, note: str = "") -> Path:
    """Write the ROC curves of a predictions table, each class or label against the rest."""
    return save(figure_roc_curve(frame, task, note), out)


def precision_recall(frame: pd.DataFrame, task: Task, out: Path | str, note: str = "") -> Path:
    """Write the precision-recall curves, each with its prevalence, which is what chance reaches."""
    return save(figure_precision_recall(frame, task, note), out)


@styled
def figure_roc_curve(frame: pd.DataFrame, task: Task, note: str = "") -> Figure:
    """Sensitivity against 1 − specificity; the legend holds the AUROC of each curve, or says undefined."""
    questions = _questions(frame, task, "auroc")
    figure, axes = _square(questions, "1 − specificity", "sensitivity")
    handles: list[Artist] = []
    for (question, auroc), (colour, line) in zip(questions, looks(task), strict=False):
        if auroc is None:
            handles.append(_undefined(question))
            continue
        false_positives, true_positives, _ = roc_points(question.truth, question.p)
        label = _label(question, f"{auroc:.3f}")
        handles += axes.plot(false_positives, true_positives, color=colour, linestyle=line, label=label)
    handles += axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="chance")
    _legend(axes, handles, "AUROC", task)
    caption(figure, _title("ROC curve", task), facts(frame, task), note)
    return figure


@styled
def figure_precision_recall(frame: pd.DataFrame, task: Task, note: str = "") -> Figure:
    """Precision against sensitivity, in steps; the legend holds the average precision, or says undefined."""
    questions = _questions(frame, task, "average_precision")
    figure, axes = _square(questions, "sensitivity (recall)", "precision (positive predictive value)")
    handles: list[Artist] = []
    for (question, average_precision), (colour, line) in zip(questions, looks(task), strict=False):
        if average_precision is None:
            handles.append(_undefined(question))
            continue
        precision, recall, _ = precision_recall_points(question.truth, question.p)
        precision[-1] = precision[-2]  # scikit-learn's last point, a precision of 1 at no recall, stands for no row
        label = _label(question, f"{average_precision:.3f}")
        handles += axes.plot(recall, precision, color=colour, linestyle=line, label=label, drawstyle="steps-post")
        axes.axhline(float(np.mean(question.truth)), color=colour, linestyle=":", linewidth=1)
    handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="chance: the prevalence"))
    _legend(axes, handles, "average precision", task)
    caption(figure, _title("Precision-recall curve", task), facts(frame, task), note)
    return figure


def _questions(frame: pd.DataFrame, task: Task, metric: str) -> list[tuple[OneAgainstRest, float | None]]:
    """Each question with its value as in the metrics, so that picture and numbers cannot differ."""
    scores = score(frame, task)
    return [
        (question, scores["per_class"].get(question.name, scores["overall"])[metric])
        for question in one_against_rest(frame, task)
    ]


def _square(questions: list[tuple[OneAgainstRest, float | None]], x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """A square panel with room for the legend on its right."""
    labels = [_label(question, "0.000") for question, _ in questions]
    legend_lines = "\n".join(labels).count("\n") + 4
    figure = new_figure(4.7 + 0.07 * max(longest_line(labels), 36), max(4.8, 1.0 + 0.2 * legend_lines))
    axes = figure.add_subplot(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=x_label, ylabel=y_label)
    axes.set_anchor("NW")
    return figure, axes


def _label(question: OneAgainstRest, value: str) -> str:
    # The number comes first: the names are then free in length, and none begins with the "_" that hides a legend entry.
    name = shortened(question.name, width=30).replace("\n", "\n            ")
    return f"{value}   {name} ({question.truth.sum()} / {len(question.truth)})"


def _undefined(question: OneAgainstRest) -> Artist:
    return Line2D([], [], linestyle="none", label=_label(question, "undefined"))


def _legend(axes: Axes, handles: Sequence[Artist], value: str, task: Task) -> None:
    title = f"{value}, {'label' if task.kind == 'multilabel' else 'class'} (positives / n)"
    axes.legend(handles=handles, title=title, alignment="left", loc="upper left", bbox_to_anchor=(1.02, 1))


def _title(picture: str, task: Task) -> str:
    if task.kind == "binary":
        return f"{picture} of {shortened(task.classes[1], lines=1)}"
    return f"{picture}s, " + ("label by label" if task.kind == "multilabel" else "each class against the rest")
