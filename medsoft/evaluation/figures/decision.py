"""Decision curves: net benefit of acting on a model, against acting on all and on none."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from medsoft.evaluation.figures.panels import Chart, Panel
from medsoft.evaluation.figures.style import GREY, INK, PALETTE, band
from medsoft.evaluation.part import ClassCurves, Part


def decision_chart(part: Part) -> Chart | None:
    """A panel a class: the model, recalibrated where it was, all and none.

    None where no class has both positive and negative rows.
    """
    if not part.curves:
        return None
    panels = [Panel(name, partial(_panel, curves=curves), _useful(curves)) for name, curves in part.curves.items()]
    title = f"Decision curve of {panels[0].name}" if len(panels) == 1 else "Decision curves, each against the rest"
    return Chart("decision_curve", "Decision curve", title, tuple(panels), height=2.6)


def _panel(axes: Axes, curves: ClassCurves) -> list[Artist]:
    model = curves.net_benefit
    handles: list[Artist] = [*axes.plot(model.x, model.y, color=PALETTE[0], label="model", zorder=2.2)]
    if curves.net_benefit_recalibrated is not None:
        recalibrated = curves.net_benefit_recalibrated.y
        look: dict[str, Any] = {"linestyle": "-.", "linewidth": 1.2, "zorder": 2.3}
        handles += axes.plot(model.x, recalibrated, color=PALETTE[1], label="model, recalibrated", **look)
    if len(model.low):
        handles.append(band(axes, model.x, model.low, model.high))
    of_all = net_benefit_of_all(curves)
    handles += axes.plot(model.x, of_all, color=GREY, linestyle="--", linewidth=1.1, label="act on all")
    handles.append(axes.axhline(0, color=INK, linewidth=0.9, label="act on none"))
    top = max(curves.prevalence, float(model.y.max()))
    axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.12 * top), xlabel="threshold probability", ylabel="net benefit")
    return handles


def _useful(curves: ClassCurves) -> str:
    model = curves.net_benefit
    better = model.x[model.y > np.maximum(net_benefit_of_all(curves), 0) + 1e-9]
    if not len(better):
        return "nowhere better than acting on all or on none"
    return f"better than acting on all and on none at thresholds between {better.min():.2f} and {better.max():.2f}"


def net_benefit_of_all(curves: ClassCurves) -> np.ndarray:
    """(T,) net benefit of acting on every sample."""
    x = curves.net_benefit.x
    return np.asarray(curves.prevalence - (1 - curves.prevalence) * x / (1 - x))
