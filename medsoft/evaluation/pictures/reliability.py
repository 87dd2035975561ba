"""Reliability diagrams: how often a class is there, against how probable it was said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medsoft.evaluation.arrays import one_against_rest
from medsoft.evaluation.calibration import Calibration
from medsoft.evaluation.part import Part
from medsoft.evaluation.pictures.panels import describe, finish, panels
from medsoft.evaluation.pictures.style import GREY, PALETTE, save, styled
from medsoft.task import Task


def reliability(part: Part, task: Task, out: Path | str, note: str = "") -> Path:
    """Write the reliability diagrams of a part's classes."""
    return save(figure_reliability(part, task, note), out)


@styled
def figure_reliability(part: Part, task: Task, note: str = "") -> Figure:
    """One panel a class: bins of as many rows each, with Wilson intervals where rows are independent; scores below.

    Raises:
        ValueError: the part has no calibration.
    """
    if not part.calibration:
        raise ValueError("there are no rows to judge the calibration by")
    figure, all_axes = panels(list(part.calibration))
    methods: list[str] = []
    for axes, (name, found) in zip(all_axes, part.calibration.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        lines = []
        for how, calibration in found.items():
            if how not in methods:
                methods.append(how)
            _draw(axes, calibration, methods.index(how))
            lines.append(f"ECE {calibration.ece:.3f}" + (f" after {how}" if how else ""))
        one = next(iter(found.values()))
        lines.append(f"({one.ece_if_calibrated:.3f} if calibrated)")
        axes.text(0.03, 0.97, "\n".join(lines), va="top", transform=axes.transAxes, fontsize=8)
        question = next(q for q in one_against_rest(part.frame, task) if q.name == name)
        _scores(axes, question.p)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.14, 1.02), aspect="equal", anchor="NW")
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set(xlabel="predicted probability", ylabel="observed share")
    handles: list[Artist] = [
        Line2D([], [], color=PALETTE[index], label=how or "as predicted", **_look(index))
        for index, how in enumerate(methods)
    ]
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="calibrated"))
    title = "Reliability" + (
        f" of {next(iter(part.calibration))}" if len(part.calibration) == 1 else ", class by class"
    )
    about = describe(part, task) + (" · no intervals: patients have several rows" if part.clustered else "")
    finish(figure, title, about, note, handles)
    return figure


def _draw(axes: Axes, calibration: Calibration, index: int) -> None:
    x = [bin_.mean_p for bin_ in calibration.bins]
    y = [bin_.observed for bin_ in calibration.bins]
    for bin_ in calibration.bins:
        if bin_.low is not None and bin_.high is not None:
            axes.vlines(bin_.mean_p, bin_.low, bin_.high, color=PALETTE[index], alpha=0.45, linewidth=1)
    axes.plot(x, y, color=PALETTE[index], linewidth=1.2, **_look(index))


def _look(index: int) -> dict[str, Any]:
    """Filled, then hollow and dashed: both show where they lie on each other."""
    if index == 0:
        return {"marker": "o", "markersize": 4}
    return {"marker": "s", "markersize": 6, "markerfacecolor": "none", "linestyle": "--"}


def _scores(axes: Axes, p: np.ndarray) -> None:
    """How the scores are spread, as a strip below 0."""
    counts, edges = np.histogram(p, bins=25, range=(0, 1))
    heights = 0.1 * counts / max(counts.max(), 1)
    axes.bar(edges[:-1], heights, width=np.diff(edges), align="edge", bottom=-0.13, color=GREY, alpha=0.5, linewidth=0)
