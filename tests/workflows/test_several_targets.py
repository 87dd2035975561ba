"""Several targets of one table of bags, from the command line to the report of each, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from medsoft.evaluation.tables.predictions import read_predictions
from tests.builders.bags import TINY_BAGS, write_slides

pytestmark = pytest.mark.long

TARGETS = "{state: {task: binary, positive: ill}, stage: ordinal, age: {label: years, task: regression, weight: 0.5}}"
NAMES = ("state", "stage", "age")
TINY = [option for option in TINY_BAGS if not option.startswith("--data.classes")]


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """24 slides, of which every fourth lacks one of its targets."""
    table = write_slides(tmp_path_factory.mktemp("slides"))
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    ill = rows.pop("label")
    number = pd.Series(range(len(rows)))
    rows["state"] = ill.where(number % 4 != 0, "")
    rows["stage"] = (1 + number // 3 % 2).astype(str).where(number % 4 != 1, "")
    rows["years"] = (50 + 10 * (ill == "ill") + number % 7).astype(str).where(number % 4 != 2, "")
    rows["split"] = ["test" if i % 8 in (3, 6) else "val" if i % 3 == 1 else "train" for i in number]
    rows.drop(columns="grade").to_csv(table, index=False)
    return table


@pytest.fixture(scope="module")
def words(slides) -> list[str]:
    return [
        f"--data.table={slides}",
        f"--data.features={slides.parent / 'features'}",
        f"--data.targets={TARGETS}",
        *TINY,
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory, words) -> Path:
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", *words, "--trainer.max_epochs=1", "--report=true", "--shortcuts=true", f"--out={out}"]) == 0
    return out


def test_a_run_has_one_table_and_what_there_is_of_each_target_alone(run):
    frame, task = read_predictions(run / "predictions.csv")
    for one in task.parts:
        own, single = read_predictions(run / "targets" / one.name / "predictions.csv")
        assert single == one.task
        pd.testing.assert_frame_equal(own, task.frame_of(one.name, frame)[list(own)])
        report = json.loads((run / "targets" / one.name / "report.json").read_text(encoding="utf-8"))
        assert report["title"] == f"Evaluation of histo: {one.name}"
        assert report["flow"]
    assert {file.parent.parent.name for file in run.rglob("locked.json")} == {"state", "stage"}
    log = pd.read_csv(run / "metrics.csv")
    assert {"val_skill", "val_state.auroc", "val_stage.kappa", "val_age.mae"} <= set(log)


def test_the_page_above_says_what_each_came_to_and_leads_to_its_report(run):
    page, values = ((run / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "json"))
    for name in NAMES:
        assert f'<a href="targets/{name}/report.html">' in page
        assert (run / "targets" / name / "report.html").is_file()
    assert "1 for state, 1 for stage, 0.5 for age" in page
    found = {one["name"]: one["key_figures"]["figures"][0]["name"] for one in json.loads(values)["targets"]}
    assert found == {"state": "AUROC", "stage": "AUROC", "age": "mean absolute error"}


def test_the_run_is_repeated_from_its_own_configuration(run):
    said = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]
    assert said["task"] is None
    assert said["targets"]["state"] == {"task": "binary", "positive": "ill", "classes": ["healthy", "ill"]}
    assert said["targets"]["age"] == {"label": "years", "task": "regression", "weight": 0.5, "classes": None}


def test_a_run_goes_on(medsoft, run, tmp_path):
    out = shutil.copytree(run, tmp_path / "run")
    code, said, err = medsoft("fit", "--resume", out, "--trainer.max_epochs=2", "--report=false", "--shortcuts=false")
    assert (code, err) == (0, "")
    told = next(line for line in said.splitlines() if line.startswith("epoch 2/2  ")).split()[2::2]
    assert set(told) - {"train_loss"} == {"val_loss", "val_skill", "val_state.auroc", "val_stage.kappa", "val_age.mae"}
    assert len(pd.read_csv(out / "metrics.csv")) == 2


def test_predictions_of_a_table_without_labels_are_the_same(medsoft, run, tmp_path, slides):
    rows = pd.read_csv(slides, dtype=str, keep_default_na=False)
    rows.drop(columns=["state", "stage", "years", "split"]).to_csv(slides.with_name("new.csv"), index=False)
    new = slides.with_name("new.csv")
    code, _, err = medsoft("predict", "--checkpoint", run, f"--data.table={new}", f"--out={tmp_path / 'p'}")
    assert (code, err) == (0, "")
    found, task = read_predictions(tmp_path / "p" / "predictions.csv")
    before, _ = read_predictions(run / "predictions.csv")
    same = found.set_index("id").loc[before["id"], task.p_columns]
    pd.testing.assert_frame_equal(same, before.set_index("id")[task.p_columns], rtol=1e-5)
    assert not task.known(found).any()


def test_evaluate_takes_all_targets_or_one(medsoft, run, tmp_path):
    code, out, err = medsoft("evaluate", run, "--draws=50", "--figures=false", f"--out={tmp_path / 'all'}")
    assert (code, err) == (0, "")
    assert all(f"\n{name}:\n" in f"\n{out}" for name in NAMES)
    assert {file.parent.name for file in tmp_path.rglob("evaluation.json")} == set(NAMES)
    one = tmp_path / "all" / "targets" / "state"
    code, _, err = medsoft(
        "evaluate", one, "--thresholds=0.3", "--draws=50", "--figures=false", f"--out={tmp_path / '1'}"
    )
    assert (code, err) == (0, "")
    code, _, err = medsoft("evaluate", run, "--thresholds=0.3", f"--out={tmp_path / '2'}")
    assert code == 2
    assert "are of one target" in err
    assert "targets/state" in err


def test_compare_takes_one_target(medsoft, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    code, _, err = medsoft("compare", run, other)
    assert code == 2
    assert f"{run}/targets/state" in err
    code, out, err = medsoft("compare", run / "targets" / "age", other / "targets" / "age", "--draws=50")
    assert (code, err) == (0, "")
    assert out.startswith("mae, split test")


def test_a_bundle_decides_for_each_target_as_its_run_has_locked(medsoft, run, tmp_path, slides):
    bundle = tmp_path / "bundle"
    assert medsoft("export", run, "--out", bundle)[0] == 0
    assert {file.parent.name for file in bundle.rglob("locked.json")} == {"state", "stage"}
    more = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}", f"--out={tmp_path / 'p'}"]
    code, _, err = medsoft("predict", "--bundle", bundle, *more)
    assert (code, err) == (0, "")
    decisions = pd.read_csv(tmp_path / "p" / "decisions.csv")
    assert "stage.decision" in decisions
    (youden,) = (name for name in decisions if name.startswith("state.ill, youden"))
    threshold = float(youden.rpartition(" ")[2])
    p = read_predictions(tmp_path / "p" / "predictions.csv")[0]["state.p_ill"]
    assert (decisions[youden] == (p >= threshold)).mean() > 0.95  # the name rounds the threshold
    code, _, err = medsoft("export", run, "--out", tmp_path / "b2", "--locked", "locked.json")
    assert code == 2
    assert "--locked is of one target" in err


def test_folds_are_evaluated_by_target_and_predict_together(medsoft, tmp_path, words, slides):
    rows = pd.read_csv(slides, dtype=str, keep_default_na=False)
    table = slides.with_name("folds.csv")
    rows.drop(columns="split").to_csv(table, index=False)
    folds = [
        "--folds=2",
        "--data.val_fraction=0.4",
        "--trainer.max_epochs=1",
        f"--data.table={table}",
        f"--out={tmp_path / 'cv'}",
    ]
    code, _, err = medsoft("crossval", *words, *folds)
    assert (code, err) == (0, "")
    table_of_folds = pd.read_csv(tmp_path / "cv" / "folds.csv")
    assert {"state.auroc", "stage.kappa", "age.mae"} <= set(table_of_folds)
    summary = json.loads((tmp_path / "cv" / "metrics.json").read_text(encoding="utf-8"))
    assert {name: one["primary"]["metric"] for name, one in summary["targets"].items()} == {
        "state": "auroc",
        "stage": "kappa",
        "age": "mae",
    }
    assert len(read_predictions(tmp_path / "cv" / "targets" / "age" / "predictions.csv")[0]) == 24
    assert (tmp_path / "cv" / "report.html").is_file()
    code, _, err = medsoft(
        "predict", "--checkpoint", tmp_path / "cv", f"--data.table={slides}", f"--out={tmp_path / 'e'}"
    )
    assert (code, err) == (0, "")
    frame, _ = read_predictions(tmp_path / "e" / "predictions.csv")
    assert {"state.spread_ill", "age.spread", "members"} <= set(frame)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data.label=state"], "leave out data.label"),
        (["--data.task=binary", "--data.positive=ill"], "leave out data.task, data.positive"),
        (["--monitor=state.mae"], "--monitor state.mae: no metric of a multitask task"),
        (["--data.balanced_sampling=true"], "several targets cannot all be balanced"),
        (["--model.aggregator_args.on_probe=true"], "on_probe begins with a model of one target"),
        (["--config=probe"], "--config probe is solved at once, for one target"),
        (["--model.survival=cox"], "survival and intervals belong to a survival task"),
    ],
)
def test_what_several_targets_cannot_have_is_refused_before_work_starts(medsoft, tmp_path, words, more, said):
    if more == ["--config=probe"]:  # none of the options of training in steps
        words = [*more, *(word for word in words if word.startswith(("--data", "--figures")))]
        more = []
    code, _, err = medsoft("fit", *words, *more, f"--out={tmp_path / 'run'}")
    assert code == 2
    assert said in err
    assert not (tmp_path / "run").exists()
