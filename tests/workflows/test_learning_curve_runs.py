"""A cross-validation on nested parts of the training patients."""

import json

import pandas as pd
import pytest

from medsoft.data.tables.folds import Design, make_folds
from medsoft.data.tables.sample_table import read_table
from medsoft.errors import InputError
from tests.builders.images import TINY

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("brief_reports")]

QUICK = ["--trainer.max_epochs=1", "--ood_quantile=null", "--examples=0", "--report=false"]


def test_a_smaller_part_is_within_a_larger_by_whole_patients(table):
    samples = read_table(table, classes="dark,light", patient="patient")
    folds = {f: make_folds(samples, Design(folds=2, train_fraction=f)) for f in (0.3, 0.6, 1.0)}
    for small, middle, all_of_it in zip(*folds.values(), strict=True):
        trained = [set(samples.frame["patient"][fold.split == "train"]) for fold in (small, middle, all_of_it)]
        assert trained[0] < trained[1] < trained[2]
        for part in ("val", "test"):
            assert ((small.split == part) == (all_of_it.split == part)).all()
        for fold, patients in zip((small, middle), trained, strict=False):
            rows = samples.frame["patient"].isin(patients)
            assert (fold.split[rows.to_numpy()] == "train").all(), "a patient is kept with all rows, or not at all"
            assert samples.frame["target"][rows].nunique() == 2
    with pytest.raises(InputError, match="train_fraction 0 must lie above 0"):
        Design(folds=2, train_fraction=0)


def test_a_learning_curve_trains_on_each_part_and_ends_with_a_forecast(medsoft, table, tmp_path):
    out = tmp_path / "cv"
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, *QUICK]
    code, said, err = medsoft("crossval", *words, "--folds=2", "--learning_curve=0.3,0.6", f"--out={out}")
    assert code == 0, err
    curve = pd.read_csv(out / "learning_curve.csv")
    assert curve["fraction"].tolist() == [0.3, 0.6, 1.0]
    assert curve["n"].is_monotonic_increasing
    assert (out / "learning_curve.png").is_file()
    found = json.loads((out / "report.json").read_text())["learning_curve"]
    assert found["forecast"]["n"] == 2 * curve["n"].iloc[-1]
    assert "Twice as many patients" in said
    assert 'id="learning-curve"' in (out / "report.html").read_text(encoding="utf-8")
    # Everything has finished: to go on does nothing but gather, and says the same.
    code, again, err = medsoft("crossval", "--resume", out)
    assert code == 0, err
    assert "Learning curve: 0.3" not in again
    assert [line for line in again.splitlines() if "Twice" in line] == [
        line for line in said.splitlines() if "Twice" in line
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_curve=a,b"], "fractions separated by commas"),
        (["--learning_curve=0.5,2"], "each fraction must lie above 0"),
        (["--learning_curve=1.0"], "one at least below 1"),
        (["--learning_curve=0.5", "--train_fraction=0.5"], "leave out one of the two"),
        (["--train_fraction=1.5"], "must lie above 0, and be 1 at most"),
    ],
)
def test_fractions_that_are_none_are_told_before_any_training(medsoft, table, tmp_path, words, message):
    data = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, *QUICK]
    code, _, err = medsoft("crossval", *data, "--folds=2", *words, f"--out={tmp_path / 'cv'}")
    assert code == 2
    assert message in err
    assert not (tmp_path / "cv").exists()
