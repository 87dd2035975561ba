"""Reliability diagrams: how often a class is there, against how probable it was said to be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from medsoft.evaluation.figures.panels import Chart, Panel
from medsoft.evaluation.figures.style import GREY, PALETTE, explain_marks, write_in_corner
from medsoft.evaluation.metrics.calibration import Calibration
from medsoft.evaluation.metrics.targets import OneAgainstRest, one_against_rest
from medsoft.evaluation.part import Part
from medsoft.evaluation.wording import after
from medsoft.task import Task

BOTTOM = -0.13
"""Where the strip stands that shows how the probabilities are spread."""


def reliability_chart(part: Part, task: Task) -> Chart | None:
    """A panel a class: bins of as many rows each, with Wilson intervals where rows are independent; scores below.

    None where there are no rows to judge the calibration by.
    """
    if not part.calibration:
        return None
    remark = "no intervals: patients have several rows" if part.clustered else ""
    panels = []
    for question in one_against_rest(part.frame, task):
        if (found := part.calibration.get(question.name)) is None:
            continue
        draw = partial(_panel, question=question, found=found)
        panels.append(
            Panel(question.name, draw, "; ".join(_errors(found)), f"{remark.capitalize()}." if remark else "")
        )
    title = f"Reliability of {panels[0].name}" if len(panels) == 1 else "Reliability, class by class"
    return Chart("reliability", "Calibration", title, tuple(panels), remark)


def _panel(axes: Axes, question: OneAgainstRest, found: Mapping[str, Calibration]) -> list[Artist]:
    counts, edges = np.histogram(question.p, bins=25, range=(0, 1))
    spread = axes.stairs(
        BOTTOM + 0.1 * counts / max(counts.max(), 1),
        edges,
        baseline=BOTTOM,
        fill=True,
        color=GREY,
        alpha=0.5,
        linewidth=0,
        label="how the probabilities are spread",
    )
    ideal = axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="calibrated")
    handles: list[Artist] = []
    for index, (how, calibration) in enumerate(found.items()):
        _bins(axes, calibration, index)
        label = after(how) if how else "as predicted"
        handles.append(Line2D([], [], color=PALETTE[index], label=label, **_look(index)))
    first = next(iter(found.values()))
    lines = [*_errors(found), f"({first.ece_if_calibrated:.3f} by chance, if calibrated)"]
    write_in_corner(axes, "\n".join(lines), "upper left")
    axes.set(xlim=(-0.02, 1.02), ylim=(BOTTOM - 0.01, 1.02), aspect="equal", anchor="NW")
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set(xlabel="predicted probability", ylabel="observed share")
    return [*handles, *ideal, spread]


def _errors(found: Mapping[str, Calibration]) -> list[str]:
    return [f"ECE {one.ece:.3f} {after(how) if how else 'as predicted'}" for how, one in found.items()]


def _bins(axes: Axes, calibration: Calibration, index: int) -> None:
    known = [(b.mean_p, b.low, b.high) for b in calibration.bins if b.low is not None and b.high is not None]
    if known:
        p, low, high = zip(*known, strict=True)
        axes.vlines(p, low, high, color=PALETTE[index], alpha=0.45, linewidth=1)
    x, y = [b.mean_p for b in calibration.bins], [b.observed for b in calibration.bins]
    axes.plot(x, y, color=PALETTE[index], linewidth=1.2, **_look(index))
    said = [f"{b.n} rows: predicted {b.mean_p:.3f}, observed {b.observed:.3f}" for b in calibration.bins]
    explain_marks(axes.lines[-1], said)


def _look(index: int) -> dict[str, Any]:
    """Filled, then hollow and dashed: both show where they lie on each other."""
    if index == 0:
        return {"marker": "o", "markersize": 4}
    return {"marker": "s", "markersize": 6, "markerfacecolor": "none", "linestyle": "--"}
