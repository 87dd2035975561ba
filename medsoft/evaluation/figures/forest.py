"""Forest plots: values of groups, or differences of models, one below the other with their intervals.

``forests`` gathers the subgroups of a part. Folders get them as figures; the report shows the same rows as tables whose
intervals are drawn on one scale, so that the numbers can be read out, copied, and wrapped on a narrow screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medsoft.evaluation.figures.style import GREY, INK, PALETTE, caption, new_figure, save, shortened, styled
from medsoft.evaluation.metrics.table import metric_name
from medsoft.evaluation.metrics.weighted import Key
from medsoft.evaluation.part import Part
from medsoft.evaluation.subgroups import GroupEstimate
from medsoft.evaluation.wording import rule_name
from medsoft.task import Task


@dataclass(frozen=True)
class Row:
    """A line of a forest plot; a heading where it has neither a value nor a size.

    Attributes:
        name: of the group, fold or model.
        value: None where undefined.
        low: of the interval.
        high: likewise.
        size: how many samples, or what else stands beside the value.
        faint: not to be relied on.
        difference: to all other rows, in words; "" where there is none.
        note: why it is faint or undefined.
    """

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    size: str = ""
    faint: bool = False
    difference: str = ""
    note: str = ""

    @property
    def heads(self) -> bool:
        """Whether it is a heading."""
        return self.value is None and not self.size


@dataclass(frozen=True)
class Forest:
    """One metric of all subgroups; ``start`` and ``end`` are those of its scale, ``whole`` is the value of all rows."""

    key: Key
    title: str
    rows: tuple[Row, ...]
    start: float
    end: float
    whole: float | None

    @property
    def ticks(self) -> list[float]:
        """Round numbers on the scale."""
        found = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(self.start, self.end)
        return [float(f"{value:.12g}") + 0.0 for value in found if self.start <= value <= self.end]

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the scale."""
        return round(100 * (value - self.start) / (self.end - self.start), 2)


def forests(part: Part, task: Task) -> list[Forest]:
    """All metrics of all groups, the ranking first; none of a metric that no group has."""
    wanted = dict.fromkeys(group.estimate.key for group in part.groups)
    return [found for key in wanted if (found := _forest(part, key, task)) is not None]


def _forest(part: Part, key: Key, task: Task) -> Forest | None:
    whole = part.find(**key._asdict())
    rows = [Row("All", whole.value, whole.low, whole.high, f"{part.n}")] if whole is not None else []
    column = None
    for group in part.groups:
        if group.estimate.key != key:
            continue
        if group.column != column:
            column = group.column
            rows.append(Row(column))
        rows.append(_row(group))
    ends = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    if not ends:
        return None
    room = 0.05 * (max(ends) - min(ends)) or 0.05
    of = "" if task.positive else key.class_name
    at = f"at {rule_name(key.rule)}" if key.rule else f"at {key.time:g}" if key.time is not None else ""
    about = ", ".join(text for text in (of, f"{key.average} mean" if key.average else "", at) if text)
    title = metric_name(key.metric) + (f" ({about})" if about else "")
    return Forest(key, title, tuple(rows), min(ends) - room, max(ends) + room, whole.value if whole else None)


def _row(group: GroupEstimate) -> Row:
    found = group.estimate
    size = f"{group.n}" if group.n_positive is None else f"{group.n} ({group.n_positive} pos.)"
    difference = _signed(group.difference, group.difference_low, group.difference_high)
    note = "; ".join(text for text in (group.note, found.remark) if text)
    return Row(group.group, found.value, found.low, found.high, size, bool(group.note), difference, note)


def _signed(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "undefined"
    interval = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
    return f"{value:+.3f}{interval}".replace("-", "−")


def write_subgroups(found: Forest, part: Part, out: Path | str, about: str, confidence: float, note: str = "") -> Path:
    """Write the figure of one metric of a part's subgroups.

    Args:
        found: of ``forests``.
        part: whose.
        out: the PNG file.
        about: which samples it shows.
        confidence: of the intervals.
        note: footer.
    """
    key = found.key
    rows = [replace(row, size=f"n = {row.size}") if row.size else row for row in found.rows]
    rows = [replace(row, name=f"  {row.name}") if row.difference else row for row in rows]
    shown = [g.estimate for g in part.groups if (g.estimate.metric, g.estimate.average) == (key.metric, key.average)]
    how = " or ".join(sorted({one.method for one in shown if one.method})).replace("delong", "DeLong")
    name = metric_name(key.metric)
    label = f"{name}{f' ({key.average})' if key.average else ''}"
    label += f", {confidence:.0%} interval ({how})" if how else ""
    about += " · grey: small group" if any(row.faint for row in rows) else ""
    title = f"Subgroups: {name}" + (f" of {key.class_name}" if key.class_name else "")
    return forest(rows, out, label, title=title, facts=about, note=note, line=found.whole)


def forest(rows: Sequence[Row], out: Path | str, x_label: str, **about: Any) -> Path:
    """Write a forest plot; arguments as for ``figure_forest``."""
    return save(figure_forest(rows, x_label, **about), out)


@styled
def figure_forest(
    rows: Sequence[Row],
    x_label: str,
    title: str = "",
    facts: str = "",
    note: str = "",
    line: float | None = None,
    margin: float | None = None,
) -> Figure:
    """Values with intervals from top to bottom, and the same as numbers on the right.

    Args:
        rows: from the top.
        x_label: what the values are.
        title: of the picture.
        facts: below the title.
        note: footer.
        line: a vertical line, such as the value of all rows, or 0 for differences.
        margin: of non-inferiority, as a second line.
    """
    figure = new_figure(7.2, 0.27 * len(rows) + 1.5)
    axes = figure.add_subplot()
    if line is not None:
        axes.axvline(line, color=GREY, linewidth=1)
    if margin is not None:
        axes.axvline(margin, color=PALETTE[1], linewidth=1, linestyle="--")
    for y, row in enumerate(rows):
        colour = GREY if row.faint else PALETTE[0]
        if row.value is not None:
            if row.low is not None and row.high is not None:
                axes.hlines(y, row.low, row.high, color=colour, linewidth=1.4)
            axes.plot(row.value, y, marker="s", markersize=4.5, color=colour)
        text = "" if row.value is None else f"{row.value:.3f}"
        if row.low is not None and row.high is not None:
            text += f"  ({row.low:.3f} to {row.high:.3f})"
        right: Any = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
        axes.text(1.02, y, row.size, color=GREY if row.faint else INK, **right)
        axes.text(1.30, y, text or ("undefined" if row.size else ""), color=GREY if row.faint else INK, **right)
    axes.set_yticks(range(len(rows)), [shortened(row.name, width=34, lines=1) for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.heads else "normal")
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=x_label)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    caption(figure, title, facts, note)
    return figure
