"""ROC and precision-recall curves, one for each yes-or-no question of the task.

Of a part that was evaluated each class has a panel, with its band, intervals and operating points. Of a predictions
table alone all classes share one panel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import precision_recall_curve as precision_recall_points
from sklearn.metrics import roc_curve as roc_points

from medsoft.evaluation.figures.panels import Chart, Panel, on_two_lines, with_interval
from medsoft.evaluation.figures.style import (
    GREY,
    PALETTE,
    band,
    caption,
    explain_marks,
    facts,
    longest_line,
    looks,
    new_figure,
    save,
    shortened,
    styled,
    write_in_corner,
)
from medsoft.evaluation.intervals.curve import Curve
from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.metrics.score import score
from medsoft.evaluation.metrics.targets import OneAgainstRest, one_against_rest
from medsoft.evaluation.part import Part
from medsoft.evaluation.wording import rule_name
from medsoft.task import Task

MARKERS = "osD^v<>P"
FloatArray = npt.NDArray[np.float64]


def roc_chart(part: Part, task: Task) -> Chart | None:
    """A panel a class: curve, pointwise band, AUROC with its interval, the operating points that were locked.

    None where no class has both positive and negative rows.
    """
    if not (questions := _with_curves(part, task)):
        return None
    rules = list(dict.fromkeys(found.rule for q in questions for found in _operating_points(part, q.name)))
    panels = []
    for question in questions:
        words = f"AUROC {with_interval(part.find('auroc', class_name=question.name))}"
        panels.append(Panel(question.name, partial(_roc_panel, part=part, question=question, rules=rules), words))
    title = f"ROC curve of {panels[0].name}" if len(panels) == 1 else "ROC curves, each against the rest"
    return Chart("roc_band", "ROC curve", title, tuple(panels))


def precision_recall_chart(part: Part, task: Task) -> Chart | None:
    """A panel a class: the curve in steps, and the prevalence, which is what chance reaches.

    None where no class has both positive and negative rows.
    """
    if not (questions := _with_curves(part, task)):
        return None
    panels = []
    for question in questions:
        found, prevalence = part.find("average_precision", class_name=question.name), question.truth.mean()
        chance = "chance: the prevalence" + (f", {prevalence:.3f}" if len(questions) == 1 else "")
        draw = partial(_precision_recall_panel, question=question, found=found, chance=chance)
        words = f"average precision {with_interval(found)}, where chance has {prevalence:.3f}"
        panels.append(Panel(question.name, draw, words))
    kind = "Precision-recall curve"
    title = f"{kind} of {panels[0].name}" if len(panels) == 1 else f"{kind}s, each against the rest"
    return Chart("precision_recall", kind, title, tuple(panels))


def _with_curves(part: Part, task: Task) -> list[OneAgainstRest]:
    return [question for question in one_against_rest(part.frame, task) if question.name in part.curves]


def _roc_panel(axes: Axes, part: Part, question: OneAgainstRest, rules: Sequence[str]) -> list[Artist]:
    curve: Curve = part.curves[question.name].roc
    handles: list[Artist] = [_roc_line(axes, question, color=PALETTE[0], label="ROC curve")]
    if len(curve.low):
        handles.append(band(axes, curve.x, curve.low, curve.high))
    handles += axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="chance")
    for found in _operating_points(part, question.name):
        specificity = part.find("specificity", class_name=question.name, rule=found.rule)
        if found.value is None or specificity is None or specificity.value is None:
            continue
        at = rules.index(found.rule)
        look: dict[str, Any] = {"color": PALETTE[1 + at % 3], "marker": MARKERS[at % len(MARKERS)], "markersize": 5.5}
        rule = rule_name(found.rule)
        axes.plot(1 - specificity.value, found.value, linestyle="", zorder=3, **look)
        explain_marks(axes.lines[-1], [f"{rule}: sensitivity {found.value:.3f}, specificity {specificity.value:.3f}"])
        handles.append(Line2D([], [], linestyle="", label=f"threshold: {rule}", **look))
    _unit_square(axes, "1 − specificity", "sensitivity")
    write_in_corner(axes, _auroc(part.find("auroc", class_name=question.name)), "lower right")
    return handles


def _precision_recall_panel(axes: Axes, question: OneAgainstRest, found: Estimate | None, chance: str) -> list[Artist]:
    prevalence = float(question.truth.mean())
    handles: list[Artist] = [
        _precision_recall_line(axes, question, color=PALETTE[0], label="precision-recall curve"),
        axes.axhline(prevalence, color=GREY, linestyle=":", linewidth=1, label=chance),
    ]
    _unit_square(axes, "sensitivity (recall)", "precision (positive predictive value)")
    # Written where the curve is not: a good one leaves room low on the left, a poor one high on the right.
    poor = found is not None and found.value is not None and found.value < 0.5
    write_in_corner(axes, on_two_lines("average precision", found), "upper right" if poor else "lower left")
    return handles


def _operating_points(part: Part, name: str) -> list[Estimate]:
    """Sensitivities at the thresholds of one class; decisions by the most probable class have no threshold."""
    return [e for e in part.estimates if (e.metric, e.class_name) == ("sensitivity", name) and e.threshold is not None]


def _unit_square(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="NW", xlabel=x_label, ylabel=y_label)


def _auroc(found: Estimate | None) -> str:
    if found is None or found.value is None:
        return "AUROC undefined"
    if found.low is None or found.high is None:
        return f"AUROC {found.value:.3f}"
    # A wide interval with three digits pretends to know more than it does.
    digits = 3 if math.isclose(found.low, found.high, abs_tol=0.1) else 2
    interval = f"{np.round(found.low, digits):.{digits}f} to {np.round(found.high, digits):.{digits}f}"
    return f"AUROC {found.value:.{digits}f}\n({interval}, {found.method.replace('delong', 'DeLong')})"


def _roc_line(axes: Axes, question: OneAgainstRest, **look: Any) -> Line2D:
    """The ROC curve of one question: its corners, without points that lie on a straight line between others."""
    false_positives, true_positives, _ = roc_points(question.truth, question.p)
    return axes.plot(false_positives, true_positives, **look)[0]


def _precision_recall_line(axes: Axes, question: OneAgainstRest, **look: Any) -> Line2D:
    """The precision-recall curve of one question in steps; the area below it is the average precision."""
    precision, recall, _ = precision_recall_points(question.truth, question.p)
    precision[-1] = precision[-2]  # scikit-learn's last point, a precision of 1 at no recall, stands for no row
    return axes.plot(recall, precision, drawstyle="steps-post", **look)[0]


# Of a predictions table: all classes in one panel


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
        handles.append(_roc_line(axes, question, color=colour, linestyle=line, label=_label(question, f"{auroc:.3f}")))
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
        label = _label(question, f"{average_precision:.3f}")
        handles.append(_precision_recall_line(axes, question, color=colour, linestyle=line, label=label))
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
    title = f"{value}, {'label' if task.several_columns else 'class'} (positives / n)"
    axes.legend(handles=handles, title=title, alignment="left", loc="upper left", bbox_to_anchor=(1.02, 1))


def _title(picture: str, task: Task) -> str:
    if task.positive:
        return f"{picture} of {shortened(task.positive, lines=1)}"
    return f"{picture}s, " + ("label by label" if task.several_columns else "each class against the rest")
