"""Which candidate is taken: the best, or the mean of those that cannot be told apart from it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.planning.selection import MOST_AVERAGED, choose
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
N = 240


def predictions(noise: float, seed: int, task: Task = BINARY) -> pd.DataFrame:
    """Out-of-fold predictions of 3 folds, two rows a patient; the more noise, the worse."""
    rng = np.random.default_rng(seed)
    truth = np.arange(N) // 2 % 2
    logit = 2 * truth - 1 + noise * rng.normal(size=N)
    p = 1 / (1 + np.exp(-logit))
    answers = np.stack([1 - p, p], axis=1) if task is BINARY else logit[:, None]
    return make_predictions(
        task,
        [f"s{i}" for i in range(N)],
        answers,
        truth,
        patient=[f"P{i // 2}" for i in range(N)],
        split="test",
        fold=[str(i // 2 % 3) for i in range(N)],
    )


def shaken(frame: pd.DataFrame, seed: int, size: float = 0.02) -> pd.DataFrame:
    """The same answers but for a little noise: neither better nor worse."""
    p = (frame["p_yes"] + size * np.random.default_rng(seed).normal(size=len(frame))).clip(0, 1)
    return frame.assign(p_yes=p, p_no=1 - p)


def test_one_that_is_reliably_behind_is_dropped():
    scores = choose({"weak": predictions(4, 1), "strong": predictions(0.6, 2)}, BINARY, draws=200)
    assert [score.name for score in scores] == ["strong", "weak"]
    strong, weak = scores
    assert strong.chosen
    assert strong.reason == "the best"
    assert strong.difference == 0
    assert not weak.chosen
    assert "excludes 0" in weak.reason
    assert weak.difference_low is not None
    assert weak.difference_high is not None
    assert weak.difference_high < 0


def test_those_that_cannot_be_told_apart_are_averaged():
    first = predictions(1, 1)
    alike = shaken(first, 2)
    scores = choose({"first": first, "alike": alike}, BINARY, draws=200)
    assert all(score.chosen for score in scores)
    assert scores[0].reason == "the best; averaged with 1 more"
    assert "averaged with it" in scores[1].reason


def test_an_interval_that_contains_zero_is_not_enough():
    """On a small table nearly every interval does: what is far behind by its value stays out."""
    few = lambda frame: frame[frame["patient"].isin([f"P{i}" for i in range(24)])]  # noqa: E731
    scores = choose({"best": few(predictions(1.2, 3)), "behind": few(predictions(1.7, 11))}, BINARY, draws=200)
    last = scores[-1]
    assert last.difference_low is not None
    assert last.difference_high is not None
    assert last.difference_low < 0 < last.difference_high
    assert last.difference < -0.01
    assert not last.chosen
    assert "more than 0.01" in last.reason


def test_no_more_than_four_are_averaged():
    first = predictions(1, 1)
    tables = {f"c{i}": shaken(first, i) for i in range(6)}
    scores = choose(tables, BINARY, draws=100)
    assert sum(score.chosen for score in scores) == MOST_AVERAGED
    assert any("but 4 are averaged" in score.reason for score in scores)


def test_of_errors_the_smaller_is_better_and_closeness_is_a_share():
    task = Task.of("regression", ())
    scores = choose({"far": predictions(4, 1, task), "near": predictions(0.5, 2, task)}, task, draws=200)
    assert [score.name for score in scores] == ["near", "far"]
    assert scores[0].metric == "mae"
    assert scores[0].value < scores[1].value
    assert not scores[1].chosen


def test_rows_that_a_candidate_lacks_are_left_out_for_all():
    whole = predictions(1, 1)
    scores = choose({"whole": whole, "part": whole.iloc[: N // 2]}, BINARY, draws=100)
    assert scores[0].value == scores[1].value


@pytest.mark.parametrize("seed", [0, 1])
def test_the_choice_does_not_depend_on_the_order(seed):
    tables = {"a": predictions(1, 1), "b": predictions(1.1, 2), "c": predictions(2, 3)}
    names = list(tables)
    np.random.default_rng(seed).shuffle(names)
    mixed = choose({name: tables[name] for name in names}, BINARY, draws=100)
    assert [(score.name, score.chosen) for score in mixed] == [
        (score.name, score.chosen) for score in choose(tables, BINARY, draws=100)
    ]


def test_candidates_that_were_divided_otherwise_are_compared_row_by_row():
    """One that could not read some rows has other folds; all rows that both have still count."""
    whole = predictions(1, 1)
    part = whole.iloc[4:].assign(fold=["0"] * 100 + ["1"] * (N - 104))
    first, second = choose({"whole": whole, "part": part}, BINARY, draws=100)
    assert first.value == second.value
    assert first.difference == second.difference == 0


def test_of_several_settings_of_one_candidate_the_best_alone_is_averaged():
    first = predictions(1, 1)
    tables = {"other": first, "trial": shaken(first, 2), "base": shaken(first, 3)}
    scores = choose(tables, BINARY, draws=100, families={"trial": "base", "base": "base", "other": "other"})
    assert sum(score.chosen for score in scores) == 2
    assert {score.name for score in scores if score.chosen} > {"other"}
    assert any("another setting of base" in score.reason for score in scores)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal", "multilabel", "regression"])
def test_every_task_gets_an_interval_of_its_own_metric(kind):
    """With patients who have rows of several classes, and a rare class, so that not every draw has all in each fold."""
    rng = np.random.default_rng(4)
    n, names = 60, ("a", "b", "c", "d")
    task = Task.of(kind, {"binary": names[:2], "regression": ()}.get(kind, names))
    truth: np.ndarray
    if kind == "regression":
        truth = rng.normal(size=n)
        answers = (truth + rng.normal(size=n))[:, None]
    elif kind == "multilabel":
        truth = (rng.random((n, 4)) < [0.15, 0.5, 0.3, 0.4]).astype(int)
        answers = 1 / (1 + np.exp(1 - 2 * truth - rng.normal(size=truth.shape)))
    else:
        truth = np.arange(n) % len(task.classes)
        answers = np.exp(np.eye(len(task.classes))[truth] + rng.normal(size=(n, len(task.classes))))
        answers /= answers.sum(axis=1, keepdims=True)
    folds = [str(i // 2 % 5) for i in range(n)]
    patients = [f"P{i // 2}" for i in range(n)]
    ids = [f"s{i}" for i in range(n)]
    frame = make_predictions(task, ids, answers, truth, patient=patients, split="test", fold=folds)
    score = choose({"only": frame}, task, draws=200)[0]
    assert score.metric == task.primary["metric"]
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high
