"""The learning curve over the number of training patients, with the power law that is drawn on beyond them."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from medsoft.evaluation.figures.panels import Chart, Panel
from medsoft.evaluation.figures.style import GREY, PALETTE, explain_marks
from medsoft.evaluation.learning_curve.curve import MORE, LearningCurve, sentence
from medsoft.evaluation.metrics.table import metric_name


def data_size_chart(curve: LearningCurve) -> Chart:
    """One panel: the metric of each part of the data with its interval, and the law."""
    known = [point for point in curve.points if point.value is not None]
    said = "; ".join(f"{point.n:,.0f} {curve.unit}: {point.value:.3f}" for point in known)
    words = said + (f". {sentence(curve)}" if curve.forecast else "")
    title = f"Learning curve: {metric_name(curve.metric)} by {curve.unit} in training"
    return Chart("learning_curve", "Learning curve", title, (Panel("", partial(_panel, curve=curve), words),))


def _panel(axes: Axes, curve: LearningCurve) -> list[Artist]:
    known = [point for point in curve.points if point.value is not None]
    n = [point.n for point in known]
    handles: list[Artist] = []
    if curve.law is not None:
        along = np.geomspace(min(n), MORE * max(n), 100)
        handles += axes.plot(along, curve.law(along), color=GREY, linestyle="--", linewidth=1, label="power law")
    for point in known:
        if point.low is not None and point.high is not None:
            axes.plot([point.n, point.n], [point.low, point.high], color=PALETTE[0], linewidth=1)
    values = [float(point.value) for point in known if point.value is not None]
    line = axes.plot(n, values, color=PALETTE[0], linestyle="none", marker="o", markersize=5, label="mean over folds")
    explain_marks(axes.lines[-1], [f"{at:,.0f} {curve.unit}: {value:.3f}" for at, value in zip(n, values, strict=True)])
    handles = [*line, *handles]
    if curve.forecast is not None:
        one = curve.forecast
        if one.low is not None and one.high is not None:
            axes.plot([one.n, one.n], [one.low, one.high], color=PALETTE[1], linewidth=1)
        handles += axes.plot(
            [one.n], [one.value], color=PALETTE[1], linestyle="none", marker="D", markersize=5, label="forecast"
        )
    axes.set(xlabel=f"{curve.unit} in training", ylabel=metric_name(curve.metric))
    axes.set_xlim(left=0)
    return handles
