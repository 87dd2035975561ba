"""One answer an exam, pooled in logits; and clinical covariates that join the image at the head."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.classifiers.objectives import Corn
from medsoft.evaluation.tables.exams import has_several, pool_rows
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.evaluation.tables.read import read_either
from medsoft.task import Task

BINARY = Task.of("binary", ("healthy", "ill"))
GRADES = Task.of("ordinal", ("0", "1", "2"))
CLASSES = Task.of("multiclass", ("a", "b", "c"))
LABELS = Task.of("multilabel", ("mass", "fluid"))
NUMBER = Task.of("regression", ())


def predictions(task, answers, targets, exams, **about):
    ids = [f"s{i}" for i in range(len(answers))]
    return make_predictions(task, ids, answers, targets, exam=exams, **about)


@settings(deadline=None)
@given(st.lists(st.floats(-15, 15), min_size=2, max_size=5), st.sampled_from(["mean", "max"]))
def test_binary_logits_are_pooled(logits, how):
    p = 1 / (1 + np.exp(-np.array(logits)))
    frame = predictions(BINARY, np.stack([1 - p, p], axis=1), None, ["e"] * len(p))
    pooled = pool_rows(frame, BINARY, how)
    wanted = np.mean(logits) if how == "mean" else np.max(logits)
    assert np.log(pooled["p_ill"] / pooled["p_healthy"]).item() == pytest.approx(wanted, abs=1e-5)
    assert pooled["rows"].item() == len(logits)


def test_probabilities_of_exactly_0_and_1_are_pooled_too():
    frame = predictions(BINARY, [[1.0, 0.0], [0.0, 1.0]], None, ["e", "e"])
    assert pool_rows(frame, BINARY, "mean")["p_ill"].item() == pytest.approx(0.5)
    assert pool_rows(frame, BINARY, "max")["p_ill"].item() == 1.0


def test_grades_are_pooled_in_the_logits_that_the_model_learns():
    logits = torch.tensor([[1.5, -0.5], [-2.0, 0.3]], dtype=torch.float64)
    corn = Corn(3)
    frame = predictions(GRADES, corn.probabilities(logits).numpy(), [0, 2], ["e", "e"])
    for how, wanted in (("mean", logits.mean(dim=0)), ("max", logits.amax(dim=0))):
        pooled = pool_rows(frame, GRADES, how)
        assert pooled[GRADES.p_columns].to_numpy() == pytest.approx(corn.probabilities(wanted[None]).numpy())
        assert pooled["target"].item() == {"mean": "", "max": "2"}[how]


def test_the_mean_of_several_classes_is_that_of_their_logits():
    logits = torch.randn(3, 3, dtype=torch.float64)
    frame = predictions(CLASSES, logits.softmax(dim=1).numpy(), [1, 1, -1], ["e"] * 3)
    pooled = pool_rows(frame, CLASSES, "mean")
    assert pooled[CLASSES.p_columns].to_numpy()[0] == pytest.approx(logits.mean(dim=0).softmax(dim=0).numpy())
    assert pooled["target"].item() == "b"  # of the rows that have one


def test_targets_of_an_exam():
    answers = np.full((4, 2), 0.5)
    frame = predictions(BINARY, answers, [0, 1, 1, -1], ["e", "e", "f", "f"])
    assert pool_rows(frame, BINARY, "mean")["target"].tolist() == ["", "ill"]
    assert pool_rows(frame, BINARY, "max")["target"].tolist() == ["ill", "ill"]
    numbers = predictions(NUMBER, [[1.0], [3.0]], [2.0, 8.0], ["e", "e"])
    assert pool_rows(numbers, NUMBER, "mean")[["target", "prediction"]].iloc[0].tolist() == [5, 2]
    assert pool_rows(numbers, NUMBER, "max")[["target", "prediction"]].iloc[0].tolist() == [8, 3]
    labels = predictions(LABELS, answers, [[0, 1], [np.nan, 0], [0, 0], [0, np.nan]], ["e", "e", "f", "f"])
    found = pool_rows(labels, LABELS, "max")
    assert found["target_mass"].tolist() == [pd.NA, 0]  # absent only where every row says so
    assert found["target_fluid"].tolist() == [1, pd.NA]


def test_exams_are_of_one_patient_split_and_fold_and_other_rows_stand_for_themselves():
    frame = predictions(
        BINARY, np.full((6, 2), 0.5), None, ["1", "1", "1", "1", "", ""],
        patient=["p", "p", "q", "q", "r", "r"], split=["val", "val", "test", "val", "test", "test"],
    )  # fmt: skip
    pooled = pool_rows(frame, BINARY, "mean")
    assert pooled["id"].tolist() == ["p/1", "q/1", "q/1", "s4", "s5"]
    assert pooled["rows"].tolist() == [2, 1, 1, 1, 1]
    assert has_several(frame, "exam")
    assert not has_several(frame.iloc[2:], "exam")


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """48 images, two an exam and patient; and an age that says the class where the image does not."""
    from tests.builders.images import write_images

    table = write_images(tmp_path_factory.mktemp("eyes"), 48, per_patient=2)
    frame = pd.read_csv(table)
    frame["exam"] = "E" + frame["patient"].str[1:]
    rng = np.random.default_rng(0)
    noise = pd.Series(rng.permutation(24) % 2).repeat(2).to_numpy()  # nothing to see in the image
    frame["cause"] = np.where(noise, "old", "young")
    frame["age"] = (40 + 30 * noise + rng.normal(0, 3, 48)).round(1).astype(object)
    frame.loc[::9, "age"] = ""
    frame.to_csv(table, index=False)
    return table


def train(medsoft, table, *words, code=0):
    from tests.builders.images import TINY

    common = [f"--data.table={table}", "--data.patient=patient", "--data.exam=exam", *TINY]
    got, out, err = medsoft("fit", *common, "--trainer.max_epochs=1", *words)
    assert got == code, err
    return out, err


@pytest.mark.parametrize("how", ["mean", "max", "none"])
def test_a_run_writes_one_answer_an_exam(medsoft, eyes, tmp_path, how):
    out, _ = train(medsoft, eyes, "--data.positive=light", f"--exams={how}", "--out=run")
    assert (tmp_path / "run/predictions_exams.csv").is_file() == (how != "none")
    if how == "none":
        return
    rows, task = read_either("run/predictions.csv")
    exams, _ = read_either("run/predictions_exams.csv")
    assert len(exams) * 2 == len(rows)
    pd.testing.assert_frame_equal(
        exams.drop(columns="rows"), pool_rows(rows, task, how).drop(columns="rows"), check_dtype=False
    )
    assert json.loads((tmp_path / "run/metrics_exams.json").read_text())["test"]["n"] == len(
        exams.query("split == 'test'")
    )
    assert f"by exam ({how} of logits)" in out
    medsoft("predict", "--checkpoint=run", "--out=again", "--figures=false")
    again, _ = read_either("again/predictions_exams.csv")
    both = exams.merge(again, on="id")
    assert both["p_light_x"].to_numpy() == pytest.approx(both["p_light_y"].to_numpy(), abs=1e-6)


def test_a_covariate_that_says_the_answer_is_learnt(medsoft, eyes, tmp_path):
    about = ["--data.label=cause", "--data.positive=old", "--data.covariates=age", "--model.lr=5e-2"]
    about += ["--model.freeze=true", "--monitor=loss"]
    train(medsoft, eyes, *about, "--trainer.max_epochs=25", "--out=run")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["overall"]["auroc"] > 0.9
    state = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    known = state["medsoft"]["covariates"]
    split = pd.read_csv("run/split.csv")
    ages = pd.read_csv(eyes).assign(split=split["split"]).query("split == 'train'")["age"]
    assert known["scale"][0] == pytest.approx([ages.mean(), ages.std(ddof=0)], rel=1e-5)

    # Predicting one row uses the training part's scale, whatever the table's own spread is.
    frame = pd.read_csv(eyes).head(1)
    frame["path"] = str(eyes.parent / frame["path"][0])
    frame.to_csv("one.csv", index=False)
    assert medsoft("predict", "--checkpoint=run", "--data.table=one.csv", "--out=one", "--figures=false")[0] == 0
    one, _ = read_either("one/predictions.csv")
    medsoft("predict", "--checkpoint=run", "--out=all", "--figures=false")
    every, _ = read_either("all/predictions.csv")
    expected = every.set_index("id").loc[one["id"], "p_old"]
    assert one["p_old"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)

    code, _, err = medsoft("predict", "--checkpoint=run", "--data.covariates=null", "--out=other")
    assert (code, "trained with the covariates age; data.covariates names (none)" in err) == (2, True)


def test_a_missing_covariate_stands_at_the_mean_and_is_told_apart():
    from medsoft.models.covariates import CovariateHead
    from medsoft.specs import Covariates

    head = CovariateHead(Covariates(("age", "sex"), ((50.0, 10.0), (0.5, 0.5))), outputs=1)
    with torch.no_grad():
        head.linear.weight[:] = torch.tensor([[1.0, 2.0, 100.0, 1000.0]])
    values = torch.tensor([[60.0, 1.0], [torch.nan, 1.0], [50.0, torch.nan]])
    assert head(values)[:, 0].tolist() == [3.0, 102.0, 1000.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.covariates=ages"], "no column 'ages' (nearest: 'age')"),
        (["--data.covariates=age,age"], "names a column twice"),
        (["--data.covariates=patient"], "no number (24)"),
        (["--data.covariates=constant"], "no two different values"),
    ],
)
def test_covariates_that_are_none_are_refused(medsoft, eyes, options, message, tmp_path):
    table = tmp_path / "t.csv"
    frame = pd.read_csv(eyes).assign(constant=1)
    frame["path"] = [str(eyes.parent / path) for path in frame["path"]]
    frame.to_csv(table, index=False)
    _, err = train(medsoft, table, "--data.positive=light", *options, code=2)
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_volumes_have_exams_and_covariates_too(medsoft, tmp_path):
    from tests.builders.volumes import TINY_VOLUME, write_volumes

    table = write_volumes(tmp_path / "set", 16)
    frame = pd.read_csv(table).assign(age=np.arange(16))
    frame.to_csv(table, index=False)
    code, out, err = medsoft(
        "fit", "--config=volume", f"--data.table={table}", "--data.positive=large", "--data.exam=patient",
        "--data.patient=patient", "--data.covariates=age", *TINY_VOLUME, "--trainer.max_epochs=1", "--exams=max",
        "--out=run",
    )  # fmt: skip
    assert code == 0, err
    assert "Metrics by exam (max of logits)" in out
    assert "accuracy at 0.5" in out
    assert "auroc at 0.5" not in out
