"""What was locked, applied: ``decisions.csv`` with recalibrated probabilities and a yes or no for each threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from medsoft.evaluation.arrays import probabilities
from medsoft.evaluation.locked import Locked
from medsoft.files import replacing
from medsoft.task import Task

ABOUT = ("id", "patient", "exam", "split")


def decide(frame: pd.DataFrame, task: Task, locked: Locked) -> pd.DataFrame:
    """Apply what was locked to a predictions table, row by row.

    Thresholds were chosen on the probabilities as the model gives them, and are applied to these. Recalibrated
    probabilities stand beside them, for a reader who takes them as frequencies.

    Args:
        frame: a predictions table.
        task: its task.
        locked: for this task.

    Returns:
        ``id``, ``patient``, ``exam`` and ``split``; ``recalibrated_<class>`` where there is a recalibration; and for
        each class and rule ``<class>, <rule>, p >= <threshold>`` of 0 and 1.

    Raises:
        InputError: nothing was locked for rows.
    """
    chosen = locked.find("", "row")
    columns: dict[str, object] = {name: frame[name] for name in ABOUT}
    p_NC = probabilities(frame, task)
    if chosen.recalibration is not None:
        better_NC = chosen.recalibration.apply(p_NC, task)
        columns |= {f"recalibrated_{name}": better_NC[:, index] for index, name in enumerate(task.classes)}
    for point in chosen.points:
        if point.threshold is not None:
            p_N = p_NC[:, task.classes.index(point.class_name)]
            name = f"{point.class_name}, {point.rule}, p >= {point.threshold:.6g}"
            columns[name] = (p_N >= point.threshold).astype(np.int64)
    return pd.DataFrame(columns)


def write_decisions(frame: pd.DataFrame, path: Path) -> None:
    """Write a table of ``decide``.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
