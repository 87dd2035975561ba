"""Small multiples: one panel a class or label, with what all panels have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medsoft.evaluation.part import Part
from medsoft.evaluation.pictures.style import caption, facts, new_figure, shortened
from medsoft.task import Task


def panels(names: Sequence[str], width: float = 3.1, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each name, at most four in a row; one panel alone is larger and has no title."""
    alone = len(names) == 1
    columns = 3 if len(names) in (5, 6) else min(len(names), 4)
    rows = math.ceil(len(names) / max(columns, 1))
    scale = 1.4 if alone else 1.0
    figure = new_figure(max(width * columns * scale, 4.6), height * rows * scale + 1.0)
    found = []
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        if not alone:
            axes.set_title(shortened(name, width=32))
        found.append(axes)
    return figure, found


def describe(part: Part, task: Task) -> str:
    """Which samples a picture shows, and how many patients."""
    text = facts(part.frame, task)
    if part.level != "row":
        text += f" {part.level}s"
    elif part.n_patients is not None:
        text += f" of {part.n_patients} patients"
    return text


def finish(figure: Figure, title: str, about: str, note: str, handles: Sequence[Artist], columns: int = 3) -> None:
    """Legend below the panels, caption above."""
    caption(figure, title, about, note)
    figure.legend(handles=list(handles), loc="outside lower left", ncols=columns)
