"""``slides predict`` with patients: their slides pooled as in training, covariates of a table, and tables by level."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch

from medsoft.classifiers.slide import load_slide_classifier
from medsoft.data.features.open import open_bag
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.specs import Covariates
from medsoft.task import Task
from tests.builders.bags import write_bag, write_table
from tests.builders.slides import write_checkpoint

AGE_AND_SEX = Covariates(("age", "sex"), ((60.0, 10.0), (0.5, 0.5)))
PLAIN = ["--device", "cpu", "--figures=false", "--report=false"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Five slides of three patients, and models: on slides, and on patients with covariates."""
    folder = tmp_path_factory.mktemp("patients")
    rng = np.random.default_rng(0)
    for i in range(5):
        write_bag(
            folder / f"s{i}.h5", rng.normal(size=(4 + i, 6)).astype(np.float32), unreadable=(1,) if i == 2 else ()
        )
    write_checkpoint(folder / "slides.ckpt", folder / "s0.h5")
    for number, (name, covariates) in enumerate((("patients", AGE_AND_SEX), ("other", None))):
        write_checkpoint(
            folder / f"{name}.ckpt", folder / "s0.h5", covariates=covariates, group="patient", weight=number + 0.5
        )
    return folder


ROWS = [
    {"path": f"s{i}.h5", "patient": patient, "exam": exam, "age": age, "sex": sex, "label": label, "split": split}
    for i, (patient, exam, age, sex, label, split) in enumerate(
        [
            ("A", "A1", "70", "1", "tumour", "test"),
            ("B", "B1", "", "0", "normal", "val"),
            ("A", "A2", "70", "1", "tumour", "test"),
            ("A", "A2", "", "1", "tumour", "test"),
            ("C", "C1", "41.5", "", "normal", "test"),
        ]
    )
]


@pytest.fixture
def predict(made, medsoft, tmp_path):
    """``slides predict`` of a table of these slides; gives code, output, error and the folder."""

    def run(rows=ROWS, *more, checkpoint="patients", maps=False):
        table = write_table(tmp_path / "slides.csv", rows)
        words = ["slides", "predict", table, "--root", made, "--checkpoint", made / f"{checkpoint}.ckpt", *PLAIN]
        words += [] if maps else ["--heatmap=false"]
        return *medsoft(*words, "--out", tmp_path / "out", *more), tmp_path / "out"

    return run


def expected(made: Path, names: list[str], covariates: list[float]) -> float:
    """The model on the joined tiles."""
    loaded = load_slide_classifier(made / "patients.ckpt")
    parts = []
    for name in names:
        with open_bag(made / name) as bag:
            parts.append(bag.read()[bag.good_N])
    with torch.no_grad():
        logits = loaded.model(torch.from_numpy(np.concatenate(parts))[None], covariates_BN=torch.tensor([covariates]))
    return float(loaded.probabilities(logits)[0, 1])


def changed(row: int, **cells: str) -> list[dict[str, object]]:
    return [{**one, **cells} if index == row else dict(one) for index, one in enumerate(ROWS)]


