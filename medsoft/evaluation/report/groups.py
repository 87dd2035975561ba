"""Forest tables of subgroups: one a metric, a line a group, intervals drawn on one scale."""

from __future__ import annotations

from dataclasses import dataclass

from medsoft.evaluation.part import Part
from medsoft.evaluation.report.chart import nice_ticks
from medsoft.evaluation.report.tables import metric_name, why
from medsoft.evaluation.report.words import rule_name
from medsoft.evaluation.scorecard import Key
from medsoft.task import Task


@dataclass(frozen=True)
class Line:
    """A group, all rows, or a heading (without ``size``).

    Attributes:
        name: of the group or the column.
        size: rows, and positive ones.
        value: None where undefined.
        low: of the interval.
        high: likewise.
        difference: to all other rows, in words; "" for all rows.
        small: whether the group is small.
        note: why it is small or undefined.
    """

    name: str
    size: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    difference: str = ""
    small: bool = False
    note: str = ""


@dataclass(frozen=True)
class Forest:
    """One metric over all groups; ``start`` and ``end`` are those of its scale."""

    title: str
    lines: tuple[Line, ...]
    start: float
    end: float
    whole: float | None

    @property
    def ticks(self) -> list[float]:
        """Round numbers on the scale."""
        return nice_ticks(self.start, self.end, 5)

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the scale."""
        return round(100 * (value - self.start) / (self.end - self.start), 2)


def forests(part: Part, task: Task | None) -> list[Forest]:
    """All metrics of all groups, the ranking first."""
    wanted = dict.fromkeys(group.estimate.key for group in part.groups)
    return [found for key in wanted if (found := _forest(part, key, task)) is not None]


def _forest(part: Part, key: Key, task: Task | None) -> Forest | None:
    whole = part.find(**key._asdict())
    lines = [Line("All", f"{part.n}", *(whole.value, whole.low, whole.high))] if whole is not None else []
    column = None
    for group in part.groups:
        if group.estimate.key != key:
            continue
        if group.column != column:
            column = group.column
            lines.append(Line(column))
        found = group.estimate
        size = f"{group.n}" if group.n_positive is None else f"{group.n} ({group.n_positive} pos.)"
        note = "; ".join(text for text in (group.note, why(found)) if text)
        difference = _signed(group.difference, group.difference_low, group.difference_high)
        lines.append(Line(group.group, size, found.value, found.low, found.high, difference, bool(group.note), note))
    ends = [v for line in lines for v in (line.value, line.low, line.high) if v is not None]
    if not ends:
        return None
    room = 0.05 * (max(ends) - min(ends)) or 0.05
    of = key.class_name if task is None or task.kind != "binary" else ""
    at = f"at {rule_name(key.rule)}" if key.rule else ""
    about = ", ".join(text for text in (of, f"{key.average} mean" if key.average else "", at) if text)
    title = metric_name(key.metric) + (f" ({about})" if about else "")
    return Forest(title, tuple(lines), min(ends) - room, max(ends) + room, whole.value if whole else None)


def _signed(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "undefined"
    interval = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
    return f"{value:+.3f}{interval}".replace("-", "−")
