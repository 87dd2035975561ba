"""Means over folds: each fold's own value, intervals from patients within folds, what is undefined, what is pooled."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medsoft.evaluation.comparison.across_folds import MIXES
from medsoft.evaluation.comparison.compare import compare_models
from medsoft.evaluation.comparison.pairing import pair
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.metrics.by_name import Asked
from medsoft.evaluation.metrics.thresholds import parse_rule
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.evaluation.writing import write_evaluation
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
TYPES = Task.of("multiclass", ("a", "b", "c"))
GRADES = Task.of("ordinal", ("0", "1", "2"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))
QUICK = Settings(draws=200)
VALUES = Settings(draws=20)
"""For tests of values and sentences, which look at no interval."""


def folds(task: Task, k: int = 4, n: int = 60, seed: int = 0, shift: float = 0.0, val: bool = True) -> pd.DataFrame:
    """``k`` models better than chance, two rows a patient; each model's scores lie ``shift`` above the last one's."""
    rng = np.random.default_rng(seed)
    frames = []
    for fold in range(k):
        for split in ("val", "test") if val else ("test",):
            # A validation patient of one fold is a test patient of the next.
            owner = fold if split == "test" else (fold + 1) % k
            patient = np.arange(n) // 2
            target = rng.integers(len(task.classes), size=n)[patient]
            z = rng.normal(size=(n, len(task.classes))) + 1.2 * np.eye(len(task.classes))[target]
            z[:, -1] += shift * fold
            p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            known = rng.random((n, len(task.classes))) < 0.5 if task.kind == "multilabel" else target
            names = [f"F{owner}-P{i}" for i in patient]
            ids = [f"F{owner}-{split}-{i}" for i in range(n)]
            frames.append(make_predictions(task, ids, p, known, patient=names, split=split, fold=fold))
    return pd.concat(frames, ignore_index=True)


def across(frame: pd.DataFrame, task: Task, settings: Settings = QUICK, split: str = "test"):
    found = evaluate_table(frame, task, settings)
    return next(a for a in found.across if (a.split, a.level) == (split, "row"))


@cache
def usual():
    """The evaluation of four binary folds, which several tests look at."""
    return evaluate_table(folds(BINARY), BINARY, QUICK)


def usual_test():
    """Its means over the folds' test parts."""
    return next(a for a in usual().across if (a.split, a.level) == ("test", "row"))


def aurocs(frame: pd.DataFrame) -> list[float]:
    test = frame[frame["split"] == "test"]
    return [roc_auc_score(part["target"] == "yes", part["p_yes"]) for _, part in test.groupby("fold", sort=False)]


def test_the_value_is_the_mean_of_the_folds_own_values() -> None:
    found = usual_test().find("auroc")
    own = aurocs(folds(BINARY))
    assert found.value == pytest.approx(np.mean(own), abs=1e-12)
    assert found.sd == pytest.approx(np.std(own, ddof=1), abs=1e-12)
    assert (found.lowest, found.highest) == pytest.approx((min(own), max(own)))
    assert (found.n_folds, found.undefined_folds) == (4, ())
    assert found.low < found.value < found.high


def test_the_pooled_value_is_that_of_one_table_and_is_labelled() -> None:
    frame = folds(BINARY, shift=3.0)
    found = across(frame, BINARY, VALUES)
    test = frame[frame["split"] == "test"]
    auroc = found.find("auroc")
    assert auroc.pooled == pytest.approx(roc_auc_score(test["target"] == "yes", test["p_yes"]), abs=1e-12)
    assert auroc.pooled < auroc.value - 0.05, "models on different scales spoil each other's order"
    assert auroc.pooled_method == "clustered delong"
    assert MIXES in found.notes
    assert found.find("sensitivity", rule="0.5").pooled is not None
    assert found.find("sensitivity", rule="youden").pooled is None


