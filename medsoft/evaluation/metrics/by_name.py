"""Metrics by name: which value of a table a comparison is about."""

from __future__ import annotations

from dataclasses import dataclass

from medsoft.errors import InputError
from medsoft.evaluation.metrics.table import METRICS, OF_ALL_CLASSES
from medsoft.evaluation.metrics.weighted import MOST_PROBABLE, Key
from medsoft.task import Task


@dataclass(frozen=True)
class Asked:
    """What is compared.

    Attributes:
        metric: its name.
        of: one class or label, or the time of a metric that is about one; "" for the positive class (binary), the macro
            mean or the whole table.
        rule: of the threshold of binary and multilabel decisions.
    """

    metric: str
    of: str = ""
    rule: str = "0.5"


def wanted_key(asked: Asked, task: Task) -> Key:
    """Which value of the weighted metrics is asked for.

    Raises:
        InputError: the task has no such metric or class.
    """
    if asked.metric not in task.metrics:
        raise InputError(f"metric {asked.metric!r}: for {task.kind} there are {', '.join(task.metrics)}")
    if (task.has_classes or task.asked_classes) and asked.of and asked.of not in task.asked_classes:
        raise InputError(f"class {asked.of!r}: there are {', '.join(task.asked_classes)}")
    if METRICS[asked.metric].family == "horizon":
        return Key(asked.metric, time=_time(asked))
    if METRICS[asked.metric].family == "agreement" and asked.of:
        raise InputError(f"{asked.metric} is of all classes together: leave the class out")
    if asked.metric == "log_loss" and not task.thresholded and asked.of:
        raise InputError("the log loss of several classes is of all together: leave the class out")
    return key_of(asked.metric, task, asked.of, asked.rule)


def _time(asked: Asked) -> float:
    try:
        return float(asked.of)
    except ValueError:
        raise InputError(f"{asked.metric} is about a time: say which one, as in --of 365") from None


def key_of(metric: str, task: Task, of: str = "", rule: str = "") -> Key:
    """The value of a metric that stands for a task: of its positive class, of the whole table, or the macro mean.

    Args:
        metric: one that the task has.
        task: the task.
        of: a class or label to ask about instead.
        rule: of the threshold, where thresholds decide.
    """
    if not task.has_classes:
        return Key(metric, of if len(task.asked_classes) > 1 else "")
    of = of or task.positive
    several = not task.thresholded
    whole = several and metric in OF_ALL_CLASSES
    is_decision = METRICS[metric].is_decision
    at = (MOST_PROBABLE if several else rule) if is_decision else ""
    return Key(metric, of, average="" if of or whole else "macro", rule=at)
