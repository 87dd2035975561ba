"""Forest plots: values of groups, or differences of models, one below the other with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from medsoft.evaluation.part import Part
from medsoft.evaluation.pictures.style import GREY, INK, PALETTE, caption, new_figure, save, shortened, styled
from medsoft.evaluation.subgroups import GroupEstimate


@dataclass(frozen=True)
class Row:
    """A line of a forest plot; a heading where there is no value, and faint where it is not to be relied on."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    size: str = ""
    faint: bool = False


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
        label.set_fontweight("bold" if row.value is None and not row.size else "normal")
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=x_label)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    caption(figure, title, facts, note)
    return figure


def group_rows(part: Part, metric: str, class_name: str, average: str, rule: str) -> list[Row]:
    """All samples, then each column's groups under its name; small groups are faint."""
    rows = []
    whole = part.find(metric, class_name=class_name, average=average, rule=rule)
    if whole is not None:
        rows.append(Row("all", whole.value, whole.low, whole.high, f"n = {part.n}"))
    column = None
    for group in part.groups:
        estimate = group.estimate
        if (estimate.metric, estimate.class_name, estimate.average, estimate.rule) != (
            metric,
            class_name,
            average,
            rule,
        ):
            continue
        if group.column != column:
            column = group.column
            rows.append(Row(column))
        rows.append(_row(group))
    return rows


def _row(group: GroupEstimate) -> Row:
    found = group.estimate
    size = f"n = {group.n}" if group.n_positive is None else f"n = {group.n} ({group.n_positive} pos.)"
    return Row(f"  {group.group}", found.value, found.low, found.high, size, faint=bool(group.note))
