"""The metrics under weights, against scikit-learn with ``sample_weight``: ties, absent classes, all kinds of task."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from medsoft.evaluation.metrics.ranking import Ranking, auroc
from medsoft.evaluation.metrics.score import score
from medsoft.evaluation.metrics.table import METRICS
from medsoft.evaluation.metrics.thresholds import at_half
from medsoft.evaluation.metrics.weighted import MOST_PROBABLE, Key, weighted_metrics
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
LABELS = Task.of("multilabel", ("oedema", "effusion"))
SEVERAL = [Task.of("multiclass", ("a", "b", "c")), Task.of("ordinal", ("none", "mild", "severe"))]
REGRESSION = Task.of("regression")

WEIGHT = st.integers(0, 3)
TENTHS = st.integers(0, 10)


def weighted(frame: pd.DataFrame, task: Task, weight_N: np.ndarray) -> dict[Key, float]:
    """Values under weights of the rows, as the second of two draws; units hold equal neighbours in weight."""
    _, unit_N = np.unique(weight_N, return_inverse=True)
    weights_BU = np.stack([np.ones(unit_N.max() + 1), np.unique(weight_N).astype(float)])
    values = weighted_metrics(task.measures(frame, unit_N, at_half(task)), weights_BU)
    for key, value in values.items():
        if key.metric in METRICS and not np.isnan(value).any():
            known = METRICS[key.metric]
            assert (value >= known.lowest - 1e-9).all(), key
            assert (value <= known.highest + 1e-9).all(), key
    return {key: float(value[1]) for key, value in values.items() if value.ndim == 1}


def of_one(truth: np.ndarray, p: np.ndarray, called: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """scikit-learn's values of a yes-or-no question; NaN where we call it undefined. It refuses weights of 0 alone."""
    truth, p, called, w = (column[w > 0] for column in (truth, p, called, w))
    nan, by = float("nan"), {"sample_weight": w}
    positive, negative = w[truth].sum(), w[~truth].sum()
    if not len(w):
        return dict.fromkeys(("auroc", "brier", "log_loss", "sensitivity", "specificity", "ppv", "accuracy", "f1"), nan)
    both = positive * negative > 0
    return {
        "auroc": sk.roc_auc_score(truth, p, **by) if both else nan,
        "average_precision": sk.average_precision_score(truth, p, **by) if both else nan,
        "brier": sk.brier_score_loss(truth, p, pos_label=True, **by),
        "log_loss": sk.log_loss(truth, p, labels=[False, True], **by),
        "sensitivity": sk.recall_score(truth, called, zero_division=nan, **by),
        "specificity": sk.recall_score(~truth, ~called, zero_division=nan, **by),
        "ppv": sk.precision_score(truth, called, zero_division=nan, **by),
        "npv": sk.precision_score(~truth, ~called, zero_division=nan, **by),
        "accuracy": sk.accuracy_score(truth, called, **by),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, called, **by) if both else nan,
        "f1": sk.f1_score(truth, called, **by) if positive else nan,
        "mcc": sk.matthews_corrcoef(truth, called, **by) if both and 0 < called.sum() < len(called) else nan,
    }


def check(found: dict[Key, float], expected: dict[str, float], name: str, rule: str) -> None:
    for metric, value in expected.items():
        key = Key(metric, name, rule=rule if METRICS[metric].is_decision else "")
        assert found[key] == pytest.approx(value, abs=1e-12, nan_ok=True), (key, found[key], value)


@given(st.lists(st.tuples(st.booleans(), TENTHS, WEIGHT), min_size=1, max_size=25))
@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_binary_metrics_under_weights_are_those_of_scikit_learn(rows) -> None:
    truth, tenths, w = (np.array(column) for column in zip(*rows, strict=True))
    p, w = tenths / 10, w.astype(float)
    frame = make_predictions(BINARY, [str(i) for i in range(len(p))], np.stack([1 - p, p], axis=1), truth.astype(int))
    check(weighted(frame, BINARY, w), of_one(truth, p, p >= 0.5, w), "yes", "0.5")


@given(st.lists(st.tuples(st.sampled_from([0, 1, np.nan]), st.booleans(), TENTHS, TENTHS, WEIGHT), min_size=1))
@settings(max_examples=20, deadline=None)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_each_label_under_weights_is_a_question_of_its_own(rows) -> None:
    table = np.array(rows, dtype=float)
    target, p, w = table[:, :2], table[:, 2:4] / 10, table[:, 4]
    frame = make_predictions(LABELS, [str(i) for i in range(len(p))], p, target)
    found = weighted(frame, LABELS, w)
    for index, name in enumerate(LABELS.classes):
        known = ~np.isnan(target[:, index])
        truth, of_label, weight = target[known, index] == 1, p[known, index], w[known]
        if not known.any():
            assert all(np.isnan(value) for key, value in found.items() if key.class_name == name)
            continue
        check(found, of_one(truth, of_label, of_label >= 0.5, weight), name, "0.5")


