"""Shortcut baselines: what they learn from, what they predict, and when a model is ahead of them."""

import numpy as np
import pandas as pd
import pytest

from medsoft.evaluation.settings import Settings
from medsoft.evaluation.shortcuts.baseline import predict_by
from medsoft.evaluation.shortcuts.columns import Columns
from medsoft.evaluation.shortcuts.judge import alarm, baseline_tables, is_ahead, judge
from medsoft.evaluation.shortcuts.out_of_fold import in_sentences, out_of_fold
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task

N = 120
BINARY = Task.of("binary", ("healthy", "ill"))
SETTINGS = Settings(draws=200)
IDS = [f"s{i:03d}" for i in range(N)]
SPLIT = np.where(np.arange(N) % 3 == 0, "test", np.where(np.arange(N) % 7 == 1, "val", "train"))
ILL = np.random.default_rng(0).integers(0, 2, N)


def facts(strength: float = 2.0, task: Task = BINARY, targets: object = None) -> pd.DataFrame:
    """A fact that tells the class, one that does not, and a site that does a little."""
    rng = np.random.default_rng(1)
    site = np.where(rng.random(N) < 0.3 + 0.4 * ILL, "A", "B")
    columns = task.target_cells(ILL if targets is None else targets, N)
    return pd.DataFrame(
        {
            "id": IDS,
            "split": SPLIT,
            **columns,
            "number brightness": strength * ILL + rng.normal(size=N),
            "number width": rng.normal(size=N),
            "kind site": pd.Series(site, dtype=object),
        }
    )


def model(good: float) -> pd.DataFrame:
    """Predictions of val and test, better with ``good``."""
    rows = np.flatnonzero(SPLIT != "train")
    p = 1 / (1 + np.exp(-(good * (2 * ILL[rows] - 1) + np.random.default_rng(2).normal(size=len(rows)))))
    patient = [f"P{i // 2}" for i in rows]
    answers = np.stack([1 - p, p], axis=1)
    return make_predictions(
        BINARY, [IDS[i] for i in rows], answers, ILL[rows], patient=patient, split=SPLIT[rows].tolist()
    )


def judged(table: pd.DataFrame, good: float):
    frame = model(good)
    tables = baseline_tables(table[table["split"] == "train"], table, frame, BINARY)
    return judge(frame, tables, BINARY, SETTINGS, ["brightness"])


def test_words_of_rare_devices_and_facts_that_never_change_are_no_columns():
    train = pd.DataFrame(
        {
            "a": np.arange(20.0),
            "again": np.arange(20.0),
            "same": 3.0,
            "sometimes": [np.nan] * 5 + list(range(15)),
            "camera": ["x"] * 10 + ["y"] * 8 + ["z"] * 2,
        }
    )
    columns = Columns.of(train, ["a", "again", "same", "sometimes"], ["camera"])
    assert columns.names == ["a", "sometimes", "sometimes unknown", "camera: x", "camera: y"]
    new = columns(pd.DataFrame({"a": [1e9], "sometimes": [np.nan], "camera": ["new"]}))
    np.testing.assert_array_equal(new, [[5.0, 0.0, 1.0, 0.0, 0.0]])


@pytest.mark.parametrize("kind", ["multiclass", "ordinal"])
def test_a_baseline_has_a_probability_for_every_class_even_one_it_never_saw(kind):
    task = Task.of(kind, ("a", "b", "c"))
    table = facts(task=task, targets=ILL)
    answers = predict_by(table[table["split"] == "train"], table, task, ["number brightness"])
    np.testing.assert_allclose(answers.sum(axis=1), 1)
    assert (answers[:, 2] == 0).all()


def test_a_label_that_is_missing_in_places_is_learnt_from_the_others():
    task = Task.of("multilabel", ("x", "y"))
    targets = np.stack([ILL.astype(float), np.where(np.arange(N) % 2, np.nan, ILL)], axis=1)
    table = facts(task=task, targets=targets)
    answers = predict_by(table[table["split"] == "train"], table, task, ["number brightness"])
    for column in answers.T:
        assert column[ILL == 1].mean() > column[ILL == 0].mean() + 0.2


