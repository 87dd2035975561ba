"""Rows that chose a threshold or a recalibration are known again, and what they chose is hidden or marked on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medsoft.errors import InputError
from medsoft.evaluation.comparison.pairing import pair
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.locked import read_locked
from medsoft.evaluation.metrics.thresholds import parse_rule
from medsoft.evaluation.report.content import Given
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.overlap import ChosenRows
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.evaluation.writing import write_evaluation
from medsoft.runs.run_folder import RunFolder
from medsoft.task import Task
from medsoft.workflows.run_report import evaluate_run

BINARY = Task.of("binary", ("no", "yes"))
TYPES = Task.of("multiclass", ("a", "b", "c"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))
QUICK = Settings(draws=30)


def table(task: Task = BINARY, n: int = 80, seed: int = 0, split: str = "test", named: bool = True, **about):
    rng = np.random.default_rng(seed)
    classes = len(task.classes)
    target = rng.integers(classes, size=n)
    z = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[target]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    if task.kind == "multilabel":
        target = rng.random((n, classes)) < p
    ids = [f"{split}-{seed}-{i}" for i in range(n)]
    return make_predictions(task, ids, p, target, patient=[f"P{i}" for i in ids] if named else None, split=split)


def lock(frame: pd.DataFrame, task: Task, out: Path):
    chosen = Settings(draws=30, choose_on=frame["split"].iloc[0], optimistic=True)
    write_evaluation(evaluate_table(frame, task, chosen), out, figures=False)
    return read_locked(out / "locked.json", task)


def rests(part) -> list:
    """Estimates that rest on what was chosen."""
    return [e for e in part.estimates if e.rule == "youden" or e.probabilities]


@pytest.mark.parametrize("task", [BINARY, TYPES, FINDINGS])
@pytest.mark.parametrize("named", [True, False])
def test_the_rows_that_chose_are_known_by_id_and_by_content(task: Task, named: bool, tmp_path: Path) -> None:
    frame = table(task, named=named)
    locked = lock(frame, task, tmp_path)
    renamed = frame.assign(id=["x" + id for id in frame["id"]], patient="")
    p = frame[task.p_columns] * 0.97 + 0.03 / len(task.classes)
    other_answers = frame.assign(**{name: p[name] for name in task.p_columns})
    for again in (frame, renamed, other_answers, frame.sample(frac=1, random_state=0)):
        (part,) = evaluate_table(again.assign(split="elsewhere"), task, QUICK, locked=locked).parts
        assert part.overlap.whole
        assert rests(part) == []
        assert any("chosen on these rows; what they give here is not reported" in note for note in part.notes)
        loud = Settings(draws=30, optimistic=True)
        (part,) = evaluate_table(again.assign(split="elsewhere"), task, loud, locked=locked).parts
        assert rests(part)
        assert all("OPTIMISTIC: chosen on these very rows" in e.note for e in rests(part))
    (part,) = evaluate_table(table(task, seed=1, named=named), task, QUICK, locked=locked).parts
    assert (part.overlap.n, part.overlap.mark) == (0, "")
    assert rests(part)
    assert not any("OPTIMISTIC" in e.note for e in part.estimates)


def test_some_rows_mark_and_none_of_them_is_enough_to_hide(tmp_path: Path) -> None:
    frame = table()
    locked = lock(frame, BINARY, tmp_path)
    mixed = pd.concat([frame[:5], table(seed=1)], ignore_index=True)
    (part,) = evaluate_table(mixed, BINARY, QUICK, locked=locked).parts
    assert part.overlap.n == 5
    assert {e.note.split(";")[0] for e in rests(part)} == {"OPTIMISTIC: 5 of these 85 rows did the choosing"}
    assert any(note.startswith("WARNING: 5 of 85 rows are among those that chose") for note in part.notes)
    assert "OPTIMISTIC" not in part.find("auroc").note
    result = evaluate_table(mixed, BINARY, QUICK, locked=locked)
    write_evaluation(result, tmp_path / "out", figures=False)
    write_report(result, tmp_path / "out", Given(mixed))
    for name in ("calibration", "reliability", "curves"):
        lines = pd.read_csv(tmp_path / "out" / f"{name}.csv", keep_default_na=False)
        kind = lines["curve"] if name == "curves" else lines["probabilities"]
        assert (lines["note"] != "").tolist() == kind.isin(["temperature", "net_benefit_recalibrated"]).tolist()
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    marked = {figure["name"]: "OPTIMISTIC" in figure["note"] for figure in values["key_figures"]["figures"]}
    assert marked == {"AUROC": False, "sensitivity": True, "specificity": True, "Brier score": False}
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert html.count('<dd class="about warn">OPTIMISTIC: 5 of these 85 rows') == 2
    assert html.count('<span class="interval warn">OPTIMISTIC: 5 of these 85 rows') == 1
    assert "yes where p ≥ 0.5</caption>" in html
    assert html.count("(Youden); OPTIMISTIC") == 3  # the confusion twice (name and caption), the calls of the flow
    one = pd.concat([frame[:1], table(seed=1)], ignore_index=True)
    assert "1 of 81 rows is among" in " ".join(evaluate_table(one, BINARY, QUICK, locked=locked).parts[0].notes)


def test_a_row_of_another_patient_or_with_round_probabilities_is_another_row() -> None:
    frame = table()
    other = frame.assign(patient=["Q" + name for name in frame["patient"]], p_yes=frame["p_yes"] ** 1.1)
    other["p_no"] = 1 - other["p_yes"]
    assert not ChosenRows.of(frame, BINARY).among(other, BINARY).any()
    coarse = frame.assign(p_yes=frame["p_yes"].round(1), p_no=1 - frame["p_yes"].round(1))
    others = coarse.assign(id=["x" + id for id in frame["id"]], patient="")
    assert not ChosenRows.of(coarse, BINARY).among(others, BINARY).any()


def test_the_fingerprints_are_kept_and_name_nobody(tmp_path: Path) -> None:
    frame = table()
    locked = lock(frame, BINARY, tmp_path)
    (row,) = [chosen for chosen in locked.chosen if chosen.level == "row"]
    assert row.rows == ChosenRows.of(frame, BINARY)
    assert len(row.rows.names) == len(row.rows.answers) == 80
    for file in ("locked.json", "evaluation.json"):
        text = (tmp_path / file).read_text()
        assert not any(name in text for name in [*frame["id"], *frame["patient"]])
    assert "names" not in json.loads((tmp_path / "evaluation.json").read_text())["locked"]["chosen"][0]


def test_a_file_of_before_marks_what_may_be_optimistic(tmp_path: Path) -> None:
    frame = table(split="val")
    lock(frame, BINARY, tmp_path)
    values = json.loads((tmp_path / "locked.json").read_text())
    for chosen in values["chosen"]:
        del chosen["rows"]
    (tmp_path / "locked.json").write_text(json.dumps(values))
    locked = read_locked(tmp_path / "locked.json", BINARY)
    (part,) = evaluate_table(frame, BINARY, QUICK, locked=locked).parts
    assert all("may be chosen on these rows" in e.note for e in rests(part))
    assert any("did not keep which rows chose" in note for note in part.notes)
    (part,) = evaluate_table(frame.assign(split="test"), BINARY, QUICK, locked=locked).parts
    assert not any("OPTIMISTIC" in e.note for e in part.estimates)
    values["chosen"][0]["rows"] = {"names": 3, "answers": ""}
    (tmp_path / "locked.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="not a locked"):
        read_locked(tmp_path / "locked.json", BINARY)


@pytest.mark.parametrize("task", [BINARY, TYPES, FINDINGS])
def test_every_verb_hides_what_its_own_rows_chose(task: Task, tmp_path: Path) -> None:
    """``fit`` chooses on val; ``validate``, ``test`` and ``predict`` read the run's lock; so does ``evaluate``."""
    val, test = table(task, split="val", seed=1), table(task)
    both = pd.concat([val, test], ignore_index=True)
    run = RunFolder(tmp_path / "run")
    fitted = evaluate_run(both, task)
    write_evaluation(fitted, run.evaluation, figures=False)
    ways = {
        "fit": fitted,
        "validate": evaluate_run(val, task, run),
        "predict": evaluate_run(both.assign(split=""), task, run),
        "predict by split": evaluate_run(both, task, run),
        "evaluate": evaluate_table(both, task, QUICK),
        "evaluate --locked": evaluate_table(val, task, QUICK, locked=read_locked(run.evaluation / "locked.json", task)),
    }
    for name, found in ways.items():
        for part in found.parts:
            if part.split == "val":
                assert rests(part) == [], name
            elif part.split == "test":
                assert rests(part), name
                assert not any("OPTIMISTIC" in e.note for e in part.estimates), name
            else:
                assert all("80 of these 160 rows did the choosing" in e.note for e in rests(part)), name
    tested = evaluate_run(test, task, run)
    assert [e.value for e in rests(tested.parts[0])] == [e.value for e in rests(fitted.parts[1])]


