"""The few numbers at the top of the report."""

from __future__ import annotations

from dataclasses import dataclass

from medsoft.evaluation.across_folds import AcrossFolds, FoldsEstimate
from medsoft.evaluation.estimates import Estimate
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.tables import metric_name
from medsoft.evaluation.report.words import rule_name, threshold_name
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


def key_figures(part: Part | AcrossFolds, task: Task | None, rule: str | None = None) -> list[KeyFigure]:
    """The main metrics of a part, or of the mean over folds: ranking, decisions by a rule, probabilities.

    Args:
        part: whose.
        task: None for regression.
        rule: of the decisions; the part's last one if not given.
    """
    wanted: list[tuple[str, str]]
    if task is None:
        wanted = [("mae", ""), ("r2", ""), ("concordance", ""), ("bias", "")]
        return [_figure(found, "") for metric, _ in wanted if (found := part.find(metric))]
    rule = last_rule(part) if rule is None else rule
    if task.kind == "binary":
        of = {"class_name": task.classes[1]}
        wanted = [("auroc", ""), ("sensitivity", rule), ("specificity", rule), ("brier", "")]
    elif task.kind == "multilabel":
        of = {"average": "macro"}
        wanted = [("auroc", ""), ("average_precision", ""), ("balanced_accuracy", rule), ("brier", "")]
    else:
        of = {"average": "macro"}
        wanted = [("auroc", "")]
    figures = []
    for metric, at in wanted:
        found = part.find(metric, rule=at, probabilities="", **of)
        if found is not None:
            figures.append(_figure(found, _about(found, "labels" if task.kind == "multilabel" else "classes")))
        elif at:
            figures.append(
                KeyFigure(metric_name(metric), f"at {rule_name(at)}", None, None, None, "there is no such threshold")
            )
    if task.kind in ("multiclass", "ordinal"):
        for metric in ("balanced_accuracy", "accuracy", "kappa"):
            found = part.find(metric, class_name="", average="")
            if found is not None:
                figures.append(_figure(found, "of the most probable class"))
    return figures


def last_rule(part: Part | AcrossFolds) -> str:
    """The last rule by which decisions are taken; "" where none are."""
    rules = [estimate.rule for estimate in part.estimates if estimate.rule]
    return rules[-1] if rules else ""


def _about(found: Estimate | FoldsEstimate, several: str) -> str:
    """Of which class or mean, and at which threshold; those of folds differ."""
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