def test_the_slides_of_a_patient_are_one_bag_as_in_training(made, predict):
    code, said, err, out = predict(ROWS, "--label=label", "--classes", "tumour", maps=True)
    assert code == 0, err
    assert "5 slides of 3 patients: one bag each, as trained" in said
    assert "age is not known of 1 of 3 patients" in said
    assert "3 of 3 patients predicted" in said
    frame, _ = read_predictions(out / "predictions.csv")
    assert frame["id"].tolist() == frame["patient"].tolist() == ["A", "B", "C"]
    assert frame["target"].tolist() == ["tumour", "normal", "normal"]
    assert frame["split"].tolist() == ["test", "val", "test"]
    assert not (out / "predictions_patients.csv").exists()  # they are in predictions.csv
    p = frame.set_index("id")["p_tumour"]
    assert p["A"] == pytest.approx(expected(made, ["s0.h5", "s2.h5", "s3.h5"], [70.0, 1.0]), rel=1e-5)
    assert p["B"] == pytest.approx(expected(made, ["s1.h5"], [math.nan, 0.0]), rel=1e-5)
    assert p["C"] == pytest.approx(expected(made, ["s4.h5"], [41.5, math.nan]), rel=1e-5)

    # A heatmap is of a slide; what the patient's other slides and the covariates add is said beside it.
    for name, patient in (("s0", "A"), ("s2", "A"), ("s1", "B")):
        about = json.loads((out / "heatmaps" / "tumour" / f"{name}.json").read_text())
        assert about["probability"] == pytest.approx(p[patient])
        assert about["logit"] == pytest.approx(math.log(p[patient] / (1 - p[patient])), rel=1e-4)
        assert about["sum_of_contributions"] + sum(about["parts"].values()) == pytest.approx(about["logit"], rel=1e-4)
        assert ("other slides" in about["parts"]) == (patient == "A")
        assert about["parts"]["covariates"] != 0


def test_a_heatmap_verb_draws_what_predict_draws(made, predict, medsoft, tmp_path):
    (tmp_path / "slides.csv").unlink(missing_ok=True)
    assert predict(ROWS, "--classes", "tumour", maps=True)[0] == 0
    words = ["slides", "heatmap", tmp_path / "slides.csv", "--root", made, "--checkpoint", made / "patients.ckpt"]
    assert medsoft(*words, "--classes", "tumour", "--device", "cpu", "--out", tmp_path / "again")[0] == 0
    first, second = (
        json.loads((tmp_path / name / "heatmaps" / "tumour" / "s0.json").read_text()) for name in ("out", "again")
    )
    assert first["parts"] == pytest.approx(second["parts"])


def test_without_a_column_of_patients_it_says_that_it_does_not_pool(predict):
    rows = [{name: value for name, value in row.items() if name != "patient"} for row in ROWS]
    code, said, err, out = predict(rows, checkpoint="other")
    assert code == 0, err
    assert "WARNING: the model was trained on bags of all slides of a patient" in said
    assert "nothing says here whose each slide is" in said
    assert len(read_predictions(out / "predictions.csv")[0]) == 5


def test_each_slide_by_itself_where_that_is_asked_for(predict):
    code, said, err, out = predict(ROWS, "--group=slide", checkpoint="other")
    assert code == 0, err
    assert "here each slide is predicted by itself (--group slide)" in said
    assert len(read_predictions(out / "predictions.csv")[0]) == 5
    assert len(pd.read_csv(out / "predictions_patients.csv")) == 3


def test_predictions_by_slide_specimen_and_patient(predict):
    code, said, err, out = predict(ROWS, "--label=label", checkpoint="slides")
    assert code == 0, err
    slides, specimens, patients = (pd.read_csv(out / f"predictions{name}.csv") for name in ("", "_exams", "_patients"))
    assert [len(one) for one in (slides, specimens, patients)] == [5, 4, 3]
    assert patients["id"].tolist() == ["A", "B", "C"]
    assert patients["rows"].tolist() == [3, 1, 1]
    logit = np.log(slides["p_tumour"] / slides["p_normal"])
    of_a = 1 / (1 + np.exp(-logit[slides["patient"] == "A"].mean()))
    assert patients["p_tumour"][0] == pytest.approx(of_a)
    assert json.loads((out / "metrics_patients.json").read_text())["test"]["n"] == 2
    assert "Metrics by patient (mean of logits)" in said
    # Another call removes what it does not write.
    assert predict(ROWS, "--label=label", "--exams=none", "--patients=max", checkpoint="slides")[0] == 0
    assert not (out / "predictions_exams.csv").exists()
    assert pd.read_csv(out / "predictions_patients.csv")["p_tumour"][0] == pytest.approx(
        slides.loc[slides["patient"] == "A", "p_tumour"].max()
    )