@pytest.mark.parametrize("task", [BINARY, TYPES, GRADES, FINDINGS])
def test_every_metric_is_the_mean_of_the_parts_values(task: Task) -> None:
    evaluation = evaluate_table(folds(task, k=3), task, VALUES)
    parts = [p for p in evaluation.parts if (p.split, p.level) == ("test", "row")]
    summary = next(a for a in evaluation.across if (a.split, a.level) == ("test", "row"))
    assert len(summary.estimates) > 8
    for estimate in summary.estimates:
        about = {k: getattr(estimate, k) for k in ("class_name", "average", "rule", "prevalence", "probabilities")}
        values = [p.find(estimate.metric, **about).value for p in parts]
        assert estimate.value == pytest.approx(np.mean(values), abs=1e-12), estimate
    assert {e.rule for e in summary.estimates} >= ({"0.5", "youden"} if task.kind in ("binary", "multilabel") else {""})


def test_each_fold_decides_at_its_own_threshold() -> None:
    evaluation = evaluate_table(folds(BINARY, shift=2.0), BINARY, VALUES)
    thresholds = {c.fold: c.thresholds["yes", "youden"] for c in evaluation.locked.chosen if c.level == "row"}
    assert len(set(thresholds.values())) == 4
    test = folds(BINARY, shift=2.0).query("split == 'test'")
    hits = [
        ((part["p_yes"] >= thresholds[fold]) & (part["target"] == "yes")).sum() / (part["target"] == "yes").sum()
        for fold, part in test.groupby("fold")
    ]
    summary = next(a for a in evaluation.across if (a.split, a.level) == ("test", "row"))
    assert summary.find("sensitivity", rule="youden").value == pytest.approx(np.mean(hits))


def test_a_fold_of_one_class_is_said_and_left_out() -> None:
    frame = folds(BINARY)
    frame = frame[~((frame["fold"] == "2") & (frame["split"] == "test") & (frame["target"] == "no"))]
    found = across(frame, BINARY)
    auroc = found.find("auroc")
    own = [
        roc_auc_score(part["target"] == "yes", part["p_yes"])
        for fold, part in frame[frame["split"] == "test"].groupby("fold")
        if fold != "2"
    ]
    assert auroc.value == pytest.approx(np.mean(own))
    assert (auroc.n_folds, auroc.undefined_folds) == (3, ("2",))
    assert auroc.note == "undefined in 1 of 4 folds, which are left out"
    assert auroc.low is not None
    assert any("'no' has no row in 1 of 4 folds (2)" in note for note in found.notes)
    assert found.find("sensitivity", rule="0.5").n_folds == 4
    only = frame[frame["target"] == "yes"]
    assert across(only, BINARY, VALUES).find("auroc").value is None


def test_the_interval_draws_patients_within_folds() -> None:
    """The clustered interval is wider than that of rows, and about as wide as theory says for the mean of folds."""
    frame = folds(BINARY, n=120, val=False)
    # Both rows of a patient say the same: half of the information.
    frame["p_yes"] = frame.groupby("patient")["p_yes"].transform("first")
    frame["p_no"] = 1 - frame["p_yes"]
    clustered = across(frame, BINARY).find("auroc")
    rows = across(frame.assign(patient=""), BINARY).find("auroc")
    assert clustered.value == pytest.approx(rows.value)
    ratio = (clustered.high - clustered.low) / (rows.high - rows.low)
    assert 1.2 < ratio < 1.7
    found = evaluate_table(frame.assign(patient=""), BINARY, QUICK)
    widths = [part.find("auroc").high - part.find("auroc").low for part in found.parts]
    assert rows.high - rows.low == pytest.approx(np.sqrt(np.sum(np.square(widths))) / 4, rel=0.25)


def test_what_the_draws_keep() -> None:
    frame = folds(BINARY)
    assert usual_test().bootstrap == "120 patients, stratified by fold and class"
    assert across(frame, BINARY, Settings(draws=20, stratify=False)).bootstrap == "120 patients, stratified by fold"
    mixed = frame.assign(target=np.random.default_rng(3).permutation(frame["target"]))
    assert across(mixed, BINARY, VALUES).bootstrap == "120 patients, stratified by fold", "patients with both classes"
    assert across(folds(FINDINGS, k=2), FINDINGS, VALUES).bootstrap == "60 patients, stratified by fold"
    everywhere = frame.assign(patient=frame["patient"].str.slice(3))
    assert across(everywhere, BINARY, VALUES).bootstrap == "30 patients, not stratified"


