"""The table of metrics: it knows what is computed, for which task, and which way is better; and it is light."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from medsoft.cli.compare import compare
from medsoft.errors import InputError
from medsoft.evaluation.metrics.selective import selective_measures
from medsoft.evaluation.metrics.table import HEADLINE, MAIN, METRICS, lower_is_better, metric_name
from medsoft.evaluation.metrics.thresholds import at_half
from medsoft.evaluation.metrics.weighted import Values, weighted_metrics
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task
from tests.builders.survival_tables import TIMES, outcomes, survival_of

TASKS = [
    Task.of("binary", ("no", "yes")),
    Task.of("multiclass", ("a", "b", "c")),
    Task.of("ordinal", ("none", "mild", "severe")),
    Task.of("multilabel", ("oedema", "effusion")),
    Task.of("regression"),
    Task.from_json({"kind": "survival", "classes": (), "times": TIMES, "unit": "", "logits": 1}),
]


def table_of(task: Task, error: float, n: int = 60) -> pd.DataFrame:
    """Predictions that are right but for noise of a size."""
    rng = np.random.default_rng(0)
    ids, noise = [str(i) for i in range(n)], rng.normal(size=(n, max(len(task.classes), 1))) * error
    if task.kind == "regression":
        target = rng.normal(size=n)
        return make_predictions(task, ids, target[:, None] + noise, target).assign(doubt=np.abs(noise[:, 0]))
    if task.kind == "survival":
        rows, x = outcomes(n, 1)
        risk = x + noise[:, 0]
        answers = np.column_stack([risk, *survival_of(risk).values()])
        return make_predictions(task, ids, answers, np.column_stack([rows.time, rows.event]))
    if task.kind == "multilabel":
        labels = rng.integers(2, size=(n, 2))
        return make_predictions(task, ids, 1 / (1 + np.exp(-(4 * labels - 2 + noise))), labels)
    target = rng.integers(len(task.classes), size=n)
    z = 3 * np.eye(len(task.classes))[target] + noise
    return make_predictions(task, ids, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), target)


def values_of(task: Task, error: float) -> Values:
    frame, rows = table_of(task, error), np.arange(60)
    card = task.measures(frame, rows, at_half(task))
    doubt = "doubt" if "doubt" in frame else None
    card += selective_measures(frame, task, rows, uncertainty=doubt)
    return weighted_metrics(card, np.ones((1, 60)))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_a_task_names_all_of_its_metrics_that_can_be_better_or_worse(task) -> None:
    computed = {key.metric for key in values_of(task, 1.0)}
    compared = {name for name in computed if METRICS[name].lower_is_better is not None}
    assert set(task.metrics) == {name for name in compared if METRICS[name].family != "selective"}
    assert list(task.metrics) == [name for name in METRICS if name in task.metrics], "in the order of the table"
    assert {*task.headline, *task.key_metrics, *task.group_metrics, task.primary["metric"]} <= computed
    assert task.headline == tuple(name for name in HEADLINE if name in task.metrics)


def test_every_metric_of_the_table_is_computed() -> None:
    computed = {key.metric for task in TASKS for key in values_of(task, 1.0)}
    computed |= set(Task.of("segmentation", ("organ",)).metrics)  # of masks: tests/classifiers/segmentation
    computed |= {*Task.of("detection", ("nodule",)).metrics, "froc_curve"}  # of boxes: tests/evaluation/detection
    assert computed | {"roc", "net_benefit", "auc_over_time", "skill", "loss"} == METRICS.keys()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_better_predictions_have_better_values(task) -> None:
    good, bad = values_of(task, 0.5), values_of(task, 6.0)
    improved = set()
    for key, value in good.items():
        direction = METRICS[key.metric].lower_is_better
        if direction is not None:
            gain = float(bad[key][0] - value[0]) if direction else float(value[0] - bad[key][0])
            assert gain >= 0, key
            improved |= {key.metric} if gain else set()
    assert set(task.metrics) <= improved


def test_logged_names_are_asked_too_and_nothing_is_guessed() -> None:
    assert [name for name in (*HEADLINE, "loss") if lower_is_better(f"val_{name}")] == [
        *("brier", "log_loss", "mae", "rmse", "integrated_brier", "loss")
    ]
    for name in ("bias", "seconds"):
        with pytest.raises(InputError, match=f"'{name}' is no metric of which more or less is better"):
            lower_is_better(name)


def test_lists_of_metrics_hold_metrics_alone() -> None:
    assert {*HEADLINE, *MAIN} <= set(METRICS)
    assert all(f" {name}" in compare.__doc__ for task in TASKS for name in task.metrics)
    assert [metric_name(name) for name in ("auroc", "sensitivity", "seconds_a_step")] == [
        *("AUROC", "sensitivity", "seconds a step")
    ]


def test_asking_the_table_loads_nothing_heavy() -> None:
    code = "import sys, medsoft.evaluation.metrics.table\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "pandas", "sklearn", "scipy", "torch", "lightning"} & set(loaded)
