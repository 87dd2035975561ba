"""A number as the question: labels, split, objective, metrics, and the command lines from fit to evaluate."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medsoft.classifiers.objectives import Quantity
from medsoft.data.tables.labels import read_labels
from medsoft.data.tables.sample_table import read_table
from medsoft.data.tables.split import split_holdout
from medsoft.errors import InputError
from medsoft.evaluation.metrics.score import headline, score
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.evaluation.tables.read import read_either
from medsoft.task import Task
from medsoft.task_types import ObjectiveOptions
from tests.builders.images import TINY, write_images

REGRESSION = Task.of("regression", ())


@pytest.fixture(scope="module")
def quantities(tmp_path_factory):
    """36 images, and how bright each class is as a number."""
    table = write_images(tmp_path_factory.mktemp("quantity"), 36, ("a", "b", "c"))
    frame = pd.read_csv(table)
    frame["litres"] = 1000 + 10 * frame["grade"] + 0.01 * np.arange(len(frame))
    frame.to_csv(table, index=False)
    return table


def labels(*values, task="regression", **options):
    frame = pd.DataFrame({"volume": list(values)})
    return read_labels(frame, task=task, positive=None, classes=None, **options)


@pytest.mark.parametrize("written", ["1.5", ".5", "1e3", "-2", "+3."])
def test_numbers_without_a_stated_task_are_an_error(written):
    with pytest.raises(InputError, match=r"holds numbers.*regression \(a quantity\)"):
        labels(written, "2.25", "7", task=None)


def test_labels_of_a_regression_are_numbers_and_what_is_none_is_a_problem():
    found = labels("1.5", "-2e3", "", "12 ml", "nan", required=True)
    assert found.task == REGRESSION
    assert found.columns["target"].tolist()[:2] == [1.5, -2000]
    assert found.columns["target"].isna().tolist() == [False, False, True, True, True]
    assert [(problem.kind, problem.rows) for problem in found.problems] == [
        ("missing label", (3,)),
        ("unknown label", (4,)),
        ("missing label", (5,)),
    ]
    assert len(labels("1", "", "x", required=False).problems) == 1


def test_a_regression_has_no_classes():
    with pytest.raises(InputError, match="belong to classes"):
        read_labels(pd.DataFrame({"v": ["1", "2"]}), task="regression", positive=None, classes=["1", "2"])
    with pytest.raises(InputError, match="one value only"):
        labels("3", "3", "")
    with pytest.raises(InputError, match="one label column"):
        read_labels(pd.DataFrame({"a": ["1"], "b": ["2"]}), task="regression", positive=None, classes=None)
    with pytest.raises(ValueError, match="no classes"):
        Task.of("regression", ("a", "b"))


def test_every_part_of_a_split_spans_the_range():
    targets = np.random.default_rng(0).gamma(2, 100, 200)
    parts = split_holdout(
        REGRESSION.strata(targets), np.arange(200).astype(str), {"train": 0.6, "val": 0.2, "test": 0.2}, seed=1
    )
    for part in ("train", "val", "test"):
        assert abs(np.median(targets[parts == part]) / np.median(targets) - 1) < 0.15


@given(st.floats(-1e6, 1e6), st.floats(0.1, 1e4), st.sampled_from(["huber", "mse"]))
def test_the_objective_undoes_its_standardisation(mean, sd, loss):
    objective = Quantity((mean, sd), loss)
    target = torch.tensor([mean - 3 * sd, mean, mean + 2 * sd], dtype=torch.float64)
    logits = ((target - mean) / sd).float()[:, None]
    assert objective.loss(logits, target).item() == pytest.approx(0, abs=1e-6)
    assert objective.probabilities(logits)[:, 0].double().numpy() == pytest.approx(
        target.numpy(), rel=1e-6, abs=1e-5 * sd
    )


def test_huber_counts_a_wrong_label_less_than_squares_do():
    logits, target = torch.zeros(2, 1), torch.tensor([0.0, 100.0])
    huber, mse = (Quantity((0.0, 1.0), loss).loss(logits, target).item() for loss in ("huber", "mse"))
    assert huber == pytest.approx(99.5 / 2)
    assert mse == pytest.approx(5000)


def test_options_for_classes_are_refused():
    for options in ({"label_smoothing": 0.1}, {"class_weights": torch.ones(0)}):
        with pytest.raises(ValueError, match="for classes"):
            REGRESSION.objective(ObjectiveOptions(**options))


def test_the_metrics_are_those_of_scikit_learn():
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    rng = np.random.default_rng(0)
    target = rng.normal(3000, 400, 50)
    prediction = target + rng.normal(30, 200, 50)
    answers = np.append(prediction, 1.0)[:, None]
    frame = make_predictions(REGRESSION, [f"s{i}" for i in range(51)], answers, np.append(target, np.nan))
    found = score(frame, REGRESSION)
    assert (found["n"], found["n_missing"], found["notes"]) == (50, 1, [])
    values = headline(found)
    assert values["mae"] == pytest.approx(mean_absolute_error(target, prediction))
    assert values["rmse"] == pytest.approx(root_mean_squared_error(target, prediction))
    assert values["r2"] == pytest.approx(r2_score(target, prediction))


def test_what_cannot_be_answered_is_none_and_said():
    one = make_predictions(REGRESSION, ["a"], [[2.0]], [1.0])
    found = score(one, REGRESSION)
    assert (found["overall"]["mae"], found["overall"]["r2"]) == (1.0, None)
    assert "undefined" in found["notes"][0]
    none = score(make_predictions(REGRESSION, ["a"], [[2.0]]), REGRESSION)
    assert (none["n"], none["overall"]["mae"]) == (0, None)


def test_the_predictions_table_reads_back_exactly(tmp_path):
    frame = make_predictions(REGRESSION, ["a", "b"], [[0.1 + 0.2], [-1e-17]], [np.pi, np.nan], patient=["p", "q"])
    write_predictions(frame, tmp_path / "p.csv")
    back, task = read_either(tmp_path / "p.csv")
    assert task == Task.of("regression")
    assert back["prediction"].tolist() == frame["prediction"].tolist()
    assert back["target"][0] == np.pi
    assert np.isnan(back["target"][1])
    with pytest.raises(InputError, match="finite"):
        make_predictions(REGRESSION, ["a"], [[np.nan]])


def test_from_fit_to_evaluate(medsoft, quantities, tmp_path):
    about = [f"--data.table={quantities}", "--data.label=litres", "--data.task=regression", "--data.patient=patient"]
    code, out, err = medsoft(
        "fit", *about, *TINY, "--figures=true", "--model.lr=3e-3", "--trainer.max_epochs=25", "--out=run"
    )
    assert code == 0, err
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test"]["overall"]["r2"] > 0.5  # the mean would have 0
    frame, _ = read_either("run/predictions.csv")
    assert frame.loc[frame["split"] == "test", "prediction"].between(990, 1030).all()  # in litres, not in SDs
    assert (tmp_path / "run/figures/agreement_test.png").is_file()
    assert "mae" in out

    checkpoint = torch.load("run/checkpoints/best.ckpt", weights_only=True)["medsoft"]
    split = pd.read_csv("run/split.csv")
    names = quantities.parent / "labels.csv"
    train = read_table(names, label="litres", task="regression").frame.merge(split, on="id")
    train = train[train["split_y"] == "train"]["target"]
    assert checkpoint["target_scale"] == pytest.approx([train.mean(), train.std(ddof=0)])

    # Predicting other rows, without labels, gives the same numbers: the scale is the checkpoint's.
    few = pd.read_csv(quantities)[["path", "patient"]]
    few["path"] = [str(quantities.parent / path) for path in few["path"]]
    few.to_csv("new.csv", index=False)
    assert medsoft("predict", "--checkpoint=run", "--data.table=new.csv", "--out=new", "--figures=false")[0] == 0
    again, _ = read_either("new/predictions.csv")
    both = frame.merge(again, on="id")
    assert len(both) == len(frame)
    assert both["prediction_x"].to_numpy() == pytest.approx(both["prediction_y"].to_numpy(), rel=1e-6)

    assert medsoft("evaluate", "run/predictions.csv", "--out=evaluation", "--figures=false")[0] == 0
    code, _, err = medsoft("predict", "--checkpoint=run", f"--data.table={quantities}", "--data.task=ordinal",
                           "--data.label=grade", "--out=other")  # fmt: skip
    assert code == 2
    assert "answers regression" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.balanced_sampling=true"], "no classes to balance"),
        (["--model.class_weights=balanced"], "for classes"),
        (["--model.label_smoothing=0.1"], "for classes"),
        (["--monitor=auroc"], "no metric of a regression task; one of mae, rmse, r2, concordance, loss"),
        (["--data.positive=1000"], "belong to classes"),
        (["--trainer.precision=bf16-true"], "would round the labels of a regression: use bf16-mixed"),
    ],
)
def test_options_of_classes_are_refused_before_work_starts(medsoft, quantities, options, message, tmp_path):
    code, _, err = medsoft(
        "fit", f"--data.table={quantities}", "--data.label=litres", "--data.task=regression", *TINY, *options
    )
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_data_check_says_what_is_to_be_predicted(medsoft, quantities):
    code, out, _ = medsoft("data", "check", quantities, "--label=litres", "--task=regression", "--decode=false")
    assert code == 0
    assert "regression" in out
    assert "1020.35" in out