def test_a_slide_that_fails_leaves_the_others_of_its_patient(made, predict, tmp_path):
    rows = [
        *changed(0),
        {**ROWS[0], "path": str(tmp_path / "broken.h5")},
        {**ROWS[1], "path": str(tmp_path / "d.h5"), "patient": "D"},
    ]
    for name in ("broken.h5", "d.h5"):
        (tmp_path / name).write_bytes((made / "s0.h5").read_bytes()[:1000])
    code, said, _, out = predict(rows)
    assert code == 3
    assert "3 of 4 patients predicted" in said
    with (out / "errors.csv").open(newline="") as file:
        assert sorted(row["id"] for row in csv.DictReader(file)) == ["broken", "d"]
    warnings = pd.read_csv(out / "slides.csv").set_index("id")["warnings"]
    assert "predicted without 1 slide of the patient" in warnings["s0"]
    p = read_predictions(out / "predictions.csv")[0].set_index("id")["p_tumour"]
    assert p["A"] == pytest.approx(expected(made, ["s0.h5", "s2.h5", "s3.h5"], [70.0, 1.0]), rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        (
            [{name.replace("age", "Age"): value for name, value in row.items()} for row in ROWS],
            [],
            "trained with the covariates age, sex; the table has no column 'age'",
        ),
        (changed(0, age="old"), [], "age is 'old'"),
        (changed(0, age="unknown"), [], "leave the cell empty where nothing is known"),
        (changed(2, age="71"), [], "age differs among the slides of a patient"),
        (changed(2, split="val"), [], "a patient is in 'test' and 'val'"),
        (changed(2, patient=""), [], "the patient is empty"),
        (changed(2, label="normal"), ["--label=label"], "a patient with slides of different labels"),
        (ROWS, ["--patient=case"], "no column 'case'"),
        (ROWS, ["--clinical=none.csv"], "no such table"),
        (ROWS, ["--clinical=none.csv", "--patient=case"], "--clinical is joined to the slide table by --patient"),
    ],
)
def test_what_is_wrong_with_the_table_is_said_before_work_starts(predict, rows, more, said):
    code, _, err, out = predict(rows, *more)
    assert (code, said in err) == (2, True), err
    assert not (out / "predictions.csv").exists()


def test_covariates_need_a_table(made, medsoft, tmp_path):
    words = ["slides", "predict", made / "s0.h5", "--checkpoint", made / "patients.ckpt", "--out", tmp_path / "out"]
    code, _, err = medsoft(*words, *PLAIN)
    assert (code, "name the slides by a table with these columns" in err) == (2, True), err


def test_a_table_of_patients_brings_covariates_and_labels(made, predict, tmp_path):
    """As STAMP has them: slides and patients apart; here the patients in Excel."""
    rows = [{"FILENAME": row["path"], "PATIENT": row["patient"]} for row in ROWS]
    book = openpyxl.Workbook()
    for line in (["PATIENT", "age", "sex", "isMSIH"], ["A", 70, 1, "tumour"], ["C", 41.5, None, "normal"]):
        book.active.append(line)
    book.save(tmp_path / "clinical.xlsx")
    more = ["--path=FILENAME", "--patient=PATIENT", f"--clinical={tmp_path / 'clinical.xlsx'}", "--label=isMSIH"]
    code, said, err, out = predict(rows, *more)
    assert code == 0, err
    frame, _ = read_predictions(out / "predictions.csv")
    assert frame["target"].tolist() == ["tumour", "", "normal"]
    assert "1 row names a patient that the table of patients lacks" in said
    p = frame.set_index("id")["p_tumour"]
    assert p["A"] == pytest.approx(expected(made, ["s0.h5", "s2.h5", "s3.h5"], [70.0, 1.0]), rel=1e-5)
    assert p["B"] == pytest.approx(expected(made, ["s1.h5"], [math.nan, math.nan]), rel=1e-5)


