"""Plots time and memory against size on logarithmic axes: a slope of 1 is linear, a slope of 2 quadratic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from medsoft.benchmark.measure import PASSES, Row
from medsoft.evaluation.figures.style import INK, PALETTE, caption, new_figure, save, shortened, styled

MARKERS = "osD^v<>Pp"
LABEL_GAP = 0.052
"""Between the lines of names, in heights of a panel."""


def scaling(rows: Sequence[Row], x: str, x_label: str, title: str, note: str, out: Path) -> Path:
    """Write a picture of measured rows as PNG.

    Args:
        rows: of ``medsoft.benchmark.measure``, each measured.
        x: column of the size.
        x_label: what to call it.
        title: above the panels.
        note: below them.
        out: the file.
    """
    return save(figure_scaling(rows, x, x_label, title, note), out)


@styled
def figure_scaling(rows: Sequence[Row], x: str, x_label: str, title: str, note: str = "") -> Figure:
    """Panels: time above, extra memory below; forward on the left, with backward on the right."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    figure = new_figure(10.4, 7.6)
    panels = [("median_ms", 1.0, "time, ms"), ("extra_bytes", 2.0**20, "peak extra memory, MiB")]
    for index, (column, unit, y_label) in enumerate(panels):
        for place, which in enumerate(PASSES):
            axes = figure.add_subplot(2, 2, 2 * index + place + 1, xscale="log", yscale="log", title=which)
            axes.set(xlabel=x_label, ylabel=y_label)
            _lines(axes, [row for row in rows if row["pass"] == which], x, column, unit, names)
    dashed = "; dashed: through torch.compile" if any(row["compiled"] for row in rows) else ""
    caption(figure, title, f"median of {rows[0]['rounds']} interleaved rounds{dashed}", note)
    return figure


def _lines(axes: Axes, rows: Sequence[Row], x: str, column: str, unit: float, names: Sequence[str]) -> None:
    ends: list[tuple[float, float, str, str]] = []
    for index, name in enumerate(names):
        colour = INK if name == "floor" else PALETTE[index % len(PALETTE)]
        for compiled in (False, True):
            chosen = [row for row in rows if row["name"] == name and row["compiled"] is compiled]
            if not chosen:
                continue
            sizes, values = [row[x] for row in chosen], [row[column] / unit for row in chosen]
            style = "--" if compiled else ":" if name == "floor" else "-"
            marker = MARKERS[index % len(MARKERS)]
            axes.plot(sizes, values, color=colour, linestyle=style, marker=marker, markersize=4)
            if not compiled:
                ends.append((sizes[-1], values[-1], name, colour))
    ticks = sorted({row[x] for row in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name beside its last point; names that would lie on each other are moved apart."""
    axes.set_ylim(axes.get_ylim())  # from here on as it is
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    step = (right / left) ** 0.03
    texts = {name: shortened(name.replace(":", ": ") if len(name) > 24 else name, lines=4) for _, _, name, _ in ends}
    gap = LABEL_GAP * (1 + max(text.count("\n") for text in texts.values()))
    for last in {size for size, *_ in ends}:
        here = sorted((end for end in ends if end[0] == last), key=lambda end: end[1])
        heights = spread([math.log(value / bottom, top / bottom) for _, value, _, _ in here], gap)
        for (size, value, name, colour), height in zip(here, heights, strict=True):
            axes.annotate(
                texts[name],
                (size, value),
                xytext=(size * step, bottom * (top / bottom) ** height),
                color=colour,
                fontsize=8,
                va="center",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
                annotation_clip=False,
            )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move rising places up or down, as little as needed, until they are ``gap`` apart; groups keep their middle."""
    groups: list[tuple[float, int]] = []  # middle, members
    for place in places:
        middle, members = place, 1
        while groups and middle - groups[-1][0] < gap * (members + groups[-1][1]) / 2:
            other, others = groups.pop()
            middle, members = (middle * members + other * others) / (members + others), members + others
        groups.append((middle, members))
    return [middle + gap * (index - (members - 1) / 2) for middle, members in groups for index in range(members)]
