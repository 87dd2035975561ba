"""``--logger mlflow | wandb``: parent and child runs, what is sent of them, and that nothing names a patient."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from medsoft.cli.main import main
from medsoft.errors import InputError
from medsoft.planning.candidates import Candidate, FeatureSet, configuration_of
from medsoft.storage.hashing import sha256
from medsoft.workflows.tracking.loggers import MlflowLog, open_log, parent_of, remember, require_tracker
from tests.builders.images import TINY, write_images

pytestmark = [pytest.mark.usefixtures("brief_reports")]

NEEDLE = "meier1948"
"""A patient, in whose name folders, tables, images and rows are called."""
QUICK = ["--config=fundus", "--model.encoder=none", *TINY, "--trainer.max_epochs=1", "--data.positive=light"]
QUICK += ["--data.patient=patient", "--figures=true", "--report=true", "--examples=2"]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(NEEDLE)
    found = write_images(folder, 24)
    frame = pd.read_csv(found)
    frame["patient"] = [f"{NEEDLE}-{i}" for i in range(len(frame))]
    for path in frame["path"]:
        (folder / path).rename(folder / "images" / f"{NEEDLE}-{Path(path).name}")
    frame["path"] = [f"images/{NEEDLE}-{Path(path).name}" for path in frame["path"]]
    frame.to_csv(folder / f"{NEEDLE}.csv", index=False)
    return folder / f"{NEEDLE}.csv"


@pytest.fixture(scope="module")
def place(table, tmp_path_factory):
    """A folder with a fit and a cross-validation in MLflow, and a fit in Weights & Biases."""
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    place = tmp_path_factory.mktemp("place")
    words = [*QUICK, f"--data.table={table}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_DIR"):
            patch.delenv(name, raising=False)
        assert main(["fit", *words, "--logger=mlflow", "--out=one", "--name=eyes"]) == 0
        folds = ["--folds=2", "--figures=false", "--report=false"]
        assert main(["crossval", *words, *folds, "--logger=mlflow", "--out=folds", "--name=eyes"]) == 0
        assert main(["fit", *words, "--logger=wandb", "--out=two", "--name=eyes"]) == 0
    return place


def runs_in(place: Path) -> dict[str, tuple[Path, dict]]:
    """By name, the folder and the facts of each run in ``mlruns``."""
    found = {}
    for file in place.glob("mlruns/*/*/meta.yaml"):
        facts = yaml.safe_load(file.read_text())
        tags = {tag.name: tag.read_text() for tag in (file.parent / "tags").iterdir()}
        found[facts["run_name"]] = (file.parent, facts | tags)
    return found


def test_folds_are_parts_of_their_cross_validation(place):
    runs = runs_in(place)
    assert set(runs) == {"one", "folds", "fold-0", "fold-1"}
    parent = runs["folds"][1]
    assert "mlflow.parentRunId" not in parent
    assert "mlflow.parentRunId" not in runs["one"][1]
    assert {runs[f"fold-{k}"][1]["mlflow.parentRunId"] for k in (0, 1)} == {parent["run_id"]}
    assert {about["status"] for _, about in runs.values()} == {3}  # finished


def test_parameters_metrics_figures_report_and_bundle_are_there(place, table):
    folder, _ = runs_in(place)["one"]
    assert (folder / "params" / "trainer.max_epochs").read_text() == "1"
    assert (folder / "params" / "table_sha256").read_text() == sha256(table)
    assert not (folder / "params" / "data.table").exists()
    metrics = json.loads((place / "one" / "metrics.json").read_text())
    assert float((folder / "metrics" / "test.overall.auroc").read_text().split()[1]) == pytest.approx(
        metrics["test"]["overall"]["auroc"]
    )
    assert (folder / "metrics" / "val_loss").is_file()
    sent = {str(file.relative_to(folder / "artifacts")) for file in (folder / "artifacts").rglob("*") if file.is_file()}
    wanted = {"config.yaml", "metrics.csv", "metrics.json", "versions.json", "report.html", "report.json"}
    assert wanted | {"figures/learning_curves.png", "bundle/README.md", "bundle/model.safetensors"} <= sent
    assert not (place / "one" / "tracking").exists()
    assert not (place / "one" / "tensorboard").exists()
    of_folds = runs_in(place)["folds"][0] / "artifacts"
    assert (of_folds / "folds.csv").is_file()
    assert not (runs_in(place)["fold-0"][0] / "artifacts" / "bundle").exists()


def test_weights_and_biases_has_the_same_offline(place):
    (run,) = place.glob("wandb/offline-run-*")
    sent = {file.name for file in (run / "files").rglob("*") if file.is_file()}
    assert {"config.yaml", "metrics.json", "report.html", "learning_curves.png", "model.safetensors"} <= sent
    assert b"trainer/global_step" in next(run.glob("*.wandb")).read_bytes()


@pytest.mark.parametrize("store", ["mlruns", "wandb"])
def test_nothing_names_a_patient_a_file_or_a_table(place, store):
    assert NEEDLE in (place / "one" / "predictions.csv").read_text()  # it is there to be found
    assert NEEDLE in (place / "one" / "config.yaml").read_text()
    files = [file for file in (place / store).rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert NEEDLE not in str(file.relative_to(place)).lower()
        assert NEEDLE.encode() not in file.read_bytes().lower(), file
        assert "confident_mistakes" not in file.name
    page = next(file for file in files if file.name == "report.html").read_text()
    assert "data:image" not in page
    assert "data:image" in (place / "one" / "report.html").read_text()  # pictures of samples


def test_the_trainings_of_auto_stand_under_its_experiment_and_are_called_by_their_place(tmp_path):
    log = SimpleNamespace(experiment_called="eyes", id="above")
    fold = tmp_path / "auto" / "outer" / "fold-0" / "candidates" / "vit" / "fold-1"
    fold.mkdir(parents=True)
    assert parent_of(fold, "mlflow") is None
    remember(tmp_path / "auto", "mlflow", log)
    assert parent_of(fold, "wandb") is None
    found = parent_of(fold, "mlflow")
    assert (found.run, found.experiment, found.folder) == ("above", "eyes", tmp_path / "auto")
    candidate = Candidate("tokens", "", "", "tokens", features=FeatureSet("net", 224, tokens=True))
    given = {"data": {}, "name": "eyes", "logger": "mlflow"}
    assert configuration_of(candidate, given, {}, frozenset(), None)["logger"] == "mlflow"


def test_without_the_extra_it_is_one_message_before_any_work(monkeypatch, table, tmp_path, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("mlflow", "wandb") else found(name))
    for logger in ("mlflow", "wandb"):
        with pytest.raises(InputError, match=r"pip install 'medsoft\[loggers\]'"):
            require_tracker(logger)
    require_tracker("csv")
    assert main(["fit", *QUICK, f"--data.table={table}", "--logger=mlflow", f"--out={tmp_path / 'run'}"]) == 2
    assert "--logger mlflow: mlflow is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_store_that_cannot_be_opened_is_one_message_and_one_that_fails_ends_no_training(
    monkeypatch, tmp_path, capsys
):
    pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file").as_uri())
    with pytest.raises(InputError, match=r"--logger mlflow: .*cannot be used"):
        open_log("mlflow", "eyes", tmp_path / "run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    log = MlflowLog("eyes", "run")
    log._run_id = "gone"
    log.log_metrics({"loss": 1.0}, 0)
    log.log_metrics({"loss": 1.0}, 1)
    said = capsys.readouterr().err
    assert said.count("WARNING: --logger mlflow fails, and the run goes on without it") == 1


def test_timm_does_not_bring_a_tracker_along():
    """It imports wandb where there is one; that takes seconds, and looks for a network."""
    kept = sys.modules.pop("wandb", None)
    try:
        with pytest.raises(ImportError, match="timm does without"):
            exec("import wandb", {"__name__": "timm.utils.summary"})
    finally:
        if kept is not None:
            sys.modules["wandb"] = kept
