"""Every metric in one table: its name, what it is called, which way is better, its range, and what it needs.

Which task has which metrics is said by the task (``medsoft.task``).
Definitions stand where the numbers are computed, in ``medsoft.evaluation.metrics.weighted`` and
``medsoft.evaluation.metrics.regression``. This module computes nothing, so that it can be asked cheaply.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from medsoft.errors import InputError

Family = Literal[
    "ranking",
    "decision",
    "agreement",
    "probability",
    "selective",
    "error",
    "survival",
    "horizon",
    "overlap",
    "detection",
    "count",
    "curve",
    "training",
]
Need = Literal["scores", "decisions", "probabilities", "both classes", "uncertainty", "numbers"]


@dataclass(frozen=True)
class Metric:
    """What is known of a metric without any data.

    Attributes:
        name: in tables, options and files.
        words: in reports and figures.
        family: ``ranking``: of the order of scores; ``decision``: of one class at a threshold, or of the most probable
            class; ``agreement``: of all classes together; ``probability``; ``selective``: of what is left when
            uncertain rows are set aside; ``error``: of predicted numbers; ``survival``: of risks, over all times;
            ``horizon``: of risks at one time; ``overlap``: of masks;
            ``detection``: of boxes; ``count`` of rows; ``curve``: values at many
            points; ``training``: logged in training only.
        lower_is_better: None where neither is, such as for a bias or a count.
        lowest: the smallest possible value.
        highest: the largest possible value, of any task.
        in_unit: whether the value has the unit of a regression's target; all others have none.
        needs: ``scores`` that can be ordered, ``decisions``, ``probabilities``, ``uncertainty`` of each row,
            ``numbers`` that were predicted; and ``both classes``, where one class alone leaves it undefined.
    """

    name: str
    words: str
    family: Family
    lower_is_better: bool | None
    lowest: float
    highest: float
    needs: tuple[Need, ...]
    in_unit: bool = False

    @property
    def is_decision(self) -> bool:
        """Whether it belongs to a rule by which scores become decisions."""
        return "decisions" in self.needs


_TABLE = (
    Metric("auroc", "AUROC", "ranking", False, 0, 1, ("scores", "both classes")),
    Metric("average_precision", "average precision", "ranking", False, 0, 1, ("scores", "both classes")),
    # Of several classes together 0 to 2, else 0 to 1.
    Metric("brier", "Brier score", "probability", True, 0, 2, ("probabilities",)),
    Metric("log_loss", "log loss", "probability", True, 0, math.inf, ("probabilities",)),
    Metric("sensitivity", "sensitivity", "decision", False, 0, 1, ("decisions",)),
    Metric("specificity", "specificity", "decision", False, 0, 1, ("decisions",)),
    Metric("ppv", "PPV", "decision", False, 0, 1, ("decisions",)),
    Metric("npv", "NPV", "decision", False, 0, 1, ("decisions",)),
    Metric("accuracy", "accuracy", "decision", False, 0, 1, ("decisions",)),
    Metric("balanced_accuracy", "balanced accuracy", "decision", False, 0, 1, ("decisions", "both classes")),
    Metric("f1", "F1", "decision", False, 0, 1, ("decisions",)),
    Metric("mcc", "MCC", "decision", False, -1, 1, ("decisions", "both classes")),
    Metric("kappa", "quadratic kappa", "agreement", False, -1, 1, ("decisions", "both classes")),
    Metric("aurc", "AURC", "selective", True, 0, math.inf, ("uncertainty",), in_unit=True),
    Metric("e_aurc", "excess AURC", "selective", True, 0, 1, ("uncertainty",)),
    Metric("mae", "mean absolute error", "error", True, 0, math.inf, ("numbers",), in_unit=True),
    Metric("rmse", "root mean squared error", "error", True, 0, math.inf, ("numbers",), in_unit=True),
    Metric("bias", "bias", "error", None, -math.inf, math.inf, ("numbers",), in_unit=True),
    Metric("limit_low", "lower limit of agreement", "error", None, -math.inf, math.inf, ("numbers",), in_unit=True),
    Metric("limit_high", "upper limit of agreement", "error", None, -math.inf, math.inf, ("numbers",), in_unit=True),
    Metric("r2", "R²", "error", False, -math.inf, 1, ("numbers",)),
    Metric("concordance", "concordance", "error", False, -1, 1, ("numbers",)),
    Metric("c_index", "C-index", "survival", False, 0, 1, ("scores",)),
    Metric("uno_c", "Uno's C", "survival", False, 0, 1, ("scores",)),
    # Weights for the censored can take a Brier score above 1.
    Metric("integrated_brier", "integrated Brier score", "survival", True, 0, math.inf, ("probabilities",)),
    Metric("auc_at", "AUC(t)", "horizon", False, 0, 1, ("scores",)),
    Metric("brier_at", "Brier(t)", "horizon", True, 0, math.inf, ("probabilities",)),
    Metric("oe_at", "observed / expected", "horizon", None, 0, math.inf, ("probabilities",)),
    Metric("dice", "Dice", "overlap", False, 0, 1, ("numbers",)),
    Metric("iou", "IoU", "overlap", False, 0, 1, ("numbers",)),
    Metric("hd95", "95 % Hausdorff distance", "overlap", True, 0, math.inf, ("numbers",)),
    Metric("surface_dice", "surface Dice", "overlap", False, 0, 1, ("numbers",)),
    Metric("map", "mAP (IoU 0.50 to 0.95)", "detection", False, 0, 1, ("scores",)),
    Metric("map50", "mAP (IoU 0.50)", "detection", False, 0, 1, ("scores",)),
    Metric("froc", "FROC score", "detection", False, 0, 1, ("scores",)),
    Metric("sensitivity_fp_1_8", "sensitivity at 1/8 false positives per image", "detection", False, 0, 1, ("scores",)),
    Metric("sensitivity_fp_1_4", "sensitivity at 1/4 false positives per image", "detection", False, 0, 1, ("scores",)),
    Metric("sensitivity_fp_1_2", "sensitivity at 1/2 false positives per image", "detection", False, 0, 1, ("scores",)),
    Metric("sensitivity_fp_1", "sensitivity at 1 false positive per image", "detection", False, 0, 1, ("scores",)),
    Metric("sensitivity_fp_2", "sensitivity at 2 false positives per image", "detection", False, 0, 1, ("scores",)),
    Metric("sensitivity_fp_4", "sensitivity at 4 false positives per image", "detection", False, 0, 1, ("scores",)),
    Metric("sensitivity_fp_8", "sensitivity at 8 false positives per image", "detection", False, 0, 1, ("scores",)),
    Metric("true_positives", "true positives", "count", None, 0, math.inf, ("decisions",)),
    Metric("false_positives", "false positives", "count", None, 0, math.inf, ("decisions",)),
    Metric("false_negatives", "false negatives", "count", None, 0, math.inf, ("decisions",)),
    Metric("true_negatives", "true negatives", "count", None, 0, math.inf, ("decisions",)),
    Metric("roc", "ROC curve", "curve", None, 0, 1, ("scores", "both classes")),
    Metric("net_benefit", "net benefit", "curve", None, -math.inf, 1, ("probabilities",)),
    Metric("auc_over_time", "AUC(t) over time", "curve", None, 0, 1, ("scores",)),
    Metric("froc_curve", "FROC curve", "curve", None, 0, 1, ("scores",)),
    Metric("risk_coverage", "risk-coverage curve", "curve", None, 0, math.inf, ("uncertainty",), in_unit=True),
    # Of several targets (``Task.skill``): 0 by chance, 1 at best.
    Metric("skill", "mean skill of the targets", "training", False, -math.inf, 1, ()),
    Metric("loss", "loss", "training", True, -math.inf, math.inf, ()),
)
METRICS = {metric.name: metric for metric in _TABLE}

COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")
"""What decisions of one class are counted into, in this order."""
PROPORTIONS = ("sensitivity", "specificity", "ppv", "npv", "accuracy")
"""Metrics that are a share of rows, so that independent rows allow Wilson's interval."""
MEANS_OF_DECISIONS = ("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy", "balanced_accuracy", "mcc")
"""Decisions of which there are means over classes or labels."""
OF_ALL_CLASSES = ("accuracy", "balanced_accuracy", "mcc", "kappa", "brier", "log_loss")
"""What a multiclass or ordinal task has for all classes together; of the others there are macro means."""
MAIN = (
    *("auroc", "average_precision", "sensitivity", "specificity", "accuracy", "balanced_accuracy", "mcc", "kappa"),
    *("brier", "aurc", "mae", "bias", "r2", "concordance", "c_index", "uno_c", "integrated_brier", "auc_at"),
    *("dice", "iou", "hd95", "surface_dice", "map", "map50", "froc"),
)
"""Shown where there is no room for all, such as in the terminal."""
HEADLINE = (
    *("skill", "auroc", "average_precision", "balanced_accuracy", "f1", "accuracy", "kappa", "brier", "log_loss"),
    *("mae", "rmse", "r2", "concordance", "c_index", "uno_c", "integrated_brier", "dice", "iou"),
    *("map", "map50", "froc"),
)
"""For a log, for choosing a checkpoint and for a model card, in this order; a task has some of them."""

