"""Whether what a ``locked.json`` says can be: a file may be whole by its hash, and still hold a temperature of 0."""

from __future__ import annotations

import math

from medsoft.evaluation.metrics.recalibration import Recalibration
from medsoft.evaluation.metrics.thresholds import OperatingPoint
from medsoft.task import Task

HIGHEST = math.nextafter(1.0, 2.0)
"""The threshold above which no probability lies, where a rule asks for that."""


def require_point(point: OperatingPoint, task: Task) -> None:
    """Check a threshold.

    Raises:
        ValueError: says what cannot be.
    """
    if point.class_name not in task.classes or not isinstance(point.rule, str) or not isinstance(point.note, str):
        raise ValueError(f"a threshold of the class {point.class_name!r}")
    if point.threshold is not None and not (_is_number(point.threshold) and 0 <= point.threshold <= HIGHEST):
        raise ValueError(f"a threshold of {point.threshold!r}, outside 0 to 1")
    for rate in (point.sensitivity, point.specificity):
        if rate is not None and not (_is_number(rate) and 0 <= rate <= 1):
            raise ValueError(f"a sensitivity or specificity of {rate!r}, outside 0 to 1")


def require_map(map_: Recalibration, task: Task) -> None:
    """Check a recalibration.

    Raises:
        ValueError: says what cannot be.
    """
    several = len(task.asked_classes) if task.thresholded else 1
    if map_.method == "temperature":
        if len(map_.temperatures) != several:
            raise ValueError(f"{len(map_.temperatures)} temperatures, where {several} are needed")
        for value in map_.temperatures:
            if not (_is_number(value) and value > 0):
                raise ValueError(f"a temperature of {value!r}, which must be above 0")
        return
    if map_.method != "isotonic":
        raise ValueError(f"a recalibration by {map_.method!r}")
    wanted = len(task.asked_classes)
    if len(map_.steps) != wanted:
        raise ValueError(f"{len(map_.steps)} isotonic maps, where {wanted} are needed")
    for x, y in map_.steps:
        numbers = [*x, *y]
        if len(x) != len(y) or not x or not all(_is_number(value) and 0 <= value <= 1 for value in numbers):
            raise ValueError("an isotonic map whose points are no pairs from 0 to 1")
        if list(x) != sorted(x) or list(y) != sorted(y):
            raise ValueError("an isotonic map that is not sorted")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
