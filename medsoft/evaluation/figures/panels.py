"""Figures made of panels: what each panel shows, and how all of them are drawn together.

A ``Chart`` says what there is to draw. Folders get it as one PNG with all its panels (``figure_of``); the report shows
each panel as an SVG of its own, which lets the page arrange them (``medsoft.evaluation.report.figures``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from medsoft.evaluation.figures.style import caption, facts, new_figure, shortened, styled, write_below
from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.part import Part
from medsoft.task import Task


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        name: the class or label that it is about, or its own title; "" where the chart's title says it all.
        draw: draws it on axes, and returns what the legend explains: artists with labels.
        words: what can be read off it, for those who cannot see it.
        caption: what must be known to read it; the report shows it below the panel.
    """

    name: str
    draw: Callable[[Axes], Sequence[Artist]]
    words: str
    caption: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure before it is drawn.

    Attributes:
        file: its file's name without split and suffix.
        kind: what kind of figure it is: its heading in the report.
        title: above all panels in the file.
        panels: one for each class or label, or several that belong together; at least one.
        remark: what the file says below the title beside the counts; "" for nothing.
        height: of a panel in inches; its width is 3.1.
    """

    file: str
    kind: str
    title: str
    panels: tuple[Panel, ...]
    remark: str = ""
    height: float = 3.0


@styled
def figure_of(chart: Chart, about: str, note: str = "") -> Figure:
    """All panels of a chart with one legend.

    Args:
        chart: what to draw.
        about: which samples it shows, such as ``describe`` says.
        note: footer.
    """
    figure, all_axes = panels([panel.name for panel in chart.panels], height=chart.height)
    handles: dict[object, Artist] = {}
    for axes, panel in zip(all_axes, chart.panels, strict=True):
        for handle in panel.draw(axes):
            handles.setdefault(handle.get_label(), handle)
    caption(figure, chart.title, " · ".join(text for text in (about, chart.remark) if text))
    columns = 2 if len(all_axes) == 1 else 4
    legend = figure.legend(handles=list(handles.values()), loc="outside lower left", ncols=columns)
    write_below(figure, note)
    _hold(figure, legend)
    return figure


def _hold(figure: Figure, legend: Legend) -> None:
    """Lay the figure out now and leave it so: the legend would move to the edge of a picture that has grown."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")
    legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)


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


def with_interval(found: Estimate | None, digits: int = 3) -> str:
    """``0.912 (0.880 to 0.944)``; ``undefined`` where there is no value."""
    if found is None or found.value is None:
        return "undefined"
    if found.low is None or found.high is None:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def on_two_lines(name: str, found: Estimate | None) -> str:
    """A metric's name and value, its interval below."""
    return f"{name} {with_interval(found)}".replace(" (", "\n(")
