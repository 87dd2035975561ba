"""Metrics as tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from medsoft.evaluation.comparison.across_folds import AcrossFolds, FoldsEstimate
from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.metrics.table import MAIN
from medsoft.evaluation.part import Part
from medsoft.evaluation.wording import counted


def part_table(part: Part) -> Table:
    """The main metrics of one part at one level."""
    name = f"{part.split}{f', fold {part.fold}' if part.fold else ''}, by {part.level}"
    people = "" if part.n_patients is None or part.level == "patient" else f", {counted(part.n_patients, 'patient')}"
    table = Table("metric", "value", "interval", "method", title=f"{name} (n={part.n}{people})")
    several = sum(estimate.metric == "auroc" and bool(estimate.class_name) for estimate in part.estimates) > 1
    for estimate in part.estimates:
        if not _is_shown(estimate, several):
            continue
        value = "undefined" if estimate.value is None else f"{estimate.value:.3f}"
        interval = "" if estimate.low is None or estimate.high is None else f"{estimate.low:.3f} to {estimate.high:.3f}"
        mark = estimate.note if estimate.note.startswith("OPTIMISTIC") else ""
        how = "; ".join(filter(None, (estimate.method, mark))) or estimate.note
        table.add_row(_name(estimate), value, interval, how)
    return table


def across_table(across: AcrossFolds) -> Table:
    """The main metrics over folds."""
    title = f"{across.split}, {len(across.n_per_fold)} folds, by {across.level} (n={sum(across.n_per_fold.values())})"
    table = Table("metric", "mean over folds", "interval", "sd", "folds", "pooled", title=title)
    several = sum(estimate.metric == "auroc" and bool(estimate.class_name) for estimate in across.estimates) > 1
    for estimate in across.estimates:
        if not _is_shown(estimate, several):
            continue
        numbers = [estimate.value, estimate.sd, estimate.pooled]
        value, sd, pooled = ("–" if number is None else f"{number:.3f}" for number in numbers)
        interval = "" if estimate.low is None or estimate.high is None else f"{estimate.low:.3f} to {estimate.high:.3f}"
        folds = str(estimate.n_folds) + (f" ({estimate.note})" if estimate.undefined_folds else "")
        table.add_row(_name(estimate), value, interval, sd, folds, pooled)
    return table


def _is_shown(estimate: Estimate | FoldsEstimate, several: bool) -> bool:
    """The terminal shows the main metrics; of several classes only averages, and each one's AUROC."""
    if estimate.metric not in MAIN or estimate.prevalence is not None or estimate.probabilities:
        return False
    return estimate.metric == "auroc" or not (several and (estimate.class_name or estimate.average == "micro"))


def _name(estimate: Estimate | FoldsEstimate) -> str:
    of = [part for part in (estimate.class_name, estimate.average) if part]
    at = f" at {estimate.rule}" if estimate.rule else ""
    at += f" {estimate.time:g}" if estimate.time is not None else ""  # its name ends in "at"
    return f"{estimate.metric.replace('_', ' ')}{f' ({of[0]})' if of else ''}{at}"
