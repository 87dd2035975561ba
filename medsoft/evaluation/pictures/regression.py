"""Regression: predictions against targets, and their differences (Bland and Altman)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from medsoft.evaluation.part import Part
from medsoft.evaluation.pictures.style import GREY, PALETTE, caption, new_figure, save, styled
from medsoft.evaluation.regression import Measured
from medsoft.evaluation.scorecard import Key

LINES = ("bias", "limit_low", "limit_high")


def agreement(part: Part, out: Path | str, note: str = "") -> Path:
    """Write the agreement of predictions and targets."""
    return save(figure_agreement(part, note), out)


def agreement_of_split(frame: pd.DataFrame, split: str, out: Path | str, note: str = "") -> Path:
    """Write the agreement of a predictions table's rows with a target, without an evaluation of them."""
    known = frame[frame["target"].notna()]
    found = Measured(known, np.arange(len(known)))(np.ones((1, len(known))))
    lines = [float(found[Key(name)][0]) for name in LINES]
    return save(_figure(known, split, lines, note), out)


def figure_agreement(part: Part, note: str = "") -> Figure:
    """Left, predictions against targets; right, differences against the mean of both, with bias and limits."""
    found = [part.find(name) for name in LINES]
    lines = [np.nan if estimate is None or estimate.value is None else estimate.value for estimate in found]
    return _figure(part.frame, part.split, lines, note)


@styled
def _figure(frame: pd.DataFrame, split: str, lines: list[float], note: str) -> Figure:
    target, prediction = (frame[name].to_numpy(dtype=np.float64) for name in ("target", "prediction"))
    figure = new_figure(8.6, 4.2)
    left = figure.add_subplot(1, 2, 1, xlabel="target", ylabel="prediction")
    low, high = min(target.min(), prediction.min()), max(target.max(), prediction.max())
    left.plot([low, high], [low, high], color=GREY, linestyle=":", linewidth=1)
    style: Any = {
        "linestyle": "",
        "marker": "o",
        "markersize": 3.5,
        "alpha": 0.55,
        "color": PALETTE[0],
        "markeredgewidth": 0,
    }
    left.plot(target, prediction, **style)
    right = figure.add_subplot(1, 2, 2, xlabel="mean of both", ylabel="prediction − target")
    right.plot((target + prediction) / 2, prediction - target, **style)
    for value, dash in zip(lines, ("-", "--", "--"), strict=True):
        if np.isfinite(value):
            right.axhline(value, color=PALETTE[1], linestyle=dash, linewidth=1.1)
    split = "" if split in ("", "all") else f"split: {split} · "
    about = f"{split}n = {len(frame)} · right: bias (line) and limits of agreement (dashed)"
    caption(figure, "Agreement of predictions and targets", about, note)
    return figure
