"""Regression: predictions against targets, and their differences (Bland and Altman)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from medsoft.evaluation.figures.panels import Chart, Panel, figure_of, with_interval
from medsoft.evaluation.figures.style import GREY, PALETTE, facts, save
from medsoft.evaluation.metrics.regression import Measured
from medsoft.evaluation.metrics.weighted import Key
from medsoft.evaluation.part import Part
from medsoft.task import Task

LINES = ("bias", "limit_low", "limit_high")


def agreement_chart(part: Part, most_points: int | None = None) -> Chart | None:
    """Left, predictions against targets; right, differences against the mean of both, with bias and limits.

    None where there is no row with a target.

    Args:
        part: of a regression.
        most_points: of more rows, so many drawn at random are shown; the lines are those of all rows.
    """
    if not part.n:
        return None
    found = {name: part.find(name) for name in LINES}
    lines = {name: one.value for name, one in found.items() if one is not None and one.value is not None}
    frame, caption = part.frame, ""
    if most_points is not None and len(frame) > most_points:
        frame = frame.sample(most_points, random_state=0)
        caption = f"{most_points} of {part.n} rows, drawn at random."
    return _chart(frame, lines, f"concordance {with_interval(part.find('concordance'))}", caption)


def agreement(frame: pd.DataFrame, task: Task, out: Path | str, note: str = "") -> Path:
    """Write the agreement of a predictions table's rows with a target, without an evaluation of them."""
    known = frame[task.known(frame)]
    found = Measured(known, np.arange(len(known)))(np.ones((1, len(known))))
    lines = {name: float(value) for name in LINES if np.isfinite(value := found[Key(name)][0])}
    return save(figure_of(_chart(known, lines, "predictions and targets", ""), facts(frame, task), note), out)


def _chart(frame: pd.DataFrame, lines: Mapping[str, float], words: str, caption: str) -> Chart:
    target, prediction = (frame[name].to_numpy(dtype=np.float64) for name in ("target", "prediction"))
    of_lines = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in lines.items())
    left = Panel("Predictions and targets", partial(_scatter, target=target, prediction=prediction), words, caption)
    draw = partial(_differences, target=target, prediction=prediction, lines=lines)
    right = Panel("Agreement", draw, of_lines, caption)
    title = "Agreement of predictions and targets"
    return Chart("agreement", "Agreement", title, (left, right), height=3.1)


def _scatter(axes: Axes, target: np.ndarray, prediction: np.ndarray) -> list[Artist]:
    low, high = min(target.min(), prediction.min()), max(target.max(), prediction.max())
    room = 0.04 * (high - low) or 0.5
    equal = axes.plot([low, high], [low, high], color=GREY, linestyle=":", linewidth=1, label="equal")
    axes.plot(target, prediction, **_points())
    axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room), xlabel="target", ylabel="prediction")
    _short_ticks(axes)
    return [*equal]


def _differences(axes: Axes, target: np.ndarray, prediction: np.ndarray, lines: Mapping[str, float]) -> list[Artist]:
    axes.plot((target + prediction) / 2, prediction - target, **_points())
    handles: list[Artist] = []
    for name, value in lines.items():
        look: dict[str, Any] = {"linestyle": "-", "label": "bias"}
        if name != "bias":
            look = {"linestyle": "--", "label": "limits of agreement"}
        handles.append(axes.axhline(value, color=PALETTE[1], linewidth=1.1, **look))
    axes.set(xlabel="mean of prediction and target", ylabel="prediction − target")
    _short_ticks(axes)
    return handles[:2]


def _short_ticks(axes: Axes) -> None:
    """Each tick says its whole number, also a large one: a target can be of any size."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def _points() -> dict[str, Any]:
    look: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 3.5}
    return look | {"alpha": 0.55, "color": PALETTE[0], "markeredgewidth": 0}