@pytest.mark.parametrize("task", SEVERAL, ids=lambda task: task.kind)
@given(st.lists(st.tuples(st.integers(0, 2), TENTHS, TENTHS, WEIGHT), min_size=1, max_size=25))
@settings(max_examples=20, deadline=None)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_metrics_of_several_classes_under_weights_are_those_of_scikit_learn(task, rows) -> None:
    target, first, second, w = (np.array(column) for column in zip(*rows, strict=True))
    p = np.stack([first + 1, second + 1, np.full(len(w), 4)], axis=1).astype(float)
    p, w = p / p.sum(axis=1, keepdims=True), w.astype(float)
    frame = make_predictions(task, [str(i) for i in range(len(p))], p, target)
    found, called = weighted(frame, task, w), p.argmax(axis=1)
    for index, name in enumerate(task.classes):
        expected = of_one(target == index, p[:, index], called == index, w)
        expected.pop("log_loss")  # of all classes together alone
        check(found, expected, name, MOST_PROBABLE)
    target, p, called, w = (column[w > 0] for column in (target, p, called, w))
    nan, by, occur = float("nan"), {"sample_weight": w}, np.unique(target)
    several, called_several = len(occur) > 1, len(np.unique(called)) > 1
    expected = {
        "accuracy": sk.accuracy_score(target, called, **by) if len(w) else nan,
        "balanced_accuracy": sk.recall_score(target, called, labels=occur, average="macro", **by) if several else nan,
        "mcc": sk.matthews_corrcoef(target, called, **by) if several and called_several else nan,
        "brier": np.average(((p - np.eye(3)[target]) ** 2).sum(axis=1), weights=w) if len(w) else nan,
        "log_loss": sk.log_loss(target, p, labels=[0, 1, 2], **by) if len(w) else nan,
    }
    if task.kind == "ordinal":
        kappa = sk.cohen_kappa_score(target, called, labels=[0, 1, 2], weights="quadratic", **by) if several else nan
        expected["kappa"] = kappa
    check(found, expected, "", MOST_PROBABLE)


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20), WEIGHT), min_size=1, max_size=25))
@settings(max_examples=25, deadline=None)
def test_metrics_of_a_regression_under_weights_are_those_of_scikit_learn(rows) -> None:
    target, prediction, weight = (np.array(column) for column in zip(*rows, strict=True))
    t, p, w = 50 + target / 4, 50 + prediction / 4, weight.astype(float)
    frame = make_predictions(REGRESSION, [str(i) for i in range(len(p))], p[:, None], t)
    found, nan = weighted(frame, REGRESSION, w), float("nan")
    repeated_t, repeated_p = np.repeat(t, weight), np.repeat(p, weight)
    n, apart = len(repeated_t), repeated_p - repeated_t
    half = 1.96 * apart.std(ddof=1) if n > 1 else nan
    spread = (repeated_t.var() + repeated_p.var() + apart.mean() ** 2) if n > 1 else 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = {
            "mae": sk.mean_absolute_error(t, p, sample_weight=w) if n else nan,
            "rmse": sk.root_mean_squared_error(t, p, sample_weight=w) if n else nan,
            "bias": apart.mean() if n else nan,
            "limit_low": apart.mean() - half if n > 1 else nan,
            "limit_high": apart.mean() + half if n > 1 else nan,
            "r2": sk.r2_score(t, p, sample_weight=w) if n > 1 and np.ptp(repeated_t) else nan,
            "concordance": 2 * np.cov(repeated_t, repeated_p, ddof=0)[0, 1] / spread if spread else nan,
        }
    for metric, value in expected.items():
        # Roots of differences of moments: near 0 their error is the root of rounding.
        least = 2e-6 if metric in ("rmse", "limit_low", "limit_high") else 1e-9
        assert found[Key(metric)] == pytest.approx(value, rel=1e-9, abs=least, nan_ok=True), metric


@pytest.mark.parametrize("task", SEVERAL, ids=lambda task: task.kind)
def test_with_unit_weights_they_are_the_scores(task) -> None:
    rng = np.random.default_rng(0)
    target, z = rng.integers(3, size=60), rng.normal(size=(60, 3))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    frame = make_predictions(task, [str(i) for i in range(60)], p, target)
    scores, found = score(frame, task), weighted_metrics(task.measures(frame, np.arange(60)), np.ones((1, 60)))
    for metric, value in scores["overall"].items():
        assert found[Key(metric, rule=MOST_PROBABLE if METRICS[metric].is_decision else "")][0] == value
    assert scores["macro"]["auroc"] == found[Key("auroc", average="macro")][0]


@given(
    st.lists(st.tuples(st.booleans(), TENTHS), min_size=2, max_size=60).filter(
        lambda rows: 0 < sum(t for t, _ in rows) < len(rows)
    )
)
def test_the_auroc_that_is_reported_is_scikit_learns_to_the_last_bit(rows):
    truth, p = np.array([t for t, _ in rows]), np.array([score for _, score in rows]) / 10
    own = auroc(Ranking(truth, p).sums(np.ones((1, len(rows)))))
    assert own.tolist() == [sk.roc_auc_score(truth, p)]