DRAWN_BY_GROUP = ("auroc", "mae", "accuracy", "c_index", "dice", "map")
"""Of which subgroups have a figure in folders; the report and ``subgroups.csv`` have all."""


def of_family(*families: Family) -> tuple[str, ...]:
    """Names of the metrics of some families, in the order of the table."""
    return tuple(metric.name for metric in _TABLE if metric.family in families)


CURVES = of_family("curve")


def headline_of(metrics: Collection[str]) -> tuple[str, ...]:
    """The few of a task's metrics for a log or for choosing a checkpoint, most important first."""
    return tuple(name for name in HEADLINE if name in metrics)


def metric_name(name: str) -> str:
    """A metric in the words of the field; a name that is no metric's with spaces for its underscores.

    One of several targets stands before its metric, with a dot: ``grade.kappa`` is the quadratic kappa of grade.
    """
    target, dot, metric = name.rpartition(".")
    if dot and metric in METRICS:
        return f"{METRICS[metric].words} of {target}"
    return METRICS[name].words if name in METRICS else name.replace("_", " ")


def without_target(name: str) -> str:
    """The metric of a name that may begin with one of several targets, or with ``val_`` or ``train_``."""
    return name.rpartition(".")[2] if "." in name else name.removeprefix("val_").removeprefix("train_")


def lower_is_better(name: str) -> bool:
    """Whether a lower value of a metric is better.

    Args:
        name: of the table, or as it is logged, with ``val_`` or ``train_`` before it, or with a target.

    Raises:
        InputError: there is no such metric, or neither direction is better.
    """
    metric = METRICS.get(without_target(name))
    if metric is None or metric.lower_is_better is None:
        raise InputError(f"{name!r} is no metric of which more or less is better: there are {', '.join(_DIRECTED)}")
    return metric.lower_is_better


_DIRECTED = tuple(metric.name for metric in _TABLE if metric.lower_is_better is not None)
