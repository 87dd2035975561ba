"""Survival from a table of predictions to metrics, risk groups, comparisons, figures and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medsoft.cli.compare import compare
from medsoft.cli.evaluate import evaluate
from medsoft.errors import InputError
from medsoft.evaluation.evaluate import Evaluation, evaluate_table
from medsoft.evaluation.figures.part_figures import charts_of, draw_part
from medsoft.evaluation.learnt import nothing_learnt
from medsoft.evaluation.locked import decide, read_locked
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.shortcuts.judge import alarm, baseline_tables, judge
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.evaluation.writing import write_evaluation
from medsoft.task import Task
from tests.builders.survival_tables import TIMES, outcomes, predictions

FEW = Settings(draws=40)


def written(path: Path, *tables: pd.DataFrame) -> Path:
    pd.concat(tables, ignore_index=True).to_csv(path, index=False)
    return path


def read(path: Path, *tables: pd.DataFrame) -> tuple[pd.DataFrame, Task]:
    return read_predictions(written(path, *tables))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    path = tmp_path_factory.mktemp("table") / "predictions.csv"
    frame, task = read(path, predictions(60, 1, "train"), predictions(50, 2, "val"), predictions(80, 3))
    return evaluate_table(frame, task, FEW)


def test_censoring_is_that_of_the_training_part_where_it_is_at_hand(evaluated: Evaluation, tmp_path: Path) -> None:
    with_training = next(part for part in evaluated.parts if part.split == "test")
    assert any("estimated on the training part" in note for note in with_training.notes)
    frame, task = read(tmp_path / "p.csv", predictions(80, 3))
    alone = evaluate_table(frame, task, FEW).parts[0]
    assert any("estimated on these rows" in note for note in alone.notes)
    assert alone.find("c_index").value == with_training.find("c_index").value, "Harrell's asks for no weights"
    assert alone.find("uno_c").value != with_training.find("uno_c").value
    for name in ("c_index", "uno_c", "integrated_brier"):
        found = with_training.find(name)
        assert found.low < found.value < found.high, name
        assert found.method == "bootstrap"
    assert [e.time for e in with_training.estimates if e.metric == "brier_at"] == [2.0, 5.0, 8.0]


def test_risk_groups_are_cut_where_validation_rows_say_and_the_cut_is_kept(evaluated: Evaluation, tmp_path) -> None:
    test = next(part for part in evaluated.parts if part.split == "test")
    val = next(part for part in evaluated.parts if part.split == "val")
    groups = test.survival.groups
    assert groups.cut.values == (pytest.approx(float(np.median(val.frame["risk"]))),)
    assert groups.cut.split == "val"
    assert groups.note == ""
    assert sum(group.n for group in groups.groups) == test.n
    written_ = write_evaluation(evaluated, tmp_path, figures=False)
    assert {"locked.json", "survival_curves.csv", "survival_calibration.csv"} <= {path.name for path in written_}
    again = read_locked(tmp_path / "locked.json", evaluated.task)
    assert again.find("", "row").risk_cut == groups.cut
    decided = decide(test.frame, evaluated.task, again)
    assert (decided["risk_group"] == "high risk").sum() == groups.groups[1].n
    elsewhere = evaluate_table(predictions_of_other_hospital(), evaluated.task, FEW, locked=again)
    assert elsewhere.parts[0].survival.groups.cut == groups.cut


def predictions_of_other_hospital() -> pd.DataFrame:
    frame = predictions(40, 9)
    frame["event"] = frame["event"].astype("Int8")
    return frame


def test_a_damaged_cut_is_refused(evaluated: Evaluation, tmp_path: Path) -> None:
    write_evaluation(evaluated, tmp_path, figures=False)
    path = tmp_path / "locked.json"
    values = json.loads(path.read_text())
    values["chosen"][0]["risk_cut"]["values"] = [2.0, 1.0]
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="rising numbers"):
        read_locked(path, evaluated.task)


def test_a_stated_cut_needs_no_validation_rows(tmp_path: Path) -> None:
    frame, task = read(tmp_path / "p.csv", predictions(60, 3))
    part = evaluate_table(frame, task, Settings(draws=20, risk_cut="-0.5,0.5")).parts[0]
    assert [group.name for group in part.survival.groups.groups] == ["low risk", "medium risk", "high risk"]
    assert any("stated beforehand" in note for note in part.notes)
    own = evaluate_table(frame, task, Settings(draws=20)).parts[0]
    assert any("median risk of these very rows" in note for note in own.notes)
    with pytest.raises(InputError, match="no rows with targets"):
        evaluate_table(frame, task, Settings(draws=20, choose_on="tune"))


def test_a_table_of_risks_alone_works_and_says_what_is_missing(tmp_path: Path) -> None:
    table = predictions(60, 4)[["id", "time", "event", "risk"]]
    frame, task = read(tmp_path / "other.csv", table)
    part = evaluate_table(frame, task, FEW).parts[0]
    assert part.find("c_index").value > 0.6
    assert len([e for e in part.estimates if e.metric == "auc_at"]) == 3, "at the quartiles of the event times"
    assert not [e for e in part.estimates if e.metric in ("brier_at", "oe_at", "integrated_brier")]
    assert any("the table gives risks alone" in note for note in part.notes)
    assert [chart.file for chart in charts_of(part, task)] == ["risk_groups", "over_time"]


def test_without_any_event_every_metric_is_empty_with_its_reason(tmp_path: Path) -> None:
    frame, task = read(tmp_path / "p.csv", predictions(30, 5).assign(event=0))
    part = evaluate_table(frame, task, FEW).parts[0]
    found = part.find("c_index")
    assert found.value is None
    assert found.note == "no event: there is no pair to compare"
    assert part.survival.groups.test.p is None
    write_evaluation(Evaluation(task, FEW, [part], None), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["parts"][0]["time_to_event"]


@pytest.mark.parametrize(
    ("known", "said"), [(1.0, ""), (0.0, "cannot be told from chance"), (-1.0, "the wrong way round")]
)
def test_a_model_that_learnt_nothing_or_the_opposite_says_so(known: float, said: str, tmp_path: Path) -> None:
    frame, task = read(tmp_path / "p.csv", predictions(80, 6, known=known))
    sentence = nothing_learnt(evaluate_table(frame, task, Settings(draws=100)))
    assert (said in sentence) if said else sentence == ""


def test_folds_have_their_mean_and_models_are_compared_in_pairs(tmp_path: Path, capsys) -> None:
    folds = [predictions(40, seed, fold=f"{seed}") for seed in range(3)]
    better = written(tmp_path / "better.csv", *folds)
    worse = written(tmp_path / "worse.csv", *(predictions(40, s, fold=f"{s}", known=0.1) for s in range(3)))
    frame, task = read_predictions(better)
    result = evaluate_table(frame, task, FEW)
    across = result.across[0]
    values = [part.find("c_index").value for part in result.parts]
    assert across.find("c_index").value == pytest.approx(np.mean(values))
    assert across.find("auc_at", time=5.0).n_folds == 3
    taus = {part.task.basis.tau for part in result.parts}
    assert len(taus) == 1, "Uno's C of all folds ends at one time"
    assert compare([str(better), str(worse)], draws=200) == 0
    shown = capsys.readouterr().out
    assert "c_index, split test, 120 rows of 120 patients in 3 folds" in shown
    assert compare([str(better), str(worse)], metric="brier_at", of="5", draws=20) == 0
    with pytest.raises(InputError, match="say which one"):
        compare([str(better), str(worse)], metric="auc_at", draws=20)


def test_a_difference_of_c_indices_is_found_with_its_interval(tmp_path: Path) -> None:
    better = written(tmp_path / "better.csv", predictions(80, 7))
    risks = predictions(80, 7, known=0.0)[["id", "patient", "split", "time", "event", "risk"]]
    worse = written(tmp_path / "worse.csv", risks)
    compare([str(better), str(worse)], draws=200, out=str(tmp_path / "out"), figures=False)
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"][0]
    assert found["metric"] == "c_index"
    assert found["low"] > 0
    compare([str(better), str(worse)], metric="brier_at", of="5", draws=20, out=str(tmp_path / "o"), figures=False)
    lacking = json.loads((tmp_path / "o" / "comparison.json").read_text())["comparisons"][0]
    assert lacking["difference"] is None
    assert lacking["note"] == "the table has no survival at 5 (a column s_5)"


def test_by_patient_and_in_subgroups(tmp_path: Path) -> None:
    table = predictions(60, 8)
    twice = pd.concat([table.assign(id=table["id"] + side) for side in "ab"], ignore_index=True)
    frame, task = read(tmp_path / "p.csv", twice)
    groups = pd.DataFrame({"site": np.where(np.arange(120) % 60 < 30, "here", "there")})
    rows, patients = evaluate_table(frame, task, FEW, groups).parts
    assert (rows.level, patients.level) == ("row", "patient")
    assert patients.find("c_index").value == pytest.approx(
        evaluate_table(table_as_read(table), task, FEW).parts[0].find("c_index").value
    )
    assert rows.survival.groups.test.p is None, "rows of one patient are not independent"
    assert patients.survival.groups.test.p is not None
    assert {group.estimate.metric for group in rows.groups} == {"c_index", "uno_c"}


def table_as_read(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(event=table["event"].astype("Int8"))


def test_the_command_writes_tables_figures_and_a_report(tmp_path: Path, capsys) -> None:
    table = written(tmp_path / "p.csv", predictions(50, 2, "val"), predictions(60, 3))
    out = tmp_path / "out"
    assert evaluate([str(table)], str(out), draws=20, times="3,6", tau=9.0) == 0
    shown = capsys.readouterr().out
    assert "auc at 3" in shown
    assert "tau = 9 (stated)" in shown
    figures = {path.name for path in (out / "figures").iterdir()}
    assert {"risk_groups_test.png", "survival_calibration_test.png", "over_time_test.png"} <= figures
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (
        "Survival by risk group",
        "log-rank p",
        "at risk",
        "Uno",
        "Greenwood",
        "median risk of &#39;val&#39;",
    ):
        assert words in page, words
    assert "most probable class" not in page
    values = json.loads((out / "report.json").read_text())
    names = [figure["name"] for figure in values["key_figures"]["figures"]]
    assert names == ["C-index", "Uno's C", "integrated Brier score", "AUC(t)", "AUC(t)"]
    assert values["flow"]["splits"][1]["classes"].keys() == {"events", "censored"}
    locked = str(out / "locked.json")
    assert evaluate([str(table)], str(tmp_path / "again"), draws=20, locked=locked, figures=False, report=False) == 0
    curves = pd.read_csv(out / "survival_curves.csv")
    assert set(curves["group"]) == {"low risk", "high risk"}


def test_baselines_on_trivial_facts_and_on_covariates_are_judged_beside_a_model() -> None:
    task = Task.from_json({"kind": "survival", "classes": (), "times": TIMES, "unit": "days", "logits": 1})
    train, test = predictions(150, 1, "train"), table_as_read(predictions(80, 3, known=0.2))
    facts = {}
    for name, table in (("train", train), ("test", test)):
        age = outcomes(len(table), 1 if name == "train" else 3)[1]
        noise = np.random.default_rng(0).normal(size=len(table))
        facts[name] = table[["id", "time", "event"]].assign(**{"number bytes": noise, "covariate age": age})
    tables = baseline_tables(facts["train"], facts["test"].drop(columns=["time", "event"]), test, task)
    assert set(tables) == {"facts", "covariates"}
    found = judge(test, tables, task, Settings(draws=100))
    by_name = {one.reference: one for one in found.differences}
    assert {one.metric for one in found.differences} == {"c_index"}
    assert by_name["covariates"].reference_value > 0.65, "age is the log hazard itself"
    assert by_name["covariates"] in found.not_ahead
    assert "covariates alone" in alarm(found, 0.95)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"times": "0"}, "times and tau must be above 0"),
        ({"tau": -1.0}, "times and tau must be above 0"),
        ({"times": "soon"}, "--times"),
        ({"risk_cut": "mean"}, "risk_cut"),
        ({"thresholds": "youden"}, "for classes: these predictions are a survival"),
        ({"uncertainty": "risk"}, "no errors to leave out"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said: str, tmp_path: Path) -> None:
    table = written(tmp_path / "p.csv", predictions(30, 3))
    with pytest.raises(InputError, match=said):
        evaluate([str(table)], str(tmp_path / "out"), draws=5, figures=False, report=False, **options)


def test_options_of_survival_belong_to_survival(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": list("abcd"), "target": [1.0, 2.0, 3.0, 4.0], "prediction": [1.0, 2.5, 3.0, 4.2]})
    with pytest.raises(InputError, match="times, tau and risk_cut are for survival"):
        evaluate([str(written(tmp_path / "r.csv", table))], str(tmp_path / "out"), times="3", draws=5)


def test_figures_of_a_group_without_rows_and_of_many_times_are_drawn(tmp_path: Path) -> None:
    frame, task = read(tmp_path / "p.csv", predictions(40, 3, times=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)))
    part = evaluate_table(frame, task, Settings(draws=20, risk_cut="99")).parts[0]
    files = draw_part(part, task, tmp_path / "figures")
    assert [path.stem for path in files] == ["risk_groups", "survival_calibration", "over_time"]
