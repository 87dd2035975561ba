"""Decision curves: net benefit of acting on a model, against acting on all and on none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from medsoft.evaluation.part import ClassCurves, Part
from medsoft.evaluation.pictures.panels import describe, finish, panels
from medsoft.evaluation.pictures.style import GREY, INK, PALETTE, save, styled
from medsoft.task import Task


def decision_curve(part: Part, task: Task, out: Path | str, note: str = "") -> Path:
    """Write the decision curves of a part's classes."""
    return save(figure_decision_curve(part, task, note), out)


@styled
def figure_decision_curve(part: Part, task: Task, note: str = "") -> Figure:
    """One panel a class: the model, recalibrated where it was, all and none.

    Raises:
        ValueError: no class has both positive and negative rows.
    """
    if not part.curves:
        raise ValueError("no class has both positive and negative rows: there is no decision curve")
    figure, all_axes = panels(list(part.curves), height=2.6)
    for axes, curves in zip(all_axes, part.curves.values(), strict=True):
        model = curves.net_benefit
        if len(model.low):
            axes.fill_between(model.x, model.low, model.high, color=PALETTE[0], alpha=0.16, linewidth=0)
        axes.plot(model.x, net_benefit_of_all(curves), color=GREY, linestyle="--", linewidth=1.1)
        axes.axhline(0, color=INK, linewidth=0.9)
        axes.plot(model.x, model.y, color=PALETTE[0])
        if curves.net_benefit_recalibrated is not None:
            axes.plot(model.x, curves.net_benefit_recalibrated.y, color=PALETTE[1], linestyle="-.", linewidth=1.2)
        top = max(curves.prevalence, float(model.y.max()))
        axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.12 * top))
        axes.set(xlabel="threshold probability", ylabel="net benefit")
    handles = [
        Line2D([], [], color=PALETTE[0], label="model"),
        Patch(color=PALETTE[0], alpha=0.16, label="bootstrap band, pointwise"),
        Line2D([], [], color=GREY, linestyle="--", label="act on all"),
        Line2D([], [], color=INK, linewidth=0.9, label="act on none"),
    ]
    if any(curves.net_benefit_recalibrated is not None for curves in part.curves.values()):
        handles.insert(1, Line2D([], [], color=PALETTE[1], linestyle="-.", label="model, recalibrated"))
    title = "Decision curve" + (
        f" of {next(iter(part.curves))}" if len(part.curves) == 1 else "s, each against the rest"
    )
    finish(figure, title, describe(part, task), note, handles, columns=2 if len(part.curves) == 1 else 5)
    return figure


def net_benefit_of_all(curves: ClassCurves) -> np.ndarray:
    """(T,) net benefit of acting on every sample."""
    x = curves.net_benefit.x
    return np.asarray(curves.prevalence - (1 - curves.prevalence) * x / (1 - x))
