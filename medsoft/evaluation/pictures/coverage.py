"""Risk-coverage curves: the errors that are left when the least certain samples are set aside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from medsoft.evaluation.part import Part
from medsoft.evaluation.pictures.panels import describe, finish, panels
from medsoft.evaluation.pictures.style import GREY, PALETTE, save, styled
from medsoft.task import Task

SHOWN_FROM = 0.1
"""The coverage from which on the band fits into the picture."""


def risk_coverage(part: Part, task: Task | None, out: Path | str, note: str = "") -> Path:
    """Write the risk-coverage curves of a part."""
    return save(figure_risk_coverage(part, task, note), out)


@styled
def figure_risk_coverage(part: Part, task: Task | None, note: str = "") -> Figure:
    """One panel a label, or one for the whole table: the model, setting aside at random, and errors first.

    Raises:
        ValueError: the part has no such curve.
    """
    if not part.risk_coverage:
        raise ValueError("there is nothing that says how certain the answers are")
    names = list(part.risk_coverage)
    figure, all_axes = panels(names)
    for axes, (name, curve) in zip(all_axes, part.risk_coverage.items(), strict=True):
        all_answered = float(curve.y[-1])
        axes.axhline(all_answered, color=GREY, linestyle="--", linewidth=1.1)
        if task is not None:
            axes.plot(
                curve.x, np.maximum(0, 1 - (1 - all_answered) / curve.x), color=GREY, linestyle=":", linewidth=1.1
            )
        if len(curve.low):
            axes.fill_between(curve.x, curve.low, curve.high, color=PALETTE[0], alpha=0.16, linewidth=0)
        axes.plot(curve.x, curve.y, color=PALETTE[0])
        # Of the few that are answered first the band is as wide as the axis: it would flatten all else.
        wide = curve.x >= SHOWN_FROM
        highest = curve.high[wide].max() if len(curve.high) else 0.0
        top = 1.15 * max(float(highest), float(curve.y[wide].max()), all_answered, 1e-3)
        axes.set(xlim=(0, 1.01), ylim=(-0.02 * top, top))
        axes.set(xlabel="coverage", ylabel="share of errors" if task is not None else "mean absolute error")
        found = part.find("aurc", class_name=name)
        if found is not None and found.value is not None:
            interval = "" if found.low is None or found.high is None else f"\n({found.low:.3f} to {found.high:.3f})"
            text = f"AURC {found.value:.3f}{interval}"
            axes.text(0.97, 0.97, text, ha="right", va="top", transform=axes.transAxes, fontsize=8.5)
    handles = [
        Line2D([], [], color=PALETTE[0], label="most certain first"),
        Patch(color=PALETTE[0], alpha=0.16, label="bootstrap band, pointwise"),
        Line2D([], [], color=GREY, linestyle="--", label="in random order"),
    ]
    if task is not None:
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="all right answers first"))
    what = describe(part, task) if task is not None else f"split: {part.split} · n = {part.n}"
    finish(figure, "Errors among the samples that are answered", what, note, handles, columns=2)
    return figure