def test_repeats_draw_a_patient_in_all_his_folds_alike() -> None:
    once = folds(BINARY, val=False)
    twice = pd.concat([once, once.assign(fold=(once["fold"].astype(int) + 4).astype(str))], ignore_index=True)
    a, b = across(once, BINARY).find("auroc"), across(twice, BINARY).find("auroc")
    assert b.value == pytest.approx(a.value)
    assert (b.high - b.low) == pytest.approx(a.high - a.low, rel=0.25), "the same patients again are no new ones"


def test_one_fold_has_no_mean_over_folds() -> None:
    assert evaluate_table(folds(BINARY, k=1), BINARY, VALUES).across == []


@pytest.mark.parametrize("split", ["val", "test"])
def test_thresholds_that_were_locked_before_are_used_on_every_split(split) -> None:
    """What another table chose is not hidden where this one calls its rows val."""
    locked = usual().locked
    new = folds(BINARY, seed=1, val=False).assign(split=split)
    found = evaluate_table(new, BINARY, VALUES, locked=locked)
    summary = next(a for a in found.across if (a.split, a.level) == (split, "row"))
    parts = [part for part in found.parts if part.level == "row"]
    values = [part.find("sensitivity", rule="youden").value for part in parts]
    assert summary.find("sensitivity", rule="youden").value == pytest.approx(np.mean(values))
    hidden = next(a for a in usual().across if (a.split, a.level) == ("val", "row"))
    assert hidden.find("sensitivity", rule="youden") is None
    assert hidden.find("sensitivity", rule="0.5") is not None


def test_what_is_chosen_on_the_reported_rows_is_marked_in_the_mean_too() -> None:
    found = across(folds(BINARY, val=False), BINARY, Settings(draws=20, choose_on="test", optimistic=True))
    marked = {(e.rule, e.probabilities) for e in found.estimates if "OPTIMISTIC" in e.note}
    assert marked == {("youden", ""), ("", "temperature")}
    assert "OPTIMISTIC" not in found.find("sensitivity", rule="0.5").note


def test_files_and_command_line(tmp_path, medsoft) -> None:
    frame = folds(BINARY)
    for name, split in {"predictions": "test", "validation": "val"}.items():
        write_predictions(frame[frame["split"] == split], tmp_path / "cv" / f"{name}.csv")
    code, out, err = medsoft("evaluate", tmp_path / "cv", f"--out={tmp_path / 'out'}", "--draws=20")
    assert (code, err) == (0, "")
    assert "mean over folds" in out
    assert MIXES in " ".join(out.split())
    table = pd.read_csv(tmp_path / "out" / "cross_validation.csv")
    chief = table.query("split == 'test' and level == 'row' and metric == 'auroc'").iloc[0]
    assert chief["value"] == pytest.approx(np.mean(aurocs(frame)))
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    about = {(a["split"], a["level"]) for a in values["across_folds"]}
    assert about == {(split, level) for split in ("test", "val") for level in ("row", "patient")}
    drawn = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"folds_test.png", "roc_folds_test_patient.png"} <= drawn
    assert len(values["inputs"]) == 2
    write_evaluation(evaluate_table(folds(BINARY, k=1), BINARY, VALUES), tmp_path / "out", figures=False)
    assert not (tmp_path / "out" / "cross_validation.csv").exists()
    (tmp_path / "empty").mkdir()
    code, _, err = medsoft("evaluate", tmp_path / "empty", f"--out={tmp_path / 'out'}")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no predictions.csv" in err


def test_a_comparison_leaves_out_folds_that_cannot_answer() -> None:
    frame = folds(BINARY)
    frame = frame[~((frame["fold"] == "2") & (frame["split"] == "test") & (frame["target"] == "no"))]
    other = frame.assign(p_yes=frame["p_no"], p_no=frame["p_yes"])
    paired = pair([("a", frame), ("b", other)], BINARY, split="test", level="row", rule=parse_rule("0.5"))
    result = compare_models(paired, Asked("auroc"), QUICK)[0]
    assert result.value == pytest.approx(across(frame, BINARY).find("auroc").value)
    assert result.low is not None
    assert "undefined in 1 of 4 folds" in result.note
