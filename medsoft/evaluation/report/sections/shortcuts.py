"""What the report says of shortcut baselines: a sentence for its top, and a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from medsoft.evaluation.comparison.across_folds import AcrossFolds
from medsoft.evaluation.evaluate import Evaluation
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.key_figures import key_figures, last_rule
from medsoft.evaluation.shortcuts.judge import WORDS, Shortcuts, alarm, in_words, is_ahead
from medsoft.task import Task


def shortcut_values(found: Shortcuts, evaluation: Evaluation, unit: str) -> dict[str, Any]:
    """Plain values.

    Args:
        found: the baselines.
        evaluation: the model's.
        unit: what a row is called.
    """
    task = evaluation.task
    chief = _chief(evaluation, found.split)
    rule = last_rule(chief) if chief else ""
    rows = [_row("model", "The model", evaluation, found.split, task, rule)]
    for name, other in found.evaluations.items():
        rows.append(_row(name, f"A regression on {WORDS[name]}", other, found.split, task, rule))
    columns = [figure["name"] for figure in rows[0]["figures"]]
    for row in rows[1:]:
        by_name = {figure["name"]: figure for figure in row["figures"]}
        row["figures"] = [by_name.get(column) for column in columns]
    confidence = evaluation.settings.confidence
    return {
        "alarm": alarm(found, confidence, unit),
        "unit": unit,
        "split": found.split,
        "rows": [row for row in rows if row["figures"]],
        "differences": [
            one.to_json() | {"ahead": is_ahead(one), "words": in_words(one, confidence)} for one in found.differences
        ],
        "facts": list(found.facts),
        "notes": list(found.notes),
    }


def _row(name: str, words: str, evaluation: Evaluation, split: str, task: Task, rule: str) -> dict[str, Any]:
    chief = _chief(evaluation, split)
    figures = [] if chief is None else [asdict(figure) for figure in key_figures(chief, task, rule)]
    return {"name": name, "words": words, "figures": figures}


def _chief(evaluation: Evaluation, split: str) -> Part | AcrossFolds | None:
    """The split by row: its mean over folds, or its only part."""
    split = split or "all"
    across = [one for one in evaluation.across if (one.split, one.level) == (split, "row")]
    parts = [part for part in evaluation.parts if (part.split, part.level) == (split, "row") and part.n]
    return (across or parts or [None])[0]