def test_folds_hide_and_mark_as_parts_do(tmp_path: Path) -> None:
    folds = pd.concat(
        [table(seed=k, split=split).assign(fold=str(k % 2)) for k, split in enumerate(("val", "val", "test", "test"))],
        ignore_index=True,
    )
    found = evaluate_table(folds, BINARY, QUICK)
    of = {across.split: across for across in found.across}
    assert of["val"].find("sensitivity", rule="youden") is None
    assert of["test"].find("sensitivity", rule="youden").note == ""
    again = evaluate_table(folds[folds["split"] == "val"], BINARY, QUICK, locked=found.locked)
    assert again.across[0].find("sensitivity", rule="youden") is None
    loud = Settings(draws=30, optimistic=True)
    again = evaluate_table(folds[folds["split"] == "val"], BINARY, loud, locked=found.locked)
    assert "OPTIMISTIC" in again.across[0].find("sensitivity", rule="youden").note


def test_compare_warns_of_rows_that_chose_its_threshold() -> None:
    frame = table()
    both = pd.concat([frame, frame.assign(split="val", id=["x" + id for id in frame["id"]])], ignore_index=True)
    other = pd.concat([table(seed=2, split="val"), frame], ignore_index=True)
    paired = pair(
        [("a", both), ("b", other)], BINARY, split="test", level="row", rule=parse_rule("youden"), choose_on="val"
    )
    assert [note for note in paired.notes if "WARNING" in note] == [
        "a: WARNING: 80 of 80 rows are among those that chose thresholds or the recalibration"
    ]


def test_the_command_reports_no_number_of_its_own_choice(medsoft, tmp_path: Path) -> None:
    write_predictions(table(), tmp_path / "t.csv")
    options = ("--draws", 20, "--figures", "false")
    assert medsoft("evaluate", "t.csv", "--out", "a", "--choose_on", "test", "--optimistic", "true", *options)[0] == 0
    code, out, err = medsoft("evaluate", "t.csv", "--out", "b", "--locked", "a/locked.json", *options)
    assert code == 0, err
    assert "chosen on these rows; what they give here is not reported" in out
    assert "youden" not in Path("b/metrics.csv").read_text()
    assert "temperature" not in Path("b/metrics.csv").read_text()
    assert not Path("b/recalibrated.csv").exists()
