"""Confusion matrices as numbers: true classes in rows, predicted ones in columns.

The report shows them as tables, which can be read out and copied; folders of runs have them as a figure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medsoft.evaluation.metrics.confusion import confusion_counts
from medsoft.evaluation.metrics.targets import one_against_rest, predicted, targets
from medsoft.evaluation.part import Part
from medsoft.evaluation.wording import threshold_name
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
    """One a threshold and class that is asked about, one in all where the most probable class is predicted.

    None where there are no classes.
    """
    if not part.n or not task.has_classes:
        return []
    if not task.thresholded:
        counts_CC = confusion_counts(targets(part.frame, task), predicted(part.frame, task), len(task.classes))
        return [ConfusionTable("The most probable class is predicted", task.classes, _rows(counts_CC))]
    tables = []
    for question in one_against_rest(part.frame, task):
        for found in part.estimates:
            at = found.threshold
            if (found.metric, found.class_name) != ("true_positives", question.name) or at is None:
                continue
            names = task.classes if task.positive else (f"not {question.name}", question.name)
            title = f"{question.name} where {threshold_name(at, found.rule)}"
            title += "; OPTIMISTIC" if found.note.startswith("OPTIMISTIC") else ""
            tables.append(ConfusionTable(title, names, _rows(confusion_counts(question.truth, question.p >= at, 2))))
    return tables


def _rows(counts: npt.NDArray[np.intp]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(cell) for cell in row) for row in counts)
