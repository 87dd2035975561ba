"""The few numbers at the top of the report."""

from __future__ import annotations

from dataclasses import dataclass

from medsoft.evaluation.comparison.across_folds import AcrossFolds, FoldsEstimate
from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.metrics.by_name import key_of
from medsoft.evaluation.metrics.table import METRICS, metric_name
from medsoft.evaluation.metrics.weighted import MOST_PROBABLE
from medsoft.evaluation.part import Part
from medsoft.evaluation.wording import rule_name, threshold_name
from medsoft.task import Task


@dataclass(frozen=True)
class KeyFigure:
    """A metric with its interval; ``about`` says of which class, mean or rule."""

    name: str
    about: str
    value: float | None
    low: float | None
    high: float | None
    note: str


def key_figures(part: Part | AcrossFolds, task: Task, rule: str | None = None) -> list[KeyFigure]:
    """The main metrics of a part, or of the mean over folds: ranking, decisions by a rule, probabilities.

    Args:
        part: whose.
        task: names them.
        rule: of the decisions; the part's last one if not given.
    """
    rule = last_rule(part) if rule is None else rule
    figures = []
    for metric in task.key_metrics:
        key = key_of(metric, task, rule=rule)
        if METRICS[metric].family == "horizon":
            figures += [_figure(e, f"at {e.time:g}") for e in part.estimates if e.metric == metric]
            continue
        found = part.find(**key._asdict())
        if found is not None:
            figures.append(_figure(found, _about(found, "labels" if task.several_columns else "classes")))
        elif key.rule and task.thresholded:
            figures.append(
                KeyFigure(metric_name(metric), f"at {rule_name(rule)}", None, None, None, "there is no such threshold")
            )
    return figures


def last_rule(part: Part | AcrossFolds) -> str:
    """The last rule by which decisions are taken; "" where none are."""
    rules = [estimate.rule for estimate in part.estimates if estimate.rule]
    return rules[-1] if rules else ""


def _about(found: Estimate | FoldsEstimate, several: str) -> str:
    """Of which class or mean, and at which threshold; those of folds differ."""
    if found.rule == MOST_PROBABLE:
        return f"of the {MOST_PROBABLE}"
    of = f"mean of the {several}" if found.average else found.class_name
    threshold = found.threshold if isinstance(found, Estimate) else None
    at = f"at {rule_name(found.rule)}" if found.rule else ""
    if isinstance(found, FoldsEstimate) and found.rule and not found.rule[0].isdigit():
        at = f"at each fold's threshold ({rule_name(found.rule)})"
    if threshold is not None:
        at = f"at {threshold_name(threshold, found.rule, 3)}"
    return ", ".join(part for part in (of, at) if part)


def _figure(found: Estimate | FoldsEstimate, about: str) -> KeyFigure:
    return KeyFigure(metric_name(found.metric), about, found.value, found.low, found.high, found.note)