def test_numbers_are_predicted_by_ridge():
    task = Task.of("regression")
    brightness = facts()["number brightness"]
    table = facts(task=task).assign(target=10 + 3 * brightness, **{"number brightness": brightness})
    answers = predict_by(table[table["split"] == "train"], table, task, ["number brightness"])
    assert np.corrcoef(answers[:, 0], table["target"])[0, 1] > 0.99


def test_nothing_to_learn_from_is_no_baseline():
    table = facts().assign(**{"number same": 1.0})
    assert predict_by(table, table, BINARY, ["number same"]) is None
    assert predict_by(table[:8], table, BINARY, ["number brightness"]) is None


def test_only_the_training_part_is_learnt_from():
    table = facts()
    frame = model(2.0)
    one = baseline_tables(table[table["split"] == "train"], table, frame, BINARY)["facts"]
    other = table.assign(target=np.where(table["split"] == "train", table["target"], "healthy"))
    two = baseline_tables(other[other["split"] == "train"], other, frame, BINARY)["facts"]
    pd.testing.assert_frame_equal(one, two)
    assert one["id"].tolist() == frame["id"].tolist()


def test_a_model_that_knows_no_more_than_the_facts_is_told_at_the_top():
    found = judged(facts(strength=4.0), good=0.1)
    assert found.split == "test"
    assert [one.reference for one in found.not_ahead] == ["facts"]
    assert found.evaluations["facts"].parts[0].find("auroc", class_name="ill") is not None
    said = alarm(found, 0.95, "image")
    assert said.startswith("This model is not shown to be ahead of trivial facts of the image (test)")
    assert "95 % interval" in said


def test_a_model_that_is_ahead_raises_no_alarm():
    found = judged(facts(strength=0.0), good=4.0)
    assert is_ahead(found.differences[0])
    assert alarm(found, 0.95) == ""


def test_covariates_are_a_baseline_of_their_own():
    table = facts(strength=0.0).assign(**{"covariate age": 5.0 * ILL + np.random.default_rng(3).normal(size=N)})
    found = judged(table, good=0.2)
    assert set(found.evaluations) == {"facts", "covariates"}
    assert "covariates alone (test)" in alarm(found, 0.95, "image")
    facts_alone, covariates = (found.predictions[name]["p_ill"].to_numpy() for name in ("facts", "covariates"))
    assert covariates.std() > 2 * facts_alone.std()


def test_lower_is_ahead_where_lower_is_better():
    found = judged(facts(strength=0.0), good=4.0).differences[0]
    from dataclasses import replace

    assert not is_ahead(replace(found, metric="mae"))
    assert is_ahead(replace(found, metric="mae", low=-2.0, high=-1.0))


def test_a_part_of_one_class_is_not_compared_and_says_so():
    table = facts()
    frame = model(1.0)
    frame = frame[(frame["split"] == "val") | (frame["target"] == "ill")].reset_index(drop=True)
    tables = baseline_tables(table[table["split"] == "train"], table, frame, BINARY)
    found = judge(frame, tables, BINARY, SETTINGS)
    assert not found.differences
    assert "cannot be compared" in found.notes[0]


def test_before_there_is_a_model_baselines_are_told_out_of_fold():
    table = facts(strength=3.0).assign(**{"covariate age": np.random.default_rng(3).normal(size=N)})
    fold = np.arange(N) // 2 % 3
    tables = out_of_fold(table, np.array([f"P{i // 2}" for i in range(N)], dtype=object), fold, BINARY)
    assert tables["facts"]["fold"].tolist() == sorted(fold.astype(str))
    brightness, covariates = in_sentences(tables, BINARY, SETTINGS)
    assert "trivial facts, without looking at what is shown, reaches AUROC 0.9" in brightness
    assert "a model has to be ahead of this" in brightness
    assert "this cannot be told from guessing" in covariates, "random numbers are no bar"
    # Labels of the fold itself are never learnt from.
    other = table.assign(target=np.where(fold == 0, "healthy", table["target"]))
    again = out_of_fold(other, np.array([f"P{i // 2}" for i in range(N)], dtype=object), fold, BINARY)
    of_first = tables["facts"]["fold"] == "0"
    np.testing.assert_array_equal(tables["facts"]["p_ill"][of_first], again["facts"]["p_ill"][of_first])
