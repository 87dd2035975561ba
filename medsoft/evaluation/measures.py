"""Metrics by name: which value of a table a comparison is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.regression import Measured
from medsoft.evaluation.scorecard import MOST_PROBABLE, Classified, Key, Measure, Probabilistic, Ranked
from medsoft.evaluation.thresholds import OperatingPoint
from medsoft.task import Task

RANKING = ("auroc", "average_precision")
PROBABILISTIC = ("brier", "log_loss")
DECISIONS = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "balanced_accuracy", "f1", "mcc")
REGRESSION = ("mae", "rmse", "r2", "concordance")
METRICS_LOWER = ("brier", "log_loss", "mae", "rmse")
"""Where less is better."""
OVERALL = ("accuracy", "balanced_accuracy", "mcc", "kappa")
"""What a multiclass or ordinal task has for the whole table; its other decisions are macro means."""


@dataclass(frozen=True)
class Asked:
    """What is compared.

    Attributes:
        metric: its name.
        of: one class or label; "" for the positive class (binary), the macro mean or the whole table.
        rule: of the threshold of binary and multilabel decisions.
    """

    metric: str
    of: str = ""
    rule: str = "0.5"


def wanted_key(asked: Asked, task: Task | None) -> Key:
    """Which value of the scorecard is asked for.

    Raises:
        InputError: the task has no such metric or class.
    """
    metrics = REGRESSION if task is None else (*RANKING, *PROBABILISTIC, *DECISIONS)
    if task is not None and task.kind == "ordinal":
        metrics = (*metrics, "kappa")
    kind = "regression" if task is None else task.kind
    if asked.metric not in metrics:
        raise InputError(f"metric {asked.metric!r}: for {kind} there are {', '.join(metrics)}")
    if task is None:
        return Key(asked.metric)
    askable = task.classes[1:] if task.kind == "binary" else task.classes
    if asked.of and asked.of not in askable:
        raise InputError(f"class {asked.of!r}: there are {', '.join(askable)}")
    of = asked.of or (task.classes[1] if task.kind == "binary" else "")
    several = task.kind in ("multiclass", "ordinal")
    rule = (MOST_PROBABLE if several else asked.rule) if asked.metric in (*DECISIONS, "kappa") else ""
    if asked.metric == "kappa" and asked.of:
        raise InputError("kappa is of all classes together: leave the class out")
    if asked.metric == "log_loss" and several and asked.of:
        raise InputError("the log loss of several classes is of all together: leave the class out")
    whole = several and asked.metric in (*OVERALL, *PROBABILISTIC)
    return Key(asked.metric, of, average="" if of or whole else "macro", rule=rule)


def measures(
    frame: pd.DataFrame,
    task: Task | None,
    unit_N: npt.NDArray[np.intp],
    points: Sequence[OperatingPoint] = (),
    prevalences: Sequence[float] = (),
) -> list[Measure]:
    """All metrics of a table's rows with a target, as functions of how often each unit was drawn."""
    if task is None:
        return [Measured(frame, unit_N)]
    parts: list[Measure] = [Ranked(frame, task, unit_N, points, prevalences), Probabilistic(frame, task, unit_N)]
    if task.kind in ("multiclass", "ordinal"):
        parts.append(Classified(frame, task, unit_N, prevalences))
    return parts
