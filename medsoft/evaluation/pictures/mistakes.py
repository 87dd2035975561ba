"""A contact sheet of the predictions that were most certain and wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medsoft.evaluation.arrays import predicted, probabilities, targets
from medsoft.evaluation.pictures.style import GREY, caption, facts, new_figure, save, shortened, styled
from medsoft.task import Task

Thumbnail = Callable[[str], npt.NDArray[np.generic] | None]


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: of which sample, and its probability (that of the predicted class, not of the true one)."""

    id: str
    label: str  # which label of a multilabel task, otherwise empty
    truth: str
    predicted: str
    p: float


def confident_mistakes(
    frame: pd.DataFrame, task: Task, thumbnail: Thumbnail, out: Path | str, n: int = 16, note: str = ""
) -> Path:
    """Write the pictures of the most confident mistakes.

    Args:
        frame: a predictions table.
        task: its task. For multilabel every label of a sample can be a mistake of its own.
        thumbnail: from an id to its picture, (H, W) or (H, W, 3), uint8 or floats in [0, 1]; None if there is none.
        out: the PNG file.
        n: how many to show at most.
        note: footer.
    """
    return save(figure_confident_mistakes(frame, task, thumbnail, n, note), out)


@styled
def figure_confident_mistakes(
    frame: pd.DataFrame, task: Task, thumbnail: Thumbnail, n: int = 16, note: str = ""
) -> Figure:
    """The sheet as a figure, the most confident mistake first; arguments as for ``confident_mistakes``."""
    found = find_mistakes(frame, task)
    if not found:
        figure = new_figure(4.6, 1.6)
        figure.text(0.5, 0.35, "no mistakes", ha="center", fontsize=12, color=GREY)
        caption(figure, "Most confident mistakes", facts(frame, task), note)
        return figure
    shown = found[:n]
    n_columns = min(len(shown), 4)
    n_rows = math.ceil(len(shown) / n_columns)
    figure = new_figure(max(2.3 * n_columns, 4.6), 3.0 * n_rows + 0.7)
    for index, mistake in enumerate(shown):
        axes = figure.add_subplot(n_rows, n_columns, index + 1)
        _picture(axes, thumbnail(mistake.id))
        lines = [shortened(mistake.label, 28, 1)] if mistake.label else []
        lines += [
            f"true: {shortened(mistake.truth, 24, 1)}",
            f"predicted: {shortened(mistake.predicted, 24, 1)}",
            f"p = {mistake.p:.3f}",
            shortened(mistake.id, 32, 3),
        ]
        axes.set_title("\n".join(lines), fontsize=7.5)
    which = "All" if len(shown) == len(found) else f"The {len(shown)} most confident of"
    caption(figure, f"{which} {len(found)} mistake{'s' if len(found) > 1 else ''}", facts(frame, task), note)
    return figure


def find_mistakes(frame: pd.DataFrame, task: Task) -> list[Mistake]:
    """All wrong predictions of the table, the most confident first."""
    target, says, p_NC = targets(frame, task), predicted(frame, task), probabilities(frame, task)
    ids = frame["id"].tolist()
    wrong = (says != target) & (target >= 0)
    found = []
    if task.kind == "multilabel":
        for row, label in np.argwhere(wrong):
            p = p_NC[row, label] if says[row, label] else 1 - p_NC[row, label]
            truth, prediction = ("no", "yes") if says[row, label] else ("yes", "no")
            found.append(Mistake(ids[row], task.classes[label], truth, prediction, float(p)))
    else:
        for row in np.flatnonzero(wrong):
            truth, prediction = task.classes[target[row]], task.classes[says[row]]
            found.append(Mistake(ids[row], "", truth, prediction, float(p_NC[row, says[row]])))
    return sorted(found, key=lambda mistake: -mistake.p)


def _picture(axes: Axes, pixels: npt.NDArray[np.generic] | None) -> None:
    axes.set(xticks=[], yticks=[], anchor="NW")
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color="#CCCCCC", linewidth=0.5)
    if pixels is None:
        axes.set(aspect="equal", facecolor="#EEEEEE")
        axes.text(0.5, 0.5, "no picture", ha="center", va="center", color=GREY)
        return
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
    axes.set_anchor("NW")
