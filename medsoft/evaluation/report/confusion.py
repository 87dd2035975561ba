"""Confusion matrices as numbers: true classes in rows, predicted ones in columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsoft.evaluation.arrays import one_against_rest, predicted, targets
from medsoft.evaluation.part import Part
from medsoft.evaluation.report.words import threshold_name
from medsoft.task import Task


@dataclass(frozen=True)
class ConfusionTable:
    """Counts of one rule.

    Attributes:
        title: of which decision.
        classes: of rows and columns.
        counts: row by row.
    """

    title: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def confusion_tables(part: Part, task: Task) -> list[ConfusionTable]:
    """One a threshold of a binary task and of each label, one in all where the most probable class is predicted."""
    if not part.n:
        return []
    if task.kind not in ("binary", "multilabel"):
        n = len(task.classes)
        cells = np.bincount(targets(part.frame, task) * n + predicted(part.frame, task), minlength=n * n)
        return [ConfusionTable("The most probable class is predicted", task.classes, _rows(cells.reshape(n, n)))]
    tables = []
    for question in one_against_rest(part.frame, task):
        for found in part.estimates:
            at = found.threshold
            if (found.metric, found.class_name) != ("true_positives", question.name) or at is None:
                continue
            yes = question.p >= at
            cells = np.bincount(2 * question.truth.astype(np.intp) + yes, minlength=4).reshape(2, 2)
            names = task.classes if task.kind == "binary" else (f"not {question.name}", question.name)
            title = f"{question.name} where {threshold_name(at, found.rule)}"
            tables.append(ConfusionTable(title, names, _rows(cells)))
    return tables


def _rows(counts: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(cell) for cell in row) for row in counts)
