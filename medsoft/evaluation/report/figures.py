"""The report's figures: each panel of a chart as an SVG of its own, with its legend as text of the page.

The page arranges the panels, side by side or one below the other, as there is room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from medsoft.errors import InputError
from medsoft.evaluation.comparison.across_folds import AcrossFolds
from medsoft.evaluation.figures.data_size import data_size_chart
from medsoft.evaluation.figures.folds import roc_folds_chart
from medsoft.evaluation.figures.learning import by_epoch, learning_chart
from medsoft.evaluation.figures.panels import Chart, Panel
from medsoft.evaluation.figures.part_figures import charts_of
from medsoft.evaluation.figures.style import styled
from medsoft.evaluation.learning_curve.curve import LearningCurve
from medsoft.evaluation.metrics.targets import one_against_rest
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.svg import COLOURS, to_svg
from medsoft.task import Task

LARGE, SMALL, FLAT = (4.2, 4.0), (3.0, 2.85), (4.2, 3.2)
"""Width and height of a panel in inches."""
MOST_POINTS = 2000
"""Of a scatter plot: more cannot be told apart, and each is a line of the file."""
_MARKS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "<": "◀", ">": "▶", "P": "✚"}
_DASHES = {"--": " dash", "-.": " dash", ":": " dot"}
_POINTS_PER_INCH = 72
_CHARACTER = 5.8
"""Width of a tick's digit in points."""


@dataclass(frozen=True)
class Key:
    """A line of a legend.

    Attributes:
        label: what it explains.
        colour: as the page calls it.
        look: classes of the style sheet: "line", "band" or "mark", with "dash", "dot" and "faint".
        mark: the mark as a character; "" for a line alone.
    """

    label: str
    colour: str
    look: str
    mark: str = ""


@dataclass(frozen=True)
class PageFigure:
    """A panel with what stands around it: the heading above, legend and caption below."""

    title: str
    svg: str
    legend: tuple[Key, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class FigureGroup:
    """Panels that belong together: all of one question, or one kind of all classes with what they have in common."""

    title: str
    figures: tuple[PageFigure, ...]
    legend: tuple[Key, ...] = ()


class Figures:
    """Draws the figures of one page, whose ids are those of no other figure of that page."""

    def __init__(self) -> None:
        self._number: Iterator[int] = count()

    def of_part(self, part: Part, task: Task) -> list[FigureGroup]:
        """The charts of a part: of one question together, of several kind by kind and smaller."""
        charts = charts_of(part, task, MOST_POINTS)
        if len(one_against_rest(part.frame, task)) < 2:
            figures = [self._figure(chart, panel, LARGE) for chart in charts for panel in chart.panels]
            return [FigureGroup("", tuple(figures))] if figures else []
        return [self._group(chart) for chart in charts]

    def of_folds(self, across: AcrossFolds, parts: Sequence[Part], task: Task) -> FigureGroup | None:
        """The ROC curves of all folds; None where there are none."""
        own = [part for part in parts if (part.split, part.level) == (across.split, across.level) and part.curves]
        if not own:
            return None
        chart = roc_folds_chart(across, own, task)
        if len(chart.panels) > 1:
            return self._group(chart)
        return FigureGroup("", (self._figure(chart, chart.panels[0], LARGE),))

    def of_training(self, log: Path, best: int | None) -> tuple[PageFigure, ...]:
        """The learning curves of a run's log with its best epoch; none where the log holds none."""
        try:
            epochs = by_epoch(log)
        except InputError:
            return ()
        chart = learning_chart(epochs, best if best in epochs.index else None)
        return tuple(self._figure(chart, panel, FLAT) for panel in chart.panels)

    def of_data_size(self, curve: LearningCurve) -> PageFigure:
        """The metric over the number of training patients."""
        chart = data_size_chart(curve)
        return self._figure(chart, chart.panels[0], FLAT)

    def _group(self, chart: Chart) -> FigureGroup:
        """The panels of a chart with one legend."""
        figures: list[PageFigure] = []
        legend: dict[str, Key] = {}
        for panel in chart.panels:
            figure = self._figure(chart, panel, SMALL)
            for key in figure.legend:
                legend.setdefault(key.label, key)
            figures.append(replace(figure, legend=()))
        return FigureGroup(chart.kind, tuple(figures), tuple(legend.values()))

    @styled
    def _figure(self, chart: Chart, panel: Panel, size: tuple[float, float]) -> PageFigure:
        with rc_context({"xtick.major.size": 0, "ytick.major.size": 0}):  # the grid shows where ticks are
            figure = Figure(figsize=size)
            axes = figure.add_axes((0, 0, 1, 1))
            handles = panel.draw(axes)
            _place(axes, size)
            about = f"{chart.kind}{f' of {panel.name}' if panel.name else ''}: {panel.words}"
            svg = to_svg(figure, about, f"figure-{next(self._number)}")
        if size == SMALL:  # stands under a heading that says its kind
            title = panel.name or "All classes"
            title = f"class {title}" if title[:1].isdigit() else title
        else:
            title = panel.name if len(chart.panels) > 1 else chart.kind
        return PageFigure(title, svg, tuple(map(_key, handles)), panel.caption)


def _place(axes: Axes, size: tuple[float, float]) -> None:
    """Leave room for ticks and labels, without Matplotlib's layout engine, which takes longer than the drawing."""
    low, high = sorted(axes.get_ylim())
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    longest = max((len(text) for text in axes.yaxis.get_major_formatter().format_ticks(ticks)), default=0)
    width, height = (inches * _POINTS_PER_INCH for inches in size)
    left, right, top, bottom = 22 + _CHARACTER * longest, 9.0, 7.0, 34.0
    wide, high = width - left - right, height - top - bottom
    axes.set_position((left / width, bottom / height, wide / width, high / height))
    # "equal" axes are as wide as high, in the upper left corner.
    wide, high = (min(wide, high),) * 2 if axes.get_aspect() == 1 else (wide, high)
    axes.yaxis.set_label_coords((14 - left) / wide, 0.5)
    axes.xaxis.set_label_coords(0.5, -19 / high)


def _key(handle: Artist) -> Key:
    """What a legend says of an artist."""
    label = str(handle.get_label())
    if isinstance(handle, (PolyCollection, Patch)):
        red, green, blue, _ = np.reshape(handle.get_facecolor(), (-1, 4))[0].tolist()
        return Key(label, COLOURS[to_hex((red, green, blue)).upper()], "band")
    assert isinstance(handle, Line2D)
    line, mark = handle.get_linestyle(), _MARKS.get(str(handle.get_marker()), "")
    colour = COLOURS[to_hex(handle.get_color()).upper()]
    if line in ("None", "none", "", " "):
        return Key(label, colour, "mark", mark)
    faint = " faint" if (handle.get_alpha() or 1) < 1 else ""
    return Key(label, colour, "line" + _DASHES.get(str(line), "") + faint)
