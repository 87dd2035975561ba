"""ROC curves with their bootstrap bands and the operating points that were locked."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from sklearn.metrics import roc_curve

from medsoft.evaluation.arrays import one_against_rest
from medsoft.evaluation.part import Part
from medsoft.evaluation.pictures.panels import describe, finish, panels
from medsoft.evaluation.pictures.style import GREY, INK, PALETTE, save, styled
from medsoft.task import Task

MARKERS = "osD^v<>P"


def roc_band(part: Part, task: Task, out: Path | str, note: str = "") -> Path:
    """Write the ROC curves of a part's classes with their bands."""
    return save(figure_roc_band(part, task, note), out)


@styled
def figure_roc_band(part: Part, task: Task, note: str = "") -> Figure:
    """One panel a class: curve, pointwise band, AUROC with its interval, operating points.

    Raises:
        ValueError: no class has both positive and negative rows.
    """
    if not part.curves:
        raise ValueError("no class has both positive and negative rows: there is no ROC curve")
    figure, all_axes = panels(list(part.curves))
    rules: list[str] = []
    for axes, (name, curves) in zip(all_axes, part.curves.items(), strict=True):
        question = next(q for q in one_against_rest(part.frame, task) if q.name == name)
        x, y, _ = roc_curve(question.truth, question.p)
        if len(curves.roc.low):
            axes.fill_between(curves.roc.x, curves.roc.low, curves.roc.high, color=PALETTE[0], alpha=0.16, linewidth=0)
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        axes.plot(x, y, color=PALETTE[0])
        _points(axes, part, name, rules)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="NW")
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        axes.text(0.97, 0.05, _auroc(part, name), ha="right", va="bottom", transform=axes.transAxes, fontsize=8.5)
    handles = [
        Line2D([], [], color=PALETTE[0], label="ROC curve"),
        Patch(color=PALETTE[0], alpha=0.16, label="bootstrap band, pointwise"),
        Line2D([], [], color=GREY, linestyle=":", label="chance"),
    ]
    for index, rule in enumerate(rules):
        marker = MARKERS[index % len(MARKERS)]
        handles.append(Line2D([], [], color=INK, linestyle="", marker=marker, markersize=5, label=f"threshold: {rule}"))
    title = f"ROC curve of {next(iter(part.curves))}" if len(part.curves) == 1 else "ROC curves, each against the rest"
    finish(figure, title, describe(part, task), note, handles, columns=2 if len(part.curves) == 1 else 4)
    return figure


def _points(axes: Axes, part: Part, name: str, rules: list[str]) -> None:
    for estimate in part.estimates:
        if estimate.metric != "sensitivity" or estimate.class_name != name or estimate.threshold is None:
            continue
        specificity = part.find("specificity", class_name=name, rule=estimate.rule)
        if estimate.value is None or specificity is None or specificity.value is None:
            continue
        if estimate.rule not in rules:
            rules.append(estimate.rule)
        marker = MARKERS[rules.index(estimate.rule) % len(MARKERS)]
        axes.plot(1 - specificity.value, estimate.value, color=INK, marker=marker, markersize=5, zorder=3)


def _auroc(part: Part, name: str) -> str:
    found = part.find("auroc", class_name=name)
    if found is None or found.value is None:
        return "AUROC undefined"
    if found.low is None or found.high is None:
        return f"AUROC {found.value:.3f}"
    # A wide interval with three digits pretends to know more than it does.
    digits = 3 if math.isclose(found.low, found.high, abs_tol=0.1) else 2
    interval = f"{np.round(found.low, digits):.{digits}f} to {np.round(found.high, digits):.{digits}f}"
    return f"AUROC {found.value:.{digits}f}\n({interval}, {found.method.replace('delong', 'DeLong')})"
