"""The report's tables of metrics: one question beside its levels, or several classes below each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.metrics.table import COUNTS, metric_name, of_family
from medsoft.evaluation.metrics.weighted import MOST_PROBABLE, Key
from medsoft.evaluation.part import Part
from medsoft.evaluation.wording import after, rule_name
from medsoft.task import Task

DECISIONS_OF_CLASSES = ("sensitivity", "specificity", "ppv", "npv", "f1")
"""What fits beside each other on a page; ``metrics.csv`` has the others."""
MOST_COLUMNS = 4
"""Of decisions beside each other."""
LEVEL_NAMES = {"row": "by row", "exam": "by exam", "patient": "by patient"}


@dataclass(frozen=True)
class Cell:
    """A value; None where it is undefined, with the reason in ``note``."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    note: str


@dataclass(frozen=True)
class MetricTable:
    """Rows of (name, cells), a cell for each column; None where there is no such metric.

    Metrics are the rows, or the columns where ``by_column`` says so.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    caption: str = ""
    by_column: bool = False

    @property
    def methods(self) -> list[str]:
        """How the intervals were made, column by column, or for all together where metrics are the columns."""
        if self.by_column:
            pairs = [(cell, column) for _, cells in self.rows for cell, column in zip(cells, self.columns, strict=True)]
            return [said] if (said := _methods(pairs)) else []
        of: dict[str, list[str]] = {}
        for at, column in enumerate(self.columns):
            if said := _methods([(cells[at], name) for name, cells in self.rows]):
                of.setdefault(said, []).append(column.partition(", n =")[0].partition(", p ≥")[0])
        if len(of) == 1:
            return list(of)
        return [f"{' and '.join(columns)}: {said}" for said, columns in of.items()]


def _methods(pairs: Sequence[tuple[Cell | None, str]]) -> str:
    """``clustered DeLong (AUROC), else bootstrap``."""
    of: dict[str, dict[str, None]] = {}
    for cell, name in pairs:
        if cell is not None and cell.method:
            of.setdefault(cell.method, {})[name] = None
    common = of.pop("bootstrap", None)
    words = [
        f"{method.replace('delong', 'DeLong').replace('wilson', 'Wilson')} ({', '.join(names)})"
        for method, names in of.items()
    ]
    return ", ".join([*words, "else bootstrap" if words else "bootstrap"] if common else words)


def metric_tables(levels: Sequence[Part], task: Task) -> list[MetricTable]:
    """The tables of one fold and split, whose parts are its levels."""
    if not task.has_classes:
        keys = _keys(levels)
        return [_beside(task.metrics_title, keys, levels, of_classes=True)]
    if task.positive:
        return _of_one_question(levels)
    tables = []
    whole = [key for key in _keys(levels) if not key.class_name and not key.average]
    if whole:
        tables.append(_beside("All classes together", whole, levels))
    for part in levels:
        tables += _of_classes(part, task, f", {LEVEL_NAMES[part.level]}" if len(levels) > 1 else "")
    return tables


def _keys(levels: Sequence[Part]) -> list[Key]:
    """What is known at any level, without counts."""
    return list(dict.fromkeys(e.key for part in levels for e in part.estimates if e.metric not in COUNTS))


def _of_one_question(levels: Sequence[Part]) -> list[MetricTable]:
    keys = _keys(levels)
    tables = [_beside("Ranking and probabilities", [key for key in keys if not key.rule], levels)]
    rules = list(dict.fromkeys(key.rule for key in keys if key.rule))
    together = len(rules) * len(levels) <= MOST_COLUMNS
    for some in [rules] if together else [[rule] for rule in rules]:
        if some:
            tables.append(_decisions(keys, levels, some))
    return tables


def _decisions(keys: Sequence[Key], levels: Sequence[Part], rules: Sequence[str]) -> MetricTable:
    """A row a metric, a column a rule and level."""
    columns, found = [], []
    for part in levels:
        known = {e.key: e for e in part.estimates}
        for rule in rules:
            at = _threshold(part, rule)
            column = f"{rule_name(rule)}, {LEVEL_NAMES[part.level]}"
            if at is None:
                column += ": undefined"
            elif not rule[0].isdigit():
                column += f", p ≥ {at:.4g}"
            columns.append(column)
            found.append({key._replace(rule=""): e for key, e in known.items() if key.rule == rule})
    metrics = dict.fromkeys(key._replace(rule="") for key in keys if key.rule in rules)
    rows = tuple((_row_name(key), tuple(_cell(of_rule.get(key)) for of_rule in found)) for key in metrics)
    return MetricTable("Decisions at thresholds", tuple(columns), rows)


def _threshold(part: Part, rule: str) -> float | None:
    return next((e.threshold for e in part.estimates if e.rule == rule and e.threshold is not None), None)


def _beside(
    title: str, keys: Iterable[Key], levels: Sequence[Part], caption: str = "", of_classes: bool = False
) -> MetricTable:
    """A row a metric (with ``of_classes`` one of each class too, which it names), a column a level."""
    known = [{e.key: e for e in part.estimates} for part in levels]
    columns = tuple(f"{LEVEL_NAMES[part.level]}, n = {part.n}" for part in levels)
    rows = tuple((_named(key, of_classes), tuple(_cell(of_level.get(key)) for of_level in known)) for key in keys)
    return MetricTable(title, columns, rows, caption)


def _named(key: Key, of_classes: bool) -> str:
    return f"{_row_name(key)}, {key.class_name}" if of_classes and key.class_name else _row_name(key)


def _row_name(key: Key) -> str:
    name = metric_name(key.metric)
    name += f" at {key.time:g}" if key.time is not None else ""
    name += f" at a prevalence of {key.prevalence:.3g}" if key.prevalence is not None else ""
    return name + (f", {after(key.probabilities)}" if key.probabilities else "")


def _of_classes(part: Part, task: Task, suffix: str) -> list[MetricTable]:
    """A row a class and a row a mean, a column a metric."""
    tables = []
    of_rule: dict[str, list[str]] = {"": list(of_family("ranking", "probability"))}
    for estimate in part.estimates:
        if estimate.rule and (estimate.class_name or estimate.average):
            of_rule.setdefault(estimate.rule, list(DECISIONS_OF_CLASSES))
    for rule, metrics in of_rule.items():
        title = "Each label" if task.several_columns else "Each class against the rest"
        title += "" if not rule else f", {'' if rule == MOST_PROBABLE else 'threshold '}{rule_name(rule)}"
        tables += _by_class(part, task, rule, metrics, title + suffix)
        for prevalence in dict.fromkeys(e.prevalence for e in part.estimates if e.prevalence is not None and rule):
            title_of = f"{title}, at a prevalence of {prevalence:.3g}"
            tables += _by_class(part, task, rule, ("ppv", "npv"), title_of + suffix, prevalence)
    return tables


def _by_class(
    part: Part, task: Task, rule: str, metrics: Sequence[str], title: str, prevalence: float | None = None
) -> list[MetricTable]:
    known = {e.key: e for e in part.estimates}
    about = [(name, "") for name in task.classes] + [("", "macro"), ("", "micro")]
    found = {
        (metric, class_name, average): known.get(Key(metric, class_name, average, rule, prevalence))
        for class_name, average in about
        for metric in metrics
    }
    columns = [metric for metric in metrics if any(found[metric, *pair] for pair in about if pair != ("", ""))]
    rows = []
    for class_name, average in about:
        cells = tuple(_cell(found[metric, class_name, average]) for metric in columns)
        if any(cells):
            n = part.n_per_class.get(class_name)
            rows.append(
                (f"{class_name} (n = {n})" if class_name else {"macro": "macro mean", "micro": "micro"}[average], cells)
            )
    if not rows:
        return []
    return [MetricTable(title, tuple(map(metric_name, columns)), tuple(rows), by_column=True)]


def _cell(found: Estimate | None) -> Cell | None:
    if found is None:
        return None
    return Cell(found.value, found.low, found.high, found.method, found.remark)
