"""The figures of an evaluated part: which there are, for the report and for folders alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medsoft.evaluation.detection.charts import froc_chart
from medsoft.evaluation.figures.calibration import reliability_chart
from medsoft.evaluation.figures.coverage import coverage_chart
from medsoft.evaluation.figures.decision import decision_chart
from medsoft.evaluation.figures.forest import forests, write_subgroups
from medsoft.evaluation.figures.panels import Chart, describe, figure_of
from medsoft.evaluation.figures.regression import agreement_chart
from medsoft.evaluation.figures.roc import precision_recall_chart, roc_chart
from medsoft.evaluation.figures.style import save
from medsoft.evaluation.metrics.table import DRAWN_BY_GROUP
from medsoft.evaluation.part import Part
from medsoft.evaluation.survival.charts import calibration_chart, groups_chart, over_time_chart
from medsoft.task import Task

CHARTS: dict[str, Callable[[Part, Task, int | None], Chart | None]] = {
    "roc_band": lambda part, task, _: roc_chart(part, task),
    "precision_recall": lambda part, task, _: precision_recall_chart(part, task),
    "reliability": lambda part, task, _: reliability_chart(part, task),
    "decision_curve": lambda part, *_: decision_chart(part),
    "agreement": lambda part, _, most_points: agreement_chart(part, most_points),
    "risk_coverage": lambda part, task, _: coverage_chart(part, task),
    "risk_groups": lambda part, *_: groups_chart(part),
    "survival_calibration": lambda part, *_: calibration_chart(part),
    "froc": lambda part, *_: froc_chart(part),
    "over_time": lambda part, *_: over_time_chart(part),
}
"""The charts that a task can name in ``Task.figures``, by the name of their file; None where a part has no material."""


def charts_of(part: Part, task: Task, most_points: int | None = None) -> list[Chart]:
    """The charts of a part's task for which the part has material, in the task's order.

    Args:
        part: one fold, split and level.
        task: its task.
        most_points: of a scatter plot; all if not given.
    """
    found = (CHARTS[name](part, task, most_points) for name in task.figures)
    return [chart for chart in found if chart is not None]


def draw_part(
    part: Part, task: Task, folder: Path, suffix: str = "", confidence: float = 0.95, note: str = ""
) -> list[Path]:
    """Draw the figures of a part, and those of its subgroups, as PNG.

    Args:
        part: one fold, split and level.
        task: its task.
        folder: of the files; created.
        suffix: of their names, such as ``_test``.
        confidence: of the part's intervals.
        note: footer of every figure.

    Returns:
        The files written.
    """
    about = describe(part, task)
    written = [
        save(figure_of(chart, about, note), folder / f"{chart.file}{suffix}.png") for chart in charts_of(part, task)
    ]
    for found in sorted(forests(part, task), key=lambda found: found.key[:4]):
        key = found.key
        if key.metric in DRAWN_BY_GROUP and not (task.several_columns and key.class_name):
            file = folder / f"subgroups_{key.metric}{suffix}.png"
            written.append(write_subgroups(found, part, file, about, confidence, note))
    return written
