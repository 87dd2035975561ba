"""Regression: predictions against targets, and their differences (Bland and Altman)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medsoft.evaluation.part import Part
from medsoft.evaluation.pictures.style import GREY, PALETTE, caption, new_figure, save, styled


def agreement(part: Part, out: Path | str, note: str = "") -> Path:
    """Write the agreement of predictions and targets."""
    return save(figure_agreement(part, note), out)


@styled
def figure_agreement(part: Part, note: str = "") -> Figure:
    """Left, predictions against targets; right, differences against the mean of both, with bias and limits."""
    target, prediction = (part.frame[name].to_numpy(dtype=np.float64) for name in ("target", "prediction"))
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
    for name, dash in (("bias", "-"), ("limit_low", "--"), ("limit_high", "--")):
        found = part.find(name)
        if found is not None and found.value is not None:
            right.axhline(found.value, color=PALETTE[1], linestyle=dash, linewidth=1.1)
    split = "" if part.split == "all" else f"split: {part.split} · "
    about = f"{split}n = {part.n} · right: bias (line) and limits of agreement (dashed)"
    caption(figure, "Agreement of predictions and targets", about, note)
    return figure
