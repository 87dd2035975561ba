"""Metrics: values known by hand and from scikit-learn, what must not change them, and what cannot be answered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.evaluation.metrics.score import Scores, headline, score, score_splits, write_metrics
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
GRADES = Task.of("ordinal", ("none", "mild", "severe"))
TYPES = Task.of("multiclass", ("a", "b", "c"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))


def binary(p: list[float], target: list[int], split: str | list[str] = "") -> pd.DataFrame:
    pairs = np.stack([1 - np.array(p), np.array(p)], axis=1)
    return make_predictions(BINARY, [str(i) for i in range(len(p))], pairs, target, split=split)


def random_table(task: Task, n: int = 200, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n_classes = len(task.classes)
    target = rng.integers(n_classes, size=n)
    z = rng.normal(size=(n, n_classes)) + 1.2 * np.eye(n_classes)[target]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return make_predictions(task, [f"case {i}" for i in range(n)], p, target), p, target


def test_binary_values_by_hand() -> None:
    # Positives 0.9, 0.6, 0.4; negatives 0.7, 0.2: of the 6 pairs, 4 are in order.
    values = score(binary([0.9, 0.6, 0.4, 0.7, 0.2], [1, 1, 1, 0, 0]), BINARY)["overall"]
    assert values["auroc"] == pytest.approx(4 / 6)
    assert values["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)  # precision at each positive
    assert values["sensitivity"] == pytest.approx(2 / 3)
    assert values["specificity"] == pytest.approx(1 / 2)
    assert values["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert values["brier"] == pytest.approx((0.1**2 + 0.4**2 + 0.6**2 + 0.7**2 + 0.2**2) / 5)
    assert values["log_loss"] == pytest.approx(-np.mean(np.log([0.9, 0.6, 0.4, 0.3, 0.8])))


def test_half_is_positive() -> None:
    scores = score(binary([0.5, 0.1], [1, 0]), BINARY)
    assert scores["threshold"] == 0.5
    assert scores["overall"]["sensitivity"] == 1


def test_kappa_by_hand() -> None:
    # Answers none, mild, severe, none for none, mild, severe, severe: one case is two grades off.
    p = np.eye(3)[[0, 1, 2, 0]]
    scores = score(make_predictions(GRADES, list("abcd"), p, [0, 1, 2, 2]), GRADES)
    # Marginals (1, 1, 2) and (2, 1, 1) of 4; squared distances 0, 1, 4.
    expected = sum(
        t * q * (i - j) ** 2 for i, t in enumerate([1 / 4, 1 / 4, 1 / 2]) for j, q in enumerate([1 / 2, 1 / 4, 1 / 4])
    )
    assert scores["overall"]["kappa"] == pytest.approx(1 - (4 / 4) / expected)
    assert "kappa" not in score(random_table(TYPES)[0], TYPES)["overall"]


@pytest.mark.parametrize("task", [GRADES, TYPES])
def test_several_classes_agree_with_scikit_learn(task: Task) -> None:
    frame, p, target = random_table(task)
    scores, answer = score(frame, task), p.argmax(axis=1)
    macro, overall = scores["macro"], scores["overall"]
    assert macro["auroc"] == pytest.approx(reference.roc_auc_score(target, p, multi_class="ovr"))
    assert macro["average_precision"] == pytest.approx(reference.average_precision_score(np.eye(3)[target], p))
    assert macro["f1"] == pytest.approx(reference.f1_score(target, answer, average="macro"))
    assert overall["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(target, answer))
    assert overall["accuracy"] == pytest.approx(reference.accuracy_score(target, answer))
    assert overall["log_loss"] == pytest.approx(reference.log_loss(target, p))
    assert overall["brier"] == pytest.approx(sum(values["brier"] for values in scores["per_class"].values()))
    assert scores["n_per_class"] == dict(zip(task.classes, np.bincount(target).tolist(), strict=True))
    assert not scores["notes"]


def test_two_classes_asked_as_multiclass_have_twice_the_brier_score() -> None:
    frame, p, target = random_table(BINARY)
    pair = Task.of("multiclass", BINARY.classes)
    as_pair = score(make_predictions(pair, frame["id"].tolist(), p, target), pair)
    assert as_pair["overall"]["brier"] == pytest.approx(2 * score(frame, BINARY)["overall"]["brier"])


def test_missing_targets_are_left_out_and_counted() -> None:
    scored = score(binary([0.9, 0.6, 0.4, 0.7], [1, 0, 1, 0]), BINARY)
    with_missing = score(binary([0.9, 0.6, 0.4, 0.7, 0.99, 0.01], [1, 0, 1, 0, -1, -1]), BINARY)
    assert with_missing["n"] == 4
    assert with_missing["n_missing"] == 2
    assert with_missing["overall"] == scored["overall"]


def test_each_label_is_scored_over_the_rows_that_know_it() -> None:
    p = np.array([[0.9, 0.3], [0.2, 0.8], [0.6, 0.1], [0.5, 0.5]])
    target = [[1, np.nan], [0, 1], [0, 0], [np.nan, np.nan]]
    scores = score(make_predictions(FINDINGS, list("abcd"), p, target), FINDINGS)
    alone = score(binary([0.9, 0.2, 0.6], [1, 0, 0]), BINARY)["overall"]
    assert scores["n"] == 3
    assert scores["n_missing"] == 1
    assert scores["per_class"]["oedema"] == {"n": 3, "n_positive": 1, **alone}
    assert scores["per_class"]["effusion"]["n"] == 2
    for name, value in scores["macro"].items():
        labels = [scores["per_class"][label][name] for label in FINDINGS.classes]
        assert value == pytest.approx(np.mean(labels))


@given(st.permutations(range(60)), st.sampled_from([BINARY, TYPES, GRADES]))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_changes_nothing(order: list[int], task: Task) -> None:
    frame = random_table(task, n=60)[0]
    before, after = headline(score(frame, task)), headline(score(frame.iloc[order], task))
    assert after == pytest.approx(before)


@given(st.floats(0.2, 5))
@settings(max_examples=15, deadline=None)
def test_a_monotone_transform_of_p_leaves_the_ranking_metrics(power: float) -> None:
    rng = np.random.default_rng(1)
    p, target = rng.uniform(0.05, 0.95, 80), rng.integers(2, size=80)
    before = score(binary(p.tolist(), target.tolist()), BINARY)["overall"]
    after = score(binary((p**power).tolist(), target.tolist()), BINARY)["overall"]
    assert after["auroc"] == pytest.approx(before["auroc"])
    assert after["average_precision"] == pytest.approx(before["average_precision"])


def test_new_names_of_classes_change_nothing_but_the_names() -> None:
    _, p, target = random_table(TYPES)
    ids, other = [str(i) for i in range(len(p))], Task.of("multiclass", ("nan", "ein Name, mit Komma", "3"))
    before = score(make_predictions(TYPES, ids, p, target), TYPES)
    after = score(make_predictions(other, ids, p, target), other)
    assert list(after["per_class"].values()) == list(before["per_class"].values())
    assert headline(after) == headline(before)


def test_one_class_only_is_undefined_and_said() -> None:
    scores = score(binary([0.9, 0.3], [1, 1]), BINARY)
    for name in ("auroc", "average_precision", "specificity", "balanced_accuracy"):
        assert scores["overall"][name] is None
    assert scores["overall"]["accuracy"] == 0.5
    assert scores["notes"] == [
        "Every row is 'yes'; undefined: auroc, average_precision, specificity, balanced_accuracy."
    ]
    negatives = score(binary([0.9, 0.3], [0, 0]), BINARY)
    assert negatives["overall"]["f1"] is None
    assert negatives["overall"]["specificity"] == 0.5


def test_macro_leaves_out_a_class_that_no_row_has() -> None:
    _, p, _ = random_table(GRADES, n=30)
    target = np.arange(30) % 2
    scores = score(make_predictions(GRADES, [str(i) for i in range(30)], p, target), GRADES)
    known = [scores["per_class"][name] for name in ("none", "mild")]
    assert scores["per_class"]["severe"]["auroc"] is None
    assert scores["macro"]["auroc"] == pytest.approx(np.mean([values["auroc"] for values in known]))
    assert scores["overall"]["balanced_accuracy"] == pytest.approx(np.mean([values["sensitivity"] for values in known]))
    assert any("'severe'" in note for note in scores["notes"])
    assert any("leave out" in note for note in scores["notes"])
    single = score(make_predictions(GRADES, ["a"], [[0.1, 0.2, 0.7]], [2]), GRADES)
    assert single["overall"]["kappa"] is None
    assert single["overall"]["balanced_accuracy"] is None
    assert any("Only one class occurs; undefined: balanced_accuracy, kappa." in note for note in single["notes"])


@pytest.mark.parametrize("constant", [0, 1])
def test_macro_leaves_out_a_label_without_both_values(constant: int) -> None:
    p = [[0.9, 0.3], [0.2, 0.8], [0.6, 0.1]]
    target = [[1, constant], [0, constant], [0, constant]]
    scores = score(make_predictions(FINDINGS, list("abc"), p, target), FINDINGS)
    assert scores["macro"] == {name: scores["per_class"]["oedema"][name] for name in scores["macro"]}
    assert len(scores["notes"]) == 2
    unknown = score(make_predictions(FINDINGS, ["a"], [[0.9, 0.3]], [[1, np.nan]]), FINDINGS)
    assert any("No row has a target for 'effusion'" in note for note in unknown["notes"])


@pytest.mark.parametrize("task", [BINARY, GRADES, TYPES, FINDINGS])
@pytest.mark.filterwarnings("error")
def test_without_any_target_nothing_is_a_number(task: Task) -> None:
    n = len(task.classes)
    scores = score(make_predictions(task, ["a"], [[1 / n] * n]), task)
    assert scores["n"] == 0
    assert all(value is None for value in headline(scores).values())
    assert scores["notes"] == ["No row has a target: every metric is undefined."]


def test_headline_has_the_same_names_for_every_task() -> None:
    ranked = ["auroc", "average_precision", "balanced_accuracy", "f1", "accuracy", "brier", "log_loss"]
    multilabel = make_predictions(FINDINGS, list("ab"), [[0.9, 0.3], [0.2, 0.8]], [[1, 0], [0, 1]])
    assert list(headline(score(random_table(BINARY)[0], BINARY))) == ranked
    assert list(headline(score(random_table(TYPES)[0], TYPES))) == ranked
    assert list(headline(score(multilabel, FINDINGS))) == ranked
    assert set(headline(score(random_table(GRADES)[0], GRADES))) == {*ranked, "kappa"}


def test_splits_and_folds_are_scored_apart() -> None:
    frame = binary([0.9, 0.1, 0.2, 0.8], [1, 0, 1, 0], split=["test", "test", "val", "val"])
    scores = score_splits(frame, BINARY)
    assert {name: value["overall"]["auroc"] for name, value in scores.items()} == {"test": 1, "val": 0}
    folds = score_splits(frame.assign(split="test", fold=["0", "0", "1", "1"]), BINARY)
    assert {name: value["overall"]["auroc"] for name, value in folds.items()} == {"test/0": 1, "test/1": 0}
    assert list(score_splits(frame.assign(split=""), BINARY)) == ["all"]


def test_metrics_file_is_plain_json_without_nan(tmp_path: Path) -> None:
    scores: dict[str, Scores] = {"test": score(binary([0.9, 0.3], [1, 1]), BINARY)}
    write_metrics(scores, tmp_path / "run" / "metrics.json")
    text = (tmp_path / "run" / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == scores
    with pytest.raises(ValueError, match="JSON"):
        write_metrics({"auroc": float("nan")}, tmp_path / "nan.json")
    assert not (tmp_path / "nan.json").exists()


def test_evaluation_imports_neither_torch_nor_another_room() -> None:
    code = (
        "import sys, medsoft.evaluation.metrics.score, medsoft.evaluation.tables.predictions\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import medsoft.evaluation.figures\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print(*sorted(m for m in sys.modules if m.startswith(('torch', 'lightning', 'monai', 'timm', 'medsoft'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {name for name in done.stdout.split() if not name.startswith("medsoft.evaluation")}
    assert not rooms & {"torch", "lightning", "monai", "timm"}
    inside = {name for name in rooms if name.startswith("medsoft.")}
    below = ("medsoft.storage", "medsoft.system", "medsoft.text")
    above = {name for name in inside if name.count(".") > 1 and not name.startswith(below)}
    assert not above, "only what every room may use"
