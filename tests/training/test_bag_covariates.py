"""Clinical covariates beside bags of features: learnt at the head, kept, asked for again, and compared with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medsoft.classifiers.slide import load_slide_classifier
from medsoft.data.datasets.bag_module import BagDataModule
from medsoft.data.features.open import open_bag
from medsoft.data.tables.problems import TableError
from tests.builders.bags import TINY_BAGS, write_slides

PLAIN = ["--report=false", "--ood_quantile=null"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """40 slides of 20 patients, whose age says nothing of the tiles and all of ``old``; one age is not known."""
    table = write_slides(tmp_path_factory.mktemp("slides"), n=40, per_patient=2)
    frame = pd.read_csv(table)
    number = frame["patient"].str[1:].astype(int)
    frame["old"] = np.where(number % 4 > 1, "old", "young")
    frame["age"] = np.where(number % 4 > 1, 75.0, 45.0) + number % 5
    frame["sex"] = number % 2
    frame.loc[frame["patient"] == "P03", "age"] = np.nan
    frame.to_csv(table, index=False)
    return table


def words(table: Path, out: Path, *more: str) -> list[str]:
    about = [f"--data.table={table}", "--data.label=old", "--data.classes=[young, old]", "--data.covariates=age,sex"]
    return [*TINY_BAGS, *about, f"--data.features={table.parent / 'features'}", f"--out={out}", *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory, slides) -> Path:
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "run"
    more = ["--trainer.max_epochs=6", "--model.lr=5e-2", "--monitor=loss", "--ood_quantile=null", "--report=true"]
    assert main(["fit", *words(slides, out, *more, "--shortcuts=true", "--data.group=patient")]) == 0
    return out


def predictions(run: Path) -> pd.Series:
    return pd.read_csv(run / "predictions.csv").set_index("id")["p_old"]


def test_a_covariate_is_learnt_and_kept_with_its_scale(run, slides):
    assert json.loads((run / "metrics.json").read_text())["test"]["overall"]["auroc"] > 0.9
    loaded = load_slide_classifier(run)
    assert (loaded.covariates, loaded.group) == (("age", "sex"), "patient")
    split = pd.read_csv(run / "split.csv").set_index("id")["split"]
    patients = pd.read_csv(slides).drop_duplicates("patient").set_index("patient")
    known = patients[patients.index.map(split) == "train"]["age"].dropna()
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["medsoft"]
    assert state["covariates"]["scale"][0] == pytest.approx([known.mean(), known.std(ddof=0)], rel=1e-5)

    # From the checkpoint alone, the same of a bag of two slides.
    id = split.index[split == "test"][0]
    row = patients.loc[id]
    parts = []
    for path in pd.read_csv(slides).query("patient == @id")["path"]:
        with open_bag(slides.parent / "features" / f"{Path(path).stem}.h5") as bag:
            parts.append(bag.read()[bag.good_N])
    values = torch.tensor([[row["age"], row["sex"]]], dtype=torch.float32)
    with torch.no_grad():
        logits = loaded.model(torch.from_numpy(np.concatenate(parts))[None], covariates_BN=values)
    assert float(loaded.probabilities(logits)[0, 1]) == pytest.approx(predictions(run)[id], rel=1e-4)
    with pytest.raises(ValueError, match="give covariates only to a model"):
        loaded.model(torch.zeros(1, 3, 6))


def test_the_report_says_what_the_slides_add_to_the_covariates(run):
    found = json.loads((run / "report.json").read_text(encoding="utf-8"))["shortcuts"]
    (beside,) = [one for one in found["differences"] if one["reference"] == "covariates"]
    assert not beside["ahead"]
    assert "interval" in beside["words"]
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "what the slide adds to the covariates alone is not shown to be more than nothing" in html
    assert (run / "shortcuts" / "predictions_covariates.csv").is_file()


def test_it_predicts_again_whole_in_pieces_and_from_a_bundle(run, medsoft, slides, tmp_path):
    expected = predictions(run)
    assert medsoft("predict", f"--checkpoint={run}", "--data.stream_above=0", "--out=pieces", *PLAIN[:1])[0] == 0
    assert predictions(Path("pieces"))[expected.index].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)
    code, _, err = medsoft("export", run, "--out", "bundle")
    assert code == 0, err
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}"]
    assert medsoft("predict", "--bundle=bundle", *where, "--out=again", *PLAIN[:1])[0] == 0
    assert predictions(Path("again"))[expected.index].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-6)
    files = pd.read_csv(slides)
    files["path"] = [str(slides.parent / "features" / f"{Path(path).stem}.h5") for path in files["path"]]
    files.to_csv("files.csv", index=False)
    more = ["--heatmap=false", "--report=false", "--figures=false", "--device=cpu", "--out=slides"]
    code, _, err = medsoft("slides", "predict", "files.csv", "--bundle=bundle", *more)
    assert code == 0, err
    assert predictions(Path("slides"))[expected.index].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)


def test_a_table_without_a_covariate_is_one_message(run, medsoft, slides, tmp_path):
    pd.read_csv(slides).drop(columns="age").to_csv(tmp_path / "t.csv", index=False)
    where = [f"--data.table={tmp_path / 't.csv'}", f"--data.features={slides.parent / 'features'}"]
    code, _, err = medsoft("predict", f"--checkpoint={run}", *where, "--out=x")
    assert (code, "no column 'age'" in err, "covariates" in err) == (2, True, True), err
    code, _, err = medsoft("predict", f"--checkpoint={run}", "--data.covariates=null", "--out=x")
    assert (code, "trained with the covariates age, sex; data.covariates names (none)" in err) == (2, True), err


def same_name(frame: pd.DataFrame) -> pd.DataFrame:
    """The first slides of two patients bear one name, and there is one feature file of it."""
    name = Path(frame["path"][0]).name
    return frame.assign(path=[f"x/{name}", frame["path"][1], f"y/{name}", *frame["path"][3:]])


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (
            lambda frame: frame.mask(frame["split"] == "test", frame.assign(age=np.nan)),
            [],
            "'age' is missing in all 8 rows of test",
        ),
        (
            lambda frame: frame.mask(frame["split"] == "val", frame.assign(age=np.nan)),
            [],
            "'age' is missing in all 8 rows of val",
        ),
        (
            lambda frame: frame.assign(age=np.where(frame["split"] == "train", np.nan, 50.0)),
            [],
            "in all 24 rows of train",
        ),
        (lambda frame: frame.assign(sex=1), [], "'sex' has no two different values"),
        (
            lambda frame: frame.assign(age=np.arange(40)),
            ["--data.group=patient"],
            "age differs among the slides of a patient",
        ),
        (
            lambda frame: frame.assign(split=np.where(np.arange(40) == 0, "val", frame["split"])),
            [],
            "patient in two splits",
        ),
        (same_name, [], "a file of its name is there, but the slide of row 3 has the same name"),
    ],
    ids=["test", "val", "train", "constant", "differs", "two splits", "one name"],
)
def test_what_cannot_be_learnt_from_is_said_before_training(medsoft, slides, tmp_path, change, more, said):
    frame = pd.read_csv(slides)
    number = np.arange(40)
    frame["split"] = np.where(number < 24, "train", np.where(number < 32, "val", "test"))
    change(frame).to_csv(tmp_path / "t.csv", index=False)
    where = f"--data.features={slides.parent / 'features'}"
    code, _, err = medsoft("fit", *words(tmp_path / "t.csv", tmp_path / "run", *more), where)
    assert (code, said in err) == (2, True), err
    assert not (tmp_path / "run").exists()


def test_a_patient_whom_the_clinical_table_lacks_has_no_label(slides, tmp_path):
    frame = pd.read_csv(slides)
    patients = frame.drop_duplicates("patient")[["patient", "age", "old"]]
    patients[patients["patient"] != "P04"].to_excel(tmp_path / "clinical.xlsx", index=False)
    frame[["path", "patient"]].to_csv(tmp_path / "slides.csv", index=False)

    def data(**more: object) -> BagDataModule:
        about = {"features": str(slides.parent / "features"), "patient": "patient", "label": "old", "positive": "old"}
        clinical = str(tmp_path / "clinical.xlsx")
        return BagDataModule(str(tmp_path / "slides.csv"), clinical=clinical, covariates="age", **about, **more)

    with pytest.raises(TableError, match=r"(?s)missing label \(2\).*row 9.*row 10"):
        data()
    found = data(on_error="skip")
    assert any("2 rows name a patient that the table of patients lacks: 9, 10" in note for note in found.notes)
    assert len(found.errors) == 2
    assert "P04" not in set(found.samples.frame["patient"])


def test_a_fold_without_a_covariate_is_said_before_any_fold_is_trained(medsoft, slides, tmp_path):
    frame = pd.read_csv(slides)
    frame["fold"] = np.arange(40) // 2 % 3
    frame.loc[frame["fold"] == 2, "age"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    more = [f"--data.features={slides.parent / 'features'}", "--fold_column=fold"]
    code, _, err = medsoft("crossval", *words(tmp_path / "t.csv", tmp_path / "cv", *PLAIN), *more)
    assert (code, "'age' is missing in all" in err) == (2, True), err
    assert not list(tmp_path.glob("cv/fold-*"))


def test_folds_and_their_ensemble_know_them(medsoft, slides, tmp_path):
    out = tmp_path / "cv"
    code, _, err = medsoft("crossval", *words(slides, out, "--trainer.max_epochs=1", *PLAIN), "--folds=2")
    assert code == 0, err
    scales = [
        torch.load(out / f"fold-{k}" / "checkpoints" / "best.ckpt", weights_only=True)["medsoft"]["covariates"]["scale"]
        for k in (0, 1)
    ]
    assert scales[0] != scales[1]
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}"]
    code, said, err = medsoft("predict", f"--checkpoint={out}", *where, *PLAIN[:1], "--shortcuts=false", "--out=both")
    assert code == 0, err
    assert "2 models" in said
    assert len(pd.read_csv("both/predictions.csv")) == 40
    assert len(pd.read_csv("both/predictions_patients.csv")) == 20
