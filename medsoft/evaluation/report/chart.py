"""Small charts as SVG text that stands within the report's page: they take its colours, light or dark, and its type.

The pictures for papers are Matplotlib's (``medsoft.evaluation.pictures``). An SVG of Matplotlib brings colours and type
of its own, which cannot follow the page from light to dark.

What a chart draws has a class of the page's style sheet: ``c0`` to ``c3`` for data, ``quiet`` for what they are held
against; ``dash`` and ``dot`` for broken lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

Range = tuple[float, float]
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 10, 46
_DIGIT = 7.5
"""Width of a tick's digit."""
_ROUND = 6
"""Room for a mark that lies on the panel's edge."""


class Chart:
    """One panel with two axes.

    Args:
        title: what it shows, for those who cannot see it.
        description: what is to be read off it, likewise.
        x_label: below the panel.
        y_label: on its left.
        x: the range of the x axis.
        y: the range of the y axis.
        size: width and height of the whole in px of the page.
        whole: x takes whole numbers alone.
    """

    def __init__(
        self,
        title: str,
        description: str,
        x_label: str,
        y_label: str,
        x: Range = (0.0, 1.0),
        y: Range = (0.0, 1.0),
        size: tuple[int, int] = (420, 400),
        whole: bool = False,
    ) -> None:
        self._title, self._description = title, description
        self._x_label, self._y_label = x_label, y_label
        # Values that are all the same have a range too.
        self._x, self._y = ((low, high) if high > low else (low - 0.5, low + 0.5) for low, high in (x, y))
        self._x_ticks, self._y_ticks = nice_ticks(*self._x, least=1.0 if whole else 0.0), nice_ticks(*self._y)
        # The label of the axis stands on the left of the longest tick.
        self._left = max(_LEFT, round(28 + _DIGIT * max(len(f"{value:g}") for value in self._y_ticks)))
        self._width, self._height = size
        self._parts: list[str] = []

    def line(self, x: npt.ArrayLike, y: npt.ArrayLike, style: str = "c0") -> None:
        """A line through points; it is cut at the panel's edges."""
        self._parts.append(f'<path class="line {style}" d="{_path(self._points(x, y))}"/>')

    def band(self, x: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, style: str = "c0") -> None:
        """The area between two lines over the same x."""
        there, back = self._points(x, low), self._points(x, high)[::-1]
        self._parts.append(f'<path class="band {style}" d="{_path([*there, *back])}Z"/>')

    def across(self, y: float, style: str = "quiet") -> None:
        """A line from the left edge to the right one."""
        self.line(self._x, (y, y), style)

    def upright(self, x: float, style: str = "quiet dot") -> None:
        """A line from the lower edge to the upper one."""
        self.line((x, x), self._y, style)

    def whisker(self, x: float, low: float, high: float, style: str = "c0") -> None:
        """An upright interval."""
        self._parts.append(f'<path class="whisker {style}" d="{_path(self._points((x, x), (low, high)))}"/>')

    def mark(self, x: float, y: float, style: str = "c0", text: str = "", radius: float = 4.0) -> None:
        """A point; its text is shown where a pointer rests on it."""
        ((at_x, at_y),) = self._points((x,), (y,))
        about = f"<title>{escape(text)}</title>" if text else ""
        self._parts.append(f'<circle class="mark {style}" cx="{at_x}" cy="{at_y}" r="{radius:g}">{about}</circle>')

    def bars(self, edges: Sequence[float], heights: Sequence[float], base: float, style: str = "quiet") -> None:
        """Bars between edges that stand on ``base``."""
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            if height > 0:
                (x0, y0), (x1, y1) = self._points((left, right), (base, base + height))
                self._parts.append(
                    f'<rect class="bar {style}" x="{x0}" y="{y1}" width="{x1 - x0:.1f}" height="{y0 - y1:.1f}"/>'
                )

    def write(self, x: float, y: float, lines: Iterable[str], anchor: str = "start") -> None:
        """Lines of text, the first at a point; ``anchor`` is start or end."""
        ((at_x, at_y),) = self._points((x,), (y,))
        for row, text in enumerate(lines):
            self._parts.append(
                f'<text class="note" x="{at_x}" y="{at_y + 17 * row:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
            )

    def svg(self) -> str:
        """The chart as an ``svg`` element."""
        w, h = self._width, self._height
        right, bottom = w - _RIGHT, h - _BOTTOM
        about = escape(f"{self._title}: {self._description}")
        lines = [f'<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{about}">']
        for value in self._x_ticks:
            ((x, _),) = self._points((value,), (self._y[0],))
            lines.append(f'<path class="grid" d="M{x} {_TOP}V{bottom}"/>')
            lines.append(f'<text class="tick" x="{x}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>')
        for value in self._y_ticks:
            ((_, y),) = self._points((self._x[0],), (value,))
            lines.append(f'<path class="grid" d="M{self._left} {y}H{right}"/>')
            lines.append(f'<text class="tick" x="{self._left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        lines.append(f'<path class="axis" d="M{self._left} {_TOP}V{bottom}H{right}"/>')
        x, y = self._left - _ROUND, _TOP - _ROUND
        wide, high = right - self._left + 2 * _ROUND, bottom - _TOP + 2 * _ROUND
        # An svg within an svg cuts off what lies outside of it.
        box = f'x="{x}" y="{y}" width="{wide}" height="{high}" viewBox="{x} {y} {wide} {high}"'
        lines.append(f"<svg {box}>{''.join(self._parts)}</svg>")
        middle_x, middle_y = (self._left + right) / 2, (_TOP + bottom) / 2
        lines.append(
            f'<text class="label" x="{middle_x:g}" y="{h - 8}" text-anchor="middle">{escape(self._x_label)}</text>'
        )
        turned = f"translate(14 {middle_y:g}) rotate(-90)"
        lines.append(
            f'<text class="label" transform="{turned}" text-anchor="middle">{escape(self._y_label)}</text></svg>'
        )
        return "".join(lines)

    def _points(self, x: npt.ArrayLike, y: npt.ArrayLike) -> list[tuple[float, float]]:
        """Values to px of the page, to a tenth."""
        wide, high = self._width - _RIGHT - self._left, self._height - _BOTTOM - _TOP
        at_x = self._left + wide * (np.asarray(x, dtype=np.float64) - self._x[0]) / (self._x[1] - self._x[0])
        at_y = _TOP + high * (self._y[1] - np.asarray(y, dtype=np.float64)) / (self._y[1] - self._y[0])
        return list(zip(at_x.round(1).tolist(), at_y.round(1).tolist(), strict=True))


def nice_ticks(low: float, high: float, at_most: int = 6, least: float = 0.0) -> list[float]:
    """Round numbers within a range: steps of 1, 2 or 5 times a power of ten, and of no less than ``least``."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step = max(least, next(power * k for k in (1, 2, 5, 10) if (high - low) / (power * k) <= at_most))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first, last + 1)]


def _path(points: Sequence[tuple[float, float]]) -> str:
    """SVG path through points, without those that change nothing at a tenth of a px."""
    kept: list[tuple[float, float]] = []
    for point in points:
        if kept and point == kept[-1]:
            continue
        if len(kept) > 1 and _straight_on(kept[-2], kept[-1], point):
            kept[-1] = point
        else:
            kept.append(point)
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in kept)


def _straight_on(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether three points lie on one level or upright line, in this order."""
    level = a[1] == b[1] == c[1] and (b[0] - a[0]) * (c[0] - b[0]) > 0
    return level or (a[0] == b[0] == c[0] and (b[1] - a[1]) * (c[1] - b[1]) > 0)