def test_slides_of_one_name_in_two_patients_stay_apart(made, predict, tmp_path):
    for folder, i in (("x", 0), ("y", 1)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s.h5").write_bytes((made / f"s{i}.h5").read_bytes())
    rows = [{**ROWS[0], "path": str(tmp_path / "x" / "s.h5")}, {**ROWS[1], "path": str(tmp_path / "y" / "s.h5")}]
    code, _, err, out = predict(rows)
    assert code == 0, err
    assert read_predictions(out / "predictions.csv")[0]["id"].tolist() == ["A", "B"]
    assert pd.read_csv(out / "slides.csv")["id"].tolist() == ["x-s", "y-s"]


def test_names_without_suffix_are_found_as_in_clams_tables(made, predict):
    rows = [{"slide_id": str(row["path"]).removesuffix(".h5"), "case_id": row["patient"]} for row in ROWS]
    code, _, err, out = predict(rows, "--path=slide_id", "--patient=case_id", checkpoint="other")
    assert code == 0, err
    assert len(read_predictions(out / "predictions.csv")[0]) == 3
    code, _, err, _ = predict(rows, checkpoint="other")
    assert (code, "it looks like a table of CLAM: its columns are path slide_id, patient case_id" in err) == (2, True)


def test_members_with_other_covariates_or_bags_are_refused(made, predict):
    code, _, err, _ = predict(ROWS, "--checkpoint", made / "other.ckpt")
    assert (code, "were trained with different covariates: none; and age, sex" in err) == (2, True), err
    code, _, err, _ = predict(ROWS, "--checkpoint", made / "slides.ckpt", checkpoint="other")
    assert (code, "were trained on different bags (data.group)" in err) == (2, True), err


def test_a_damaged_description_of_covariates_is_refused(made, medsoft, tmp_path):
    state = torch.load(made / "patients.ckpt", weights_only=True)
    for change in ({"group": "ward"}, {"covariates": {"names": ["age"], "scale": []}}):
        torch.save({**state, "medsoft": state["medsoft"] | change}, tmp_path / "m.ckpt")
        words = ["slides", "predict", made / "s0.h5", "--checkpoint", tmp_path / "m.ckpt", "--out", tmp_path / "out"]
        code, _, err = medsoft(*words, *PLAIN)
        assert (code, "is damaged" in err) == (2, True), err


@pytest.mark.parametrize("aggregator", ["abmil", "seqnorm"])
def test_survival_has_risks_heatmaps_of_them_and_the_censoring_of_the_training(made, predict, aggregator):
    task = Task.of("survival").settled(np.array([[50.0, 1], [200.0, 1], [400.0, 1]]))
    write_checkpoint(made / "survival.ckpt", made / "s0.h5", task, aggregator)
    rows = [{**row, "os": 30 + 100 * i, "dead": ("yes", "no")[i % 2]} for i, row in enumerate(ROWS)]
    more = ["--label=os,dead", "--report=true"]
    code, _, err, out = predict(rows, *more, checkpoint="survival", maps=True)
    assert code == 0, err
    frame, asked = read_predictions(out / "predictions.csv")
    assert asked.p_columns == ["risk", "s_50", "s_200", "s_400"]
    assert frame["time"].tolist() == [30.0, 130.0, 230.0, 330.0, 430.0]
    assert frame["event"].tolist() == [1, 0, 1, 0, 1]
    by_risk = frame.sort_values("risk")
    assert by_risk["s_200"].is_monotonic_decreasing
    assert (frame["s_50"] >= frame["s_400"]).all()
    for id, risk in zip(frame["id"], frame["risk"], strict=True):
        about = json.loads((out / "heatmaps" / f"{id}.json").read_text())
        assert about["class"] == "risk"
        assert about["sum_of_contributions"] + sum(about["parts"].values()) == pytest.approx(risk, abs=1e-4)
    notes = [
        note
        for part in json.loads((out / "evaluation" / "evaluation.json").read_text())["parts"]
        for note in part["notes"]
    ]
    assert any("estimated on the training part, as kept with the model" in note for note in notes)
