"""A contact sheet of the predictions that were most certain and wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medsoft.evaluation.examples import all_examples
from medsoft.evaluation.figures.style import GREY, caption, facts, new_figure, save, shortened, styled
from medsoft.task import Task

Thumbnail = Callable[[str], npt.NDArray[np.generic] | None]


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
    found = [example for example in all_examples(frame, task) if not example.right]
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
            f"true: {shortened(mistake.target, 24, 1)}",
            f"predicted: {shortened(mistake.predicted, 24, 1)}",
            f"p = {mistake.p:.3f}",
            *([mistake.unfamiliar.replace("out-of-distribution", "o.o.d.")] if mistake.unfamiliar else []),
            shortened(mistake.id, 32, 3),
        ]
        axes.set_title("\n".join(lines), fontsize=7.5)
    which = "All" if len(shown) == len(found) else f"The {len(shown)} most confident of"
    caption(figure, f"{which} {len(found)} mistake{'s' if len(found) > 1 else ''}", facts(frame, task), note)
    return figure


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
