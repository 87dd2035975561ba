"""``medsoft evaluate``: values against scikit-learn, intervals, levels, what is locked, subgroups, bad tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from medsoft.errors import InputError
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.intervals.delong import delong
from medsoft.evaluation.locked import read_locked
from medsoft.evaluation.metrics.score import score
from medsoft.evaluation.metrics.targets import one_against_rest
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.subgroups import group_columns
from medsoft.evaluation.tables.levels import at_level, levels_of
from medsoft.evaluation.tables.predictions import make_predictions, read_predictions, write_predictions
from medsoft.evaluation.writing import write_evaluation
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
TYPES = Task.of("multiclass", ("a", "b", "c"))
GRADES = Task.of("ordinal", ("0", "1", "2"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))
NUMBERS = Task.of("regression")
QUICK = Settings(draws=100)


def table(task: Task, n: int = 150, seed: int = 0, per_patient: int = 1, split: str = "test", **about) -> pd.DataFrame:
    """Predictions better than chance; patients keep their label unless the task has several."""
    rng = np.random.default_rng(seed)
    patient, names = np.arange(n) // per_patient, None
    if per_patient > 1:
        names = [f"{split}-P{i}" for i in patient]
    ids = [f"{split}-{i}" for i in range(n)]
    if not task.has_classes:
        number = rng.normal(size=n)[patient]
        answers = (number + rng.normal(size=n))[:, None]
        return make_predictions(task, ids, answers, number, patient=names, split=split, **about)
    classes = len(task.classes)
    target = rng.integers(classes, size=n)[patient]
    z = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[target] + 0.7 * rng.normal(size=(n, 1))[patient]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    if task.kind == "multilabel":
        target = rng.random((n, classes)) < p
    return make_predictions(task, ids, p, target, patient=names, split=split, **about)


def val_and_test(task: Task, **kwargs) -> pd.DataFrame:
    return pd.concat([table(task, seed=1, split="val", **kwargs), table(task, **kwargs)], ignore_index=True)


def part(evaluation, split="test", level="row", fold=""):
    return next(p for p in evaluation.parts if (p.split, p.level, p.fold) == (split, level, fold))


@pytest.mark.parametrize("task", [BINARY, TYPES, GRADES, FINDINGS, NUMBERS], ids=lambda task: task.kind)
def test_every_task_goes_the_same_way(task: Task, tmp_path: Path) -> None:
    """Written, read back, by row and by patient, summed up over folds, and as files."""
    fold = ["0", "1"] * 75
    frame = val_and_test(task, per_patient=3, fold=fold)
    write_predictions(frame, tmp_path / "predictions.csv")
    read, read_task = read_predictions(tmp_path / "predictions.csv")
    assert read_task == task
    found = evaluate_table(read, task, Settings(draws=20))
    assert {(p.split, p.level, p.fold) for p in found.parts} == {
        (split, level, fold) for split in ("val", "test") for level in ("row", "patient") for fold in ("0", "1")
    }
    assert (found.locked is not None) == task.has_probabilities
    for across in found.across:
        own = [p.find(**task.primary).value for p in found.parts if (p.split, p.level) == (across.split, across.level)]
        assert across.find(**task.primary).value == pytest.approx(np.mean(own))
    by_row, by_patient = (part(found, level=level, fold="0") for level in ("row", "patient"))
    assert list(by_row.n_per_class) == list(task.classes)
    assert by_patient.n <= by_row.n_patients
    assert bool(by_row.calibration) == bool(by_row.curves) == task.has_probabilities
    assert (by_row.recalibrated is not None) == task.has_probabilities
    write_evaluation(found, tmp_path / "evaluation", figures=False)
    values = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert values["task"] == {"kind": task.kind, "classes": list(task.classes)}


@pytest.mark.parametrize("task", [BINARY, TYPES, GRADES, FINDINGS])
def test_values_are_those_of_the_metrics_file(task: Task) -> None:
    frame = table(task)
    found = part(evaluate_table(frame, task, QUICK))
    old = score(frame, task)
    compared = 0
    for estimate in found.estimates:
        if estimate.rule not in ("", "0.5", "most probable class") or estimate.average == "micro":
            continue
        if estimate.average == "macro":
            values = old["macro"]
        elif estimate.class_name and task.kind != "binary":
            values = old["per_class"][estimate.class_name]
        else:
            values = old["overall"]
        if estimate.metric in values:
            assert estimate.value == pytest.approx(values[estimate.metric], abs=1e-12), estimate
            compared += 1
    assert compared >= 9
    assert found.n_per_class == old["n_per_class"]


def test_other_values_are_those_of_scikit_learn() -> None:
    frame = table(GRADES)
    found = part(evaluate_table(frame, GRADES, QUICK))
    target, says = frame["target"].astype(int), frame[GRADES.p_columns].to_numpy().argmax(axis=1)
    assert found.find("mcc", class_name="").value == pytest.approx(reference.matthews_corrcoef(target, says))
    precision = reference.precision_score(target, says, average=None)
    for index, name in enumerate(GRADES.classes):
        assert found.find("ppv", class_name=name).value == pytest.approx(precision[index])
    one_hot = np.eye(3)[target]
    micro = reference.roc_auc_score(one_hot, frame[GRADES.p_columns], average="micro")
    assert found.find("auroc", average="micro").value == pytest.approx(micro)
    labels = table(FINDINGS)
    found = part(evaluate_table(labels, FINDINGS, QUICK))
    truth, p = labels[FINDINGS.target_columns].to_numpy(int), labels[FINDINGS.p_columns].to_numpy()
    assert found.find("f1", average="micro").value == pytest.approx(
        reference.f1_score(truth, p >= 0.5, average="micro")
    )
    assert found.find("ppv", average="macro").value == pytest.approx(
        reference.precision_score(truth, p >= 0.5, average="macro")
    )


def test_intervals_by_their_methods() -> None:
    frame = table(BINARY)
    found = part(evaluate_table(frame, BINARY, QUICK))
    auroc = found.find("auroc")
    question = one_against_rest(frame, BINARY)[0]
    assert (auroc.low, auroc.high) == delong(question.truth, question.p).interval()
    assert auroc.method == "delong"
    assert auroc.bootstrap_low == pytest.approx(auroc.low, abs=0.04)
    assert found.find("sensitivity", rule="0.5").method == "wilson"
    assert found.find("brier").method == "bootstrap"
    for estimate in found.estimates:
        if estimate.low is not None:
            assert estimate.low <= estimate.value <= estimate.high
    clustered = part(evaluate_table(table(BINARY, per_patient=3), BINARY, QUICK))
    assert clustered.find("auroc").method == "clustered delong"
    assert clustered.find("sensitivity", rule="0.5").method == "bootstrap"
    assert clustered.n_patients == 50
    assert "50 patients, stratified by class" in clustered.bootstrap


def test_the_same_seed_gives_the_same_numbers_and_more_confidence_wider_ones() -> None:
    frame = table(TYPES)
    first, again = (evaluate_table(frame, TYPES, QUICK).parts[0].estimates for _ in range(2))
    assert first == again
    other = evaluate_table(frame, TYPES, Settings(draws=100, seed=1)).parts[0].estimates
    assert [e.value for e in other] == [e.value for e in first]
    assert other != first
    wide = evaluate_table(frame, TYPES, Settings(draws=100, confidence=0.99)).parts[0]
    for a, b in zip(first, wide.estimates, strict=True):
        if a.low is not None:
            assert b.low <= a.low
            assert a.high <= b.high


def test_without_strata_the_mix_of_classes_varies_too() -> None:
    frame = table(BINARY)
    fixed, free = (evaluate_table(frame, BINARY, Settings(stratify=s)).parts[0] for s in (True, False))
    assert (fixed.bootstrap, free.bootstrap) == ("150 rows, stratified by class", "150 rows, not stratified")

    def width(part) -> float:
        found = part.find("average_precision")
        return found.high - found.low

    assert width(free) > 1.1 * width(fixed)


def test_ppv_at_another_prevalence_by_hand() -> None:
    found = part(evaluate_table(table(BINARY), BINARY, Settings(draws=100, prevalences=(0.02,))))
    a, b = (found.find(name, rule="0.5", prevalence=None).value for name in ("sensitivity", "specificity"))
    ppv = found.find("ppv", rule="0.5", prevalence=0.02)
    assert ppv.value == pytest.approx(a * 0.02 / (a * 0.02 + (1 - b) * 0.98))
    npv = found.find("npv", rule="0.5", prevalence=0.02)
    assert npv.value == pytest.approx(b * 0.98 / (b * 0.98 + (1 - a) * 0.02))
    assert ppv.method == "bootstrap"


@pytest.mark.parametrize("task", [TYPES, GRADES, FINDINGS])
def test_every_class_has_a_ppv_at_another_prevalence(task: Task) -> None:
    settings = Settings(draws=100, prevalences=(0.02, 0.3))
    found = part(evaluate_table(table(task), task, settings))
    for name in task.classes:
        rule = "0.5" if task.kind == "multilabel" else "most probable class"
        at = {"class_name": name, "rule": rule}
        a, b = (found.find(metric, **at, prevalence=None).value for metric in ("sensitivity", "specificity"))
        for q in (0.02, 0.3):
            ppv = found.find("ppv", **at, prevalence=q)
            assert ppv.value == pytest.approx(a * q / (a * q + (1 - b) * (1 - q)))
            assert ppv.low < ppv.value < ppv.high
        # At the prevalence of the rows Bayes' rule gives what was counted.
        own = found.n_per_class[name] / found.n
        by_bayes = a * own / (a * own + (1 - b) * (1 - own))
        if task.kind != "multilabel":
            assert found.find("ppv", **at, prevalence=None).value == pytest.approx(by_bayes)


def test_one_class_is_undefined_and_said_never_a_number() -> None:
    frame = table(BINARY)
    frame = frame[frame["target"] == "yes"]
    found = part(evaluate_table(frame, BINARY, QUICK))
    for metric in ("auroc", "average_precision", "specificity", "balanced_accuracy", "mcc"):
        estimate = found.find(metric)
        assert estimate.value is None
        assert estimate.note == "every row is 'yes'"
    assert not found.curves
    none_called = make_predictions(BINARY, list("abcd"), [[0.9, 0.1]] * 4, [0, 1, 0, 1])
    found = part(evaluate_table(none_called, BINARY, QUICK), "all")
    assert found.find("ppv").note == "no row is called 'yes'"
    assert found.find("auroc").value == 0.5
    perfect = make_predictions(BINARY, list("abcd"), [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0, 1]], [0, 0, 1, 1])
    found = part(evaluate_table(perfect, BINARY, QUICK), "all").find("auroc")
    assert (found.value, found.low, found.high) == (1, None, None)
    assert "no interval" in found.note


def test_without_targets_nothing_is_reported() -> None:
    frame = make_predictions(TYPES, ["a"], [[0.2, 0.3, 0.5]])
    found = evaluate_table(frame, TYPES, QUICK).parts[0]
    assert (found.n, found.n_missing, found.estimates) == (0, 1, [])
    assert "no row has a target" in found.notes[0]


def test_a_class_that_no_row_has_is_left_out_of_the_macro_mean() -> None:
    frame = table(TYPES)
    frame = frame[frame["target"] != "c"]
    found = part(evaluate_table(frame, TYPES, QUICK))
    assert found.find("auroc", class_name="c").note == "no row is 'c'"
    known = [found.find("auroc", class_name=name).value for name in "ab"]
    macro = found.find("auroc", average="macro")
    assert macro.value == pytest.approx(np.mean(known))
    assert macro.low is not None


def test_few_patients_of_a_class_are_warned_of() -> None:
    frame = table(BINARY, n=240, per_patient=4)
    assert not [note for note in part(evaluate_table(frame, BINARY, QUICK)).notes if "few" in note]
    sick = frame.loc[frame["target"] == "yes", "patient"].unique()
    some = frame[~frame["patient"].isin(sick[4:])]
    assert [note for note in part(evaluate_table(some, BINARY, QUICK)).notes if "few" in note] == [
        "few patients: 4 of 'yes'; intervals of what is about a class are too narrow to be trusted below 10"
    ]


def test_levels_are_means_and_disagreement_is_counted() -> None:
    frame = make_predictions(
        BINARY,
        list("abcde"),
        [[0.2, 0.8], [0.4, 0.6], [0.9, 0.1], [0.7, 0.3], [0.5, 0.5]],
        [1, 1, 0, 1, 0],
        patient=["P", "P", "Q", "Q", ""],
        exam=["1", "1", "1", "2", ""],
    )
    assert levels_of(frame, BINARY) == ["row", "exam", "patient"]
    assert levels_of(frame.drop(3), BINARY) == ["row", "exam"]  # patients are the exams once more
    assert levels_of(frame.assign(exam=""), BINARY) == ["row", "patient"]
    patients = at_level(frame, BINARY, "patient")
    assert patients.frame["id"].tolist() == ["P", "Q", "e"]
    assert patients.frame["p_yes"].tolist() == pytest.approx([0.7, 0.2, 0.5])
    assert patients.frame["target"].tolist() == ["yes", "", "no"]
    assert patients.n_mixed == 1
    exams = at_level(frame, BINARY, "exam")
    assert exams.frame["id"].tolist() == ["P/1", "Q/1", "Q/2", "e"]
    assert exams.n_mixed == 0
    found = part(evaluate_table(frame, BINARY, QUICK), "all", "patient")
    assert (found.n, found.n_missing, found.n_mixed) == (2, 1, 1)
    assert any("mean of the probabilities" in note for note in found.notes)
    labels = make_predictions(FINDINGS, list("ab"), [[0.2, 0.4], [0.4, 0.2]], [[1, np.nan], [0, 1]], patient="P")
    both = at_level(labels, FINDINGS, "patient")
    assert both.frame["target_oedema"].isna().all()
    assert both.frame["target_effusion"].tolist() == [1]
    assert both.n_mixed == 1


def test_thresholds_are_chosen_on_val_and_only_read_on_test() -> None:
    frame = val_and_test(BINARY)
    evaluation = evaluate_table(frame, BINARY, Settings(draws=100, rules=("youden", "sensitivity:0.9")))
    locked = {point.rule: point.threshold for point in evaluation.locked.chosen[0].points}
    on_test = part(evaluation)
    for rule, threshold in locked.items():
        sensitivity = on_test.find("sensitivity", rule=rule)
        assert sensitivity.threshold == threshold
        positives = frame[(frame["split"] == "test") & (frame["target"] == "yes")]
        assert sensitivity.value == pytest.approx((positives["p_yes"] >= threshold).mean())
    on_val = part(evaluation, "val")
    assert not [e for e in on_val.estimates if e.rule or e.probabilities]
    assert any("not reported" in note for note in on_val.notes)
    # The test rows have no say in it.
    turned = frame.copy()
    turned.loc[turned["split"] == "test", ["p_no", "p_yes"]] = turned.loc[
        turned["split"] == "test", ["p_yes", "p_no"]
    ].to_numpy()
    again = evaluate_table(turned, BINARY, Settings(draws=100, rules=("youden", "sensitivity:0.9")))
    assert again.locked == evaluation.locked


def test_choosing_on_what_is_reported_is_refused_or_loud() -> None:
    frame = val_and_test(BINARY)
    with pytest.raises(InputError, match=r"--optimistic true"):
        evaluate_table(frame, BINARY, Settings(draws=100, choose_on="test"))
    loud = evaluate_table(frame, BINARY, Settings(draws=100, choose_on="test", optimistic=True))
    assert "OPTIMISTIC" in loud.notes[0]
    marked = [e for e in part(loud).estimates if "OPTIMISTIC" in e.note]
    assert {e.rule for e in marked} == {"youden", ""}
    assert all(e.probabilities for e in marked if not e.rule)
    assert "OPTIMISTIC" not in part(loud).find("auroc").note
    groups = pd.DataFrame({"sex": np.where(np.arange(len(frame)) % 4 < 2, "f", "m")})
    set_aside = frame.assign(abstain=np.arange(len(frame)) % 5 == 0)
    found = part(evaluate_table(set_aside, BINARY, Settings(draws=50, choose_on="test", optimistic=True), groups))
    assert {g.estimate.rule for g in found.groups if "OPTIMISTIC" in g.note} == {"youden"}
    assert {e.rule for e in found.abstention.estimates} == {"", "0.5"}
    only_test = frame[frame["split"] == "test"]
    with pytest.raises(InputError, match=r"no rows with targets \(there is 'test'\)"):
        evaluate_table(only_test, BINARY, Settings(draws=100, rules=("youden",)))
    with pytest.raises(InputError, match="choose thresholds on the split 'val' and report"):
        evaluate_table(frame[frame["split"] == "val"], BINARY, Settings(draws=100, rules=("youden",)))
    plain = evaluate_table(only_test, BINARY, QUICK)
    assert {e.rule for e in part(plain).estimates} == {"", "0.5"}
    assert "no threshold was chosen" in plain.notes[0]
    with pytest.raises(InputError, match="multiclass predicts the most probable class"):
        evaluate_table(table(TYPES), TYPES, Settings(draws=100, rules=("0.5",)))


def test_patients_in_val_and_test_are_warned_of() -> None:
    frame = val_and_test(BINARY, per_patient=2)
    frame["patient"] = frame["patient"].str.replace("val-P3", "test-P3", regex=False)
    found = part(evaluate_table(frame, BINARY, QUICK))
    assert any(note.startswith("WARNING: ") and "test-P3" in note for note in found.notes)
    assert not any("samples are in" in note for note in found.notes)
    unnamed = val_and_test(BINARY)
    unnamed["id"] = unnamed["id"].replace({"val-7": "test-7", "val-8": "test-8"})
    notes = part(evaluate_table(unnamed, BINARY, QUICK)).notes
    assert any("2 of 150 samples are in 'val' too, where thresholds were chosen, such as 'test-7'" in n for n in notes)


def test_each_fold_is_a_model_with_its_own_thresholds() -> None:
    frame = pd.concat([val_and_test(BINARY).assign(fold="0"), val_and_test(BINARY, n=80).assign(fold="1")])
    evaluation = evaluate_table(frame, BINARY, QUICK)
    assert [(p.fold, p.split, p.n) for p in evaluation.parts] == [
        ("0", "val", 150),
        ("0", "test", 150),
        ("1", "val", 80),
        ("1", "test", 80),
    ]
    first, second = (c.thresholds["yes", "youden"] for c in evaluation.locked.chosen)
    assert first != second
    assert part(evaluation, fold="1").find("sensitivity", rule="youden").threshold == second


def test_recalibration_is_fitted_on_val_and_keeps_the_order() -> None:
    frame = val_and_test(BINARY, n=600)
    evaluation = evaluate_table(frame, BINARY, QUICK)
    found = part(evaluation)
    assert set(found.calibration["yes"]) == {"", "temperature"}
    assert found.recalibrated["p_yes"].corr(found.frame["p_yes"], method="spearman") == pytest.approx(1)
    better = found.find("log_loss", probabilities="temperature")
    assert better.value == pytest.approx(
        reference.log_loss(found.frame["target"] == "yes", found.recalibrated["p_yes"])
    )
    isotonic = part(evaluate_table(frame, BINARY, Settings(draws=100, recalibrate="isotonic")))
    assert isotonic.find("brier", probabilities="isotonic") is not None
    assert set(part(evaluate_table(frame, BINARY, Settings(draws=100, recalibrate="none"))).calibration["yes"]) == {""}


def test_groups_and_their_differences() -> None:
    frame = table(BINARY, n=400)
    rng = np.random.default_rng(0)
    age = pd.Series(np.where(frame.index % 10 == 0, "", rng.integers(20, 90, 400).astype(str)))
    samples = pd.DataFrame({"sex": rng.choice(["f", "m"], 400), "age": age, "label": frame["target"], "site": "A"})
    groups, notes = group_columns(samples, frame, BINARY, None, {"age": [65, 40]})
    assert list(groups) == ["age", "sex"]  # the label gives the target away, and there is one site
    assert "sex" in notes[0]
    found = part(evaluate_table(frame, BINARY, QUICK, groups))
    aurocs = [g for g in found.groups if g.estimate.metric == "auroc"]
    assert [g.group for g in aurocs] == ["< 40", "40 to < 65", ">= 65", "(missing)", "f", "m"]
    assert sum(g.n for g in aurocs if g.column == "age") == 400
    women, men = (next(g for g in aurocs if g.group == sex) for sex in "fm")
    rows = frame[(samples["sex"] == "f").to_numpy()]
    assert women.estimate.value == pytest.approx(reference.roc_auc_score(rows["target"] == "yes", rows["p_yes"]))
    assert women.rest == men.estimate.value
    assert women.difference == pytest.approx(-men.difference)
    assert women.difference_low == pytest.approx(-men.difference_high)
    assert women.difference_low < women.difference < women.difference_high
    sizes = {g.group: g.note for g in aurocs}
    assert not sizes["f"]
    few = evaluate_table(frame[:40], BINARY, QUICK, groups[:40]).parts[0].groups
    assert all("small group" in g.note for g in few)
    strange = samples.assign(age=samples["age"].replace("", "unknown"))
    _, notes = group_columns(strange, frame, BINARY, None, {"age": [65, 40]})
    assert "40 values of 'age' are no numbers, such as 'unknown': (missing)" in notes
    with pytest.raises(InputError, match="no column 'scanner'"):
        group_columns(samples, frame, BINARY, ["scanner"], {})
    with pytest.raises(InputError, match=r"--bands '\{age: \[50, 65\]\}'"):
        group_columns(samples, frame, BINARY, ["age"], {})


def test_a_group_of_one_class_is_undefined() -> None:
    frame = table(BINARY, n=60)
    groups = pd.DataFrame({"site": np.where(frame["target"] == "yes", "A", "B")})
    groups.loc[frame.index[frame["target"] == "no"][0], "site"] = "C"
    found = {
        g.group: g for g in evaluate_table(frame, BINARY, QUICK, groups).parts[0].groups if g.estimate.metric == "auroc"
    }
    assert found["A"].estimate.value is None
    assert found["A"].difference is None
    assert found["C"].n == 1


def test_the_command_writes_everything(medsoft, tmp_path: Path) -> None:
    frame = val_and_test(BINARY, n=60, per_patient=2)
    write_predictions(frame[frame["split"] == "val"], tmp_path / "val.csv")
    write_predictions(frame[frame["split"] == "test"], tmp_path / "test.csv")
    pd.DataFrame({"file": "im/" + frame["id"] + ".png", "sex": np.where(frame.index % 3, "f", "m")}).to_csv("s.csv")
    words = (
        "evaluate",
        "val.csv",
        "test.csv",
        "--out",
        "ev",
        "--table",
        "s.csv",
        "--draws",
        "60",
        "--prevalences",
        "0.1",
    )
    code, out, err = medsoft(*words)
    assert code == 2
    assert "--id file" in err
    code, out, err = medsoft(*words, "--id", "file")
    assert code == 0, err
    assert "test, by row (n=60, 30 patients)" in out
    names = {path.relative_to("ev").as_posix() for path in Path("ev").rglob("*") if path.is_file()}
    assert names == {
        *("evaluation.json", "metrics.csv", "calibration.csv", "reliability.csv", "curves.csv", "subgroups.csv"),
        *("locked.json", "thresholds.csv", "recalibrated.csv", "report.html", "report.json"),
        *(f"figures/{kind}_{split}{level}.png"
          for kind in ("roc_band", "precision_recall", "reliability", "decision_curve", "risk_coverage")
          for split in ("val", "test") for level in ("", "_patient")),
        *(f"figures/subgroups_auroc_{split}.png" for split in ("val", "test")),
    }  # fmt: skip
    values = json.loads(Path("ev/evaluation.json").read_text(), parse_constant=pytest.fail)
    assert [given["rows"] for given in values["inputs"]] == [60, 60]
    assert {p["level"] for p in values["parts"]} == {"row", "patient"}
    lines = pd.read_csv("ev/metrics.csv")
    row = lines[(lines["metric"] == "auroc") & (lines["split"] == "test") & (lines["level"] == "row")].iloc[0]
    in_json = next(e for p in values["parts"] if (p["split"], p["level"]) == ("test", "row") for e in p["estimates"])
    assert (row["value"], row["low"]) == pytest.approx((in_json["value"], in_json["low"]))
    assert read_predictions("ev/recalibrated.csv")[1] == BINARY
    # What was locked is read on another table, without validation rows.
    options = ("--locked", "ev/locked.json", "--draws", "60", "--figures", "false")
    code, out, err = medsoft("evaluate", "test.csv", "--out", "ev2", *options)
    assert code == 0, err
    again = pd.read_csv("ev2/metrics.csv")
    columns = ["metric", "level", "rule", "threshold", "value", "low"]
    first = lines[(lines["split"] == "test") & lines["prevalence"].isna()][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(again[columns], first)
    assert not Path("ev2/pictures").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--thresholds", "best"], "'best' is no rule"),
        (["--thresholds", "youden"], "no rows with targets"),
        (["--recalibrate", "platt"], "one of temperature, isotonic, none"),
        (["--draws", "0"], "draws 0"),
        (["--by", "eye"], "levels are row, exam, patient"),
        (["--prevalences", "2"], "prevalence 2"),
        (["--prevalences", "rare"], "--prevalences"),
        (["--subgroups", "sex"], "--table"),
        (["--table", "no.csv"], "the sample table cannot be opened"),
        (["--table", "other.csv"], "no value of 'id' ('x' …) is an id"),
        (["--table", "twice.csv"], "names samples twice, in lines 2, 3"),
        (["--locked", "no.json"], "cannot read what is locked"),
        (["--locked", "t.csv"], "not a locked.json"),
        (["--locked", "no.json", "--thresholds", "0.5"], "leave out --thresholds"),
        (["other.csv"], "no column of probabilities"),
        (["types.csv"], "one call evaluates one model"),
        (["copy.csv"], "twice in their split and fold, such as 'test-0' in t.csv (row 1) and copy.csv (row 1)"),
    ],
)
def test_wrong_calls_are_refused_before_work_starts(medsoft, options: list[str], words: str) -> None:
    write_predictions(table(BINARY), "t.csv")
    write_predictions(table(BINARY), "copy.csv")
    write_predictions(table(TYPES), "types.csv")
    Path("other.csv").write_text("id,target\nx,yes\n")
    Path("twice.csv").write_text("id,sex\ntest-1,f\ntest-1,m\n")
    code, _, err = medsoft("evaluate", "t.csv", "--out", "ev", *options)
    assert code == 2
    assert words in err, err
    assert not Path("ev").exists()


def test_bad_tables_are_refused_with_line_numbers(medsoft) -> None:
    Path("bad.csv").write_text(
        "id,split,target,p_no,p_yes\n"
        "a,test,yes,0.1,0.9\n\n"
        "b,test,yes,nan,0.5\n"
        "c,test,no,0.4,0.4\n"
        "a,test,yes,0.1,0.9\n"
        "d,test,maybe,0.5,0.5\n"
    )
    code, _, err = medsoft("evaluate", "bad.csv", "--out", "ev")
    assert code == 2
    for words in (
        "4 problems",
        "p_no is empty or not a number in row 2 ('b'); line 4",
        "do not sum to 1 in row 3 ('c'); line 5",
        "an id again (in its split and fold) in row 4 ('a'); line 6",
        "target 'maybe' is none of no, yes in row 5 ('d'); line 7",
    ):
        assert words in err
    Path("empty.csv").write_text("id,target,p_no,p_yes\n")
    assert "has no rows" in medsoft("evaluate", "empty.csv", "--out", "ev")[2]
    Path("labels.csv").write_text("id,target_a,p_a\nx,1,0.5\ny,perhaps,0.5\n")
    message = medsoft("evaluate", "labels.csv", "--out", "ev")[2]
    assert "target_a is 'perhaps': 0, 1 or empty is allowed; row 2 ('y'); line 3" in message
    assert "name one or several tables" in medsoft("evaluate", "--out", "ev", "--predictions", "[]")[2]


def regression_file(path: str = "r.csv", n: int = 90) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    target = rng.normal(1000, 10, n)
    frame = pd.DataFrame(
        {"id": [f"s{i}" for i in range(n)], "patient": [f"P{i // 3}" for i in range(n)], "split": "test"}
    )
    frame["target"], frame["prediction"] = target, target + rng.normal(2, 4, n)
    frame.to_csv(path, index=False)
    return frame


def test_regression_against_scikit_learn_and_by_definition(medsoft) -> None:
    frame = regression_file()
    code, _, err = medsoft("evaluate", "r.csv", "--out", "ev", "--draws", "100", "--by", "row")
    assert code == 0, err
    values = pd.read_csv("ev/metrics.csv").set_index("metric")
    t, p = frame["target"], frame["prediction"]
    assert values.loc["mae", "value"] == pytest.approx(reference.mean_absolute_error(t, p))
    assert values.loc["rmse", "value"] == pytest.approx(reference.root_mean_squared_error(t, p))
    assert values.loc["r2", "value"] == pytest.approx(reference.r2_score(t, p))
    apart = p - t
    assert values.loc["bias", "value"] == pytest.approx(apart.mean())
    assert values.loc["limit_high", "value"] == pytest.approx(apart.mean() + 1.96 * apart.std(ddof=1))
    concordance = 2 * np.cov(t, p, ddof=0)[0, 1] / (t.var(ddof=0) + p.var(ddof=0) + (t.mean() - p.mean()) ** 2)
    assert values.loc["concordance", "value"] == pytest.approx(concordance)
    assert (values["low"] < values["value"]).all()
    assert Path("ev/figures/agreement_test.png").is_file()
    assert not Path("ev/locked.json").exists()
    assert "are for classes" in medsoft("evaluate", "r.csv", "--out", "ev", "--thresholds", "0.5")[2]


def test_regression_that_cannot_be_answered() -> None:
    same = pd.DataFrame({"id": list("abc"), "patient": "", "exam": "", "split": "", "fold": "", "target": [5.0] * 3})
    found = evaluate_table(same.assign(prediction=[4.0, 5.0, 6.5]), Task.of("regression"), QUICK).parts[0]
    assert found.find("r2").value is None
    assert found.find("r2").note == "fewer than two different targets"
    assert found.find("mae").value == pytest.approx(2.5 / 3)


def test_bad_regression_tables_have_line_numbers() -> None:
    Path("bad.csv").write_text("id,target,prediction\na,1,2\nb,x,2\na,1,inf\n,1,\nc,,3\n")
    with pytest.raises(InputError) as caught:
        read_predictions("bad.csv")
    for words in (
        "4 problems",
        "target is not a finite number in row 2 ('b'); line 3",
        "prediction is not a finite number in rows 3 ('a'), 4 (''); lines 4, 5",
        "no id in row 4 (''); line 5",
        "an id again (in its split and fold) in row 3 ('a'); line 4",
    ):
        assert words in str(caught.value)


def test_a_label_without_a_threshold_stays_out_of_what_counts_all_labels() -> None:
    frame = val_and_test(FINDINGS)
    val = frame["split"] == "val"
    frame.loc[val, "target_effusion"] = 1  # a threshold cannot be chosen on positives alone
    found = part(evaluate_table(frame, FINDINGS, QUICK))
    micro = found.find("sensitivity", average="micro", rule="youden")
    assert micro.value == found.find("sensitivity", class_name="oedema", rule="youden").value
    assert found.find("sensitivity", class_name="effusion", rule="youden") is None


def test_locked_is_for_the_same_question(tmp_path: Path) -> None:
    write_evaluation(evaluate_table(val_and_test(BINARY), BINARY, QUICK), tmp_path, figures=False)
    assert read_locked(tmp_path / "locked.json", BINARY).chosen[0].n == 150
    with pytest.raises(InputError, match="locked for binary with the classes no, yes"):
        read_locked(tmp_path / "locked.json", Task.of("binary", ("benign", "malignant")))
    locked = read_locked(tmp_path / "locked.json", BINARY)
    with pytest.raises(InputError, match="nothing is locked by patient; there is by row: --by row"):
        evaluate_table(table(BINARY, per_patient=2), BINARY, QUICK, locked=locked)


def test_real_predictions_with_patients(shared_data: Path, medsoft) -> None:
    """IDC tiles by patient: labels of a random score, to see real clustering through the whole verb."""
    labels = pd.read_csv(shared_data / "histo_tiles/idc_patches/labels.csv", dtype=str)[:600]
    p = np.random.default_rng(0).beta(2, 3, len(labels)) * 0.8 + 0.2 * labels["idc"].astype(int)
    ids = labels["file"].map(lambda name: Path(name).stem).tolist()
    task = Task.of("binary", ("0", "1"))
    p_NC = np.stack([1 - p, p], axis=1)
    frame = make_predictions(task, ids, p_NC, labels["idc"].astype(int), patient=labels["patient"].tolist())
    write_predictions(frame, "idc.csv")
    code, out, err = medsoft(
        "evaluate", "idc.csv", "--out", "ev", "--draws", "100", "--by", "row", "--figures", "false"
    )
    assert code == 0, err
    assert "clustered delong" in out
