"""The flow of samples as a diagram, once for wide pages and once, in one column, for narrow ones.

It is written as SVG by hand: Matplotlib draws data on axes, and would need the same boxes, arrows and line breaks
placed by hand, with a text size that does not follow the page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from medsoft.evaluation.report.flow import SPLIT_NAMES, Flow, SplitFlow
from medsoft.evaluation.wording import counted, mix_of

_LINE, _PAD, _GAP = 18, 11, 26
_CHARACTER = 6.9
"""Mean width in px of a character of the diagram's text."""


@dataclass(frozen=True)
class Box:
    """A title, and lines below it; ``quiet`` for what fell out."""

    title: str
    lines: tuple[str, ...] = ()
    quiet: bool = False

    def wrapped(self, width: float) -> tuple[list[str], list[str]]:
        """Title and lines, cut to the width."""
        n = max(int((width - 2 * _PAD) / _CHARACTER), 8)
        title = textwrap.wrap(self.title, int(n * 0.92)) or [""]
        return title, [part for line in self.lines for part in textwrap.wrap(line, n, subsequent_indent="  ")]

    def height(self, width: float) -> float:
        """In px."""
        title, lines = self.wrapped(width)
        return 2 * _PAD + _LINE * (len(title) + len(lines)) - 4

    def draw(self, x: float, y: float, width: float) -> str:
        """The box with its upper left corner at a point."""
        title, lines = self.wrapped(width)
        style = "box quiet" if self.quiet else "box"
        height = self.height(width)
        parts = [f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>']
        for row, text in enumerate([*title, *lines]):
            kind = "name" if row < len(title) else "count"
            indent = 8 if text.startswith("  ") else 0
            at = f'x="{x + _PAD + indent:g}" y="{y + _PAD + 12 + _LINE * row:g}"'
            parts.append(f'<text class="{kind}" {at}>{escape(text.strip())}</text>')
        return "".join(parts)


def flow_svg(flow: Flow, narrow: bool = False) -> str:
    """The diagram as an ``svg`` element."""
    width = 380 if narrow else 860
    top = _source(flow)
    out = _excluded(flow)
    columns = [_column(split, flow.unit) for split in flow.splits]
    parts, y = [], 4.0
    middle = width / 2
    if top is not None:
        wide = width - 8.0 if narrow else 290.0
        x = 4.0 if narrow else middle - wide / 2
        parts.append(top.draw(x, y, wide))
        y += top.height(wide)
        if out is not None:
            beside = width - 44.0 if narrow else 300.0
            at = 40.0 if narrow else width - beside - 4
            level = y + _GAP / 2 + out.height(beside) / 2
            foot = y + _GAP / 2 + out.height(beside) + _GAP / 2
            trunk = 20.0 if narrow else middle
            parts.append(f'<path class="arrow" d="M{trunk:g} {y:g}V{foot:g}M{trunk:g} {level:g}H{at - 1:g}"/>')
            parts.append(_head(at - 1, level, "right") + out.draw(at, y + _GAP / 2, beside))
            y = foot
    if narrow:
        y = _stacked(columns, y, width, parts, joined=top is not None)
    else:
        y = _side_by_side(columns, y, width, parts, middle if top is not None else None)
    style = "flow narrow" if narrow else "flow wide"
    about = escape("Flow of samples: " + "; ".join(_in_words(box) for box in _boxes(top, out, columns)))
    return (
        f'<svg class="{style}" viewBox="0 0 {width} {y + 4:g}" role="img" aria-label="{about}">{"".join(parts)}</svg>'
    )


Column = Sequence[Sequence[Box]]


def _source(flow: Flow) -> Box | None:
    if flow.rows is None:
        return None
    lines = [counted(flow.rows, flow.unit)]
    if flow.patients is not None:
        usable = flow.rows - sum(n for _, _, n in flow.excluded)
        lines.append(f"usable: {usable:,} of {counted(flow.patients, 'patient')}")
    return Box(f"Table {flow.source}" if flow.source else "Table", tuple(lines))


def _excluded(flow: Flow) -> Box | None:
    if not flow.excluded:
        return Box("Left out: none", quiet=True)
    total = sum(n for _, _, n in flow.excluded)
    return Box(f"Left out: {total:,}", tuple(f"{n:,} {reason}" for _, reason, n in flow.excluded), quiet=True)


def _column(split: SplitFlow, unit: str) -> Column:
    people = "" if split.patients is None else f" of {counted(split.patients, 'patient')}"
    lines = [counted(split.samples, unit) + people]
    if split.n_models > 1:
        lines.append(f"{counted(split.rows, 'prediction')} by {split.n_models} models (folds)")
    mix = tuple(mix_of(split.classes))
    if split.analysed is None:
        return [[Box(_title(split), (*lines, *mix))]]
    rows = [[Box(_title(split), tuple(lines))]]
    if split.without_target:
        rows.append([Box(f"Without a target: {split.without_target:,}", ("predicted, not analysed",), quiet=True)])
    rows.append([Box(f"Analysed: {split.analysed:,}", mix)])
    if split.calls:
        rows.append(
            [
                Box(f"Called {c.called}: {c.n:,}", tuple(f"{n:,} are {name}" for name, n in c.truth.items()))
                for c in split.calls
            ]
        )
    return rows


def _title(split: SplitFlow) -> str:
    return SPLIT_NAMES.get(split.name, f"Part {split.name}")


def _side_by_side(columns: Sequence[Column], y: float, width: float, parts: list[str], trunk: float | None) -> float:
    """Columns below a beam; returns where they end."""
    if not columns:
        return y
    wide = min((width - 8 - 16 * (len(columns) - 1)) / len(columns), 420)
    left = (width - wide * len(columns) - 16 * (len(columns) - 1)) / 2
    tops = [left + (wide + 16) * index for index in range(len(columns))]
    if trunk is not None:
        beam = y + 10
        centres = [x + wide / 2 for x in tops]
        ends = f"{min(*centres, trunk):g} {beam:g}H{max(*centres, trunk):g}"
        parts.append(f'<path class="arrow" d="M{trunk:g} {y:g}V{beam:g}M{ends}"/>')
        for x in centres:
            parts.append(f'<path class="arrow" d="M{x:g} {beam:g}V{beam + 15:g}"/>' + _head(x, beam + 15, "down"))
        y = beam + 16
    ends_at = y
    for x, column in zip(tops, columns, strict=True):
        ends_at = max(ends_at, _chain(column, x, y, wide, parts))
    return ends_at


def _stacked(columns: Sequence[Column], y: float, width: float, parts: list[str], joined: bool) -> float:
    """Columns one below the other, with a trunk on their left; returns where they end."""
    start = y
    for column in columns:
        y += 14
        head = y + column[0][0].height(width - 44.0) / 2
        if joined:
            parts.append(f'<path class="arrow" d="M20 {start:g}V{head:g}H39"/>' + _head(39, head, "right"))
        y = _chain(column, 40.0, y, width - 44.0, parts)
    return y


def _chain(column: Column, x: float, y: float, wide: float, parts: list[str]) -> float:
    """Boxes from the top down; what fell out stands beside the way. Returns where they end."""
    trunk = x + 22
    for index, row in enumerate(column):
        aside = row[0].quiet
        start, room = (x + 48, wide - 48) if aside else (x, wide)
        each = (room - 8 * (len(row) - 1)) / len(row)
        height = max(box.height(each) for box in row)
        for place, box in enumerate(row):
            at = start + (each + 8) * place
            if aside:
                level = y + height / 2
                way = f"M{trunk:g} {y - _GAP + 4:g}V{y + height:g}M{trunk:g} {level:g}H{at - 1:g}"
                parts.append(f'<path class="arrow" d="{way}"/>' + _head(at - 1, level, "right"))
            elif index:
                down = trunk if len(row) == 1 else at + 22
                parts.append(
                    f'<path class="arrow" d="M{down:g} {y - _GAP + 4:g}V{y - 1:g}"/>' + _head(down, y - 1, "down")
                )
            parts.append(box.draw(at, y, each))
        y += height + (_GAP - 4 if index < len(column) - 1 else 0)
    return y


def _head(x: float, y: float, way: str) -> str:
    """The tip of an arrow."""
    sides = (f"{x - 4:g} {y - 7:g}L{x + 4:g} {y - 7:g}", f"{x - 7:g} {y - 4:g}L{x - 7:g} {y + 4:g}")
    return f'<path class="tip" d="M{x:g} {y:g}L{sides[way == "right"]}Z"/>'


def _boxes(top: Box | None, out: Box | None, columns: Sequence[Column]) -> list[Box]:
    first = [box for box in (top, out) if box is not None] if top is not None else []
    return [*first, *(box for column in columns for row in column for box in row)]


def _in_words(box: Box) -> str:
    return box.title + (f" ({', '.join(box.lines)})" if box.lines else "")
