"""Risk-coverage curves: the errors that are left when the least certain samples are set aside."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from medsoft.evaluation.figures.panels import Chart, Panel, on_two_lines, with_interval
from medsoft.evaluation.figures.style import GREY, PALETTE, band, write_in_corner
from medsoft.evaluation.intervals.curve import Curve
from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.part import Part
from medsoft.task import Task

SHOWN_FROM = 0.1
"""The coverage from which on the band fits into the picture."""


def coverage_chart(part: Part, task: Task) -> Chart | None:
    """A panel a label, or one for the whole table: the model, setting aside at random, and errors first.

    None where nothing says how certain the answers are.
    """
    if not part.risk_coverage:
        return None
    panels = []
    for name, curve in part.risk_coverage.items():
        found = part.find("aurc", class_name=name)
        draw = partial(_panel, curve=curve, found=found, of_classes=task.has_classes)
        panels.append(Panel(name, draw, f"AURC {with_interval(found)}"))
    title = "Errors among the samples that are answered"
    return Chart("risk_coverage", "Selective prediction", title, tuple(panels))


def _panel(axes: Axes, curve: Curve, found: Estimate | None, of_classes: bool) -> list[Artist]:
    handles: list[Artist] = [*axes.plot(curve.x, curve.y, color=PALETTE[0], label="most certain first", zorder=2.2)]
    if len(curve.low):
        handles.append(band(axes, curve.x, curve.low, curve.high))
    all_answered = float(curve.y[-1])
    handles.append(axes.axhline(all_answered, color=GREY, linestyle="--", linewidth=1.1, label="in random order"))
    if of_classes:
        best = np.maximum(0, 1 - (1 - all_answered) / curve.x)
        handles += axes.plot(curve.x, best, color=GREY, linestyle=":", linewidth=1.1, label="all right answers first")
    # Of the few that are answered first the band is as wide as the axis: it would flatten all else.
    wide = curve.x >= SHOWN_FROM
    highest = curve.high[wide].max() if len(curve.high) else 0.0
    top = 1.15 * max(float(highest), float(curve.y[wide].max()), all_answered, 1e-3)
    axes.set(xlim=(0, 1.01), ylim=(-0.02 * top, top))
    axes.set(xlabel="coverage", ylabel="share of errors" if of_classes else "mean absolute error")
    if found is not None and found.value is not None:
        write_in_corner(axes, on_two_lines("AURC", found), "upper right")
    return handles
