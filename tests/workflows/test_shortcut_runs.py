"""Shortcut baselines of runs: kept, found again by later runs, said at the top, and switched off."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.images import TINY
from tests.builders.volumes import TINY_VOLUME, write_volumes

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("brief_reports")]

ON = ["--shortcuts=true", "--trainer.max_epochs=1", "--ood_quantile=null", "--examples=0"]


def report(run: Path) -> dict:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))["shortcuts"]


@pytest.fixture(scope="module")
def with_age(table, tmp_path_factory) -> Path:
    """The tiny table with a covariate that tells the class."""
    rows = pd.read_csv(table)
    rows["age"] = 40 + 20 * rows["grade"] + np.arange(len(rows)) % 7
    rows["path"] = [str(table.parent / path) for path in rows["path"]]
    path = tmp_path_factory.mktemp("age") / "age.csv"
    rows.to_csv(path, index=False)
    return path


def words(table: Path) -> list[str]:
    return [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, *ON]


def test_a_run_keeps_facts_and_says_at_the_top_that_brightness_tells_the_class(medsoft, with_age, tmp_path):
    run = tmp_path / "run"
    code, out, err = medsoft("fit", *words(with_age), "--data.covariates=age", "--report=true", f"--out={run}")
    assert code == 0, err
    assert "WARNING: This model is not shown to be ahead of trivial facts of the image (test)" in out
    found = report(run)
    assert {one["reference"]: one["ahead"] for one in found["differences"]} == {"facts": False, "covariates": False}
    assert [row["name"] for row in found["rows"]] == ["model", "facts", "covariates"]
    assert "mean of red" in found["facts"]
    html = (run / "report.html").read_text(encoding="utf-8")
    assert html.index("not shown to be ahead") < html.index('id="flow"') < html.index('id="shortcuts"')
    facts = pd.read_csv(run / "shortcuts" / "facts.csv")
    assert sorted(facts["split"].unique()) == ["test", "train", "val"]
    baseline = pd.read_csv(run / "shortcuts" / "predictions_facts.csv")
    model = pd.read_csv(run / "predictions.csv")
    assert baseline["id"].tolist() == model["id"].tolist()

    # A later run learns from the same training part: its baseline says the same of the same rows.
    again = tmp_path / "again"
    code, out, err = medsoft("test", f"--checkpoint={run}", "--report=true", f"--out={again}")
    assert code == 0, err
    of_test = baseline[baseline["split"] == "test"].set_index("id")["p_light"]
    later = pd.read_csv(again / "shortcuts" / "predictions_facts.csv").set_index("id")["p_light"]
    pd.testing.assert_series_equal(of_test, later)
    assert "not shown to be ahead" in out

    # So does an evaluation of the run's folder.
    code, out, err = medsoft("evaluate", run, "--figures=false", "--draws=100", f"--out={tmp_path / 'evaluation'}")
    assert code == 0, err
    assert "not shown to be ahead" in out
    assert [row["name"] for row in report(tmp_path / "evaluation")["rows"]] == ["model", "facts", "covariates"]


def test_a_cross_validation_compares_over_its_folds_and_its_models_predict_with_their_baselines(
    medsoft, table, tmp_path
):
    out = tmp_path / "cv"
    code, said, err = medsoft("crossval", *words(table), "--report=false", "--folds=2", f"--out={out}")
    assert code == 0, err
    assert said.rpartition("\nResults: ")[0].endswith("such a shortcut")  # of the whole, after that of each fold
    assert report(out)["rows"][1]["figures"][0]["name"] == "AUROC"
    new = tmp_path / "new"
    code, said, err = medsoft(
        "predict", f"--checkpoint={out}", f"--data.table={table}", "--report=false", f"--out={new}"
    )
    assert code == 0, err
    parts = [pd.read_csv(out / f"fold-{k}" / "shortcuts" / "facts.csv") for k in (0, 1)]
    assert len(pd.read_csv(new / "shortcuts" / "predictions_facts.csv")) == 40 == sum(len(p) for p in parts) // 2


def test_without_facts_of_the_training_the_report_says_that_there_is_no_baseline(medsoft, table, tmp_path):
    run, later = tmp_path / "run", tmp_path / "later"
    assert medsoft("fit", *words(table), "--shortcuts=false", "--report=false", f"--out={run}")[0] == 0
    assert not (run / "shortcuts").exists()
    code, _, err = medsoft("test", f"--checkpoint={run}", "--shortcuts=true", "--report=true", f"--out={later}")
    assert code == 0, err
    assert "keeps no facts" in report(later)["notes"][0]


def test_pictures_that_nobody_checked_are_looked_at_for_their_facts(medsoft, table, tmp_path):
    run = tmp_path / "run"
    unread = ["--report=false", "--data.check_files=false", "--data.cache=none", "--data.num_workers=0"]
    code, _, err = medsoft("fit", *words(table), *unread, f"--out={run}")
    assert code == 0, err
    assert pd.read_csv(run / "shortcuts" / "facts.csv")["number mean of red"].notna().all()


def test_volumes_have_facts_of_their_values_and_spacing(medsoft, tmp_path):
    table, run = write_volumes(tmp_path, 16), tmp_path / "run"
    words = [
        *TINY_VOLUME,
        "--data.label=label",
        "--data.classes=[small, large]",
        "--data.patient=patient",
        *ON,
        "--report=false",
    ]
    code, _, err = medsoft("fit", "--config=volume", f"--data.table={table}", *words, f"--out={run}")
    assert code == 0, err
    facts = pd.read_csv(run / "shortcuts" / "facts.csv")
    assert facts["number mean"].notna().all()
    assert facts["number bytes of the file"].notna().all()


def test_bags_have_facts_of_their_tiles(medsoft, tmp_path):
    table, run = write_slides(tmp_path), tmp_path / "run"
    words = [
        f"--data.table={table}",
        f"--data.features={tmp_path / 'features'}",
        "--data.label=label",
        *ON,
        "--report=false",
    ]
    code, _, err = medsoft("fit", *TINY_BAGS, *words, f"--out={run}")
    assert code == 0, err
    assert pd.read_csv(run / "shortcuts" / "facts.csv")["number tiles"].notna().all()
