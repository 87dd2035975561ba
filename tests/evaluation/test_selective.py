"""Selective prediction: risk among the samples that are answered, by hand and by the definition."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.errors import InputError
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.metrics.selective import COVERAGES, Selective, answers, best_aurc
from medsoft.evaluation.metrics.weighted import Key
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.task import Task

BINARY = Task.of("binary", ("no", "yes"))
TYPES = Task.of("multiclass", ("a", "b", "c"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))
NUMBER = Task.of("regression", ())
QUICK = Settings(draws=100)


def table(p_yes: list[float], yes: list[int], **columns) -> pd.DataFrame:
    p = np.array(p_yes)
    return make_predictions(
        BINARY, [f"s{i}" for i in range(len(p))], np.stack([1 - p, p], 1), yes, split="test", **columns
    )


def measured(frame: pd.DataFrame, task: Task, uncertainty: str | None = None, weights=None):
    n = len(frame)
    measure = Selective(frame, task, np.arange(n), uncertainty)
    return measure(np.ones((1, n)) if weights is None else np.asarray(weights, dtype=float)[None])


def by_definition(certainty: np.ndarray, loss: np.ndarray) -> float:
    """For each sample the loss among those at least as certain; the mean of these."""
    return float(np.mean([loss[certainty >= own].mean() for own in certainty]))


def test_by_hand():
    """Certainties 0.9 right, 0.8 wrong, 0.7 right, 0.6 right: risks 0, 1/2, 1/3, 1/4."""
    values = measured(table([0.9, 0.2, 0.7, 0.4], [1, 1, 1, 0]), BINARY)
    assert values[Key("aurc")][0] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert values[Key("e_aurc")][0] == pytest.approx(values[Key("aurc")][0] - 0.25 / 4)
    curve = dict(zip(COVERAGES.round(2), values[Key("risk_coverage")][0], strict=True))
    assert (curve[0.25], curve[0.26], curve[0.5], curve[0.75], curve[1.0]) == pytest.approx((0, 0.5, 0.5, 1 / 3, 0.25))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 2**31),
)
def test_by_the_definition_with_ties_and_in_any_order(rows, seed):
    frame = table([step / 10 for step, _ in rows], [int(yes) for _, yes in rows])
    p, yes = frame["p_yes"].to_numpy(), (frame["target"] == "yes").to_numpy()
    wrong = ((p >= 0.5) != yes).astype(float)
    certainty = frame[["p_no", "p_yes"]].to_numpy().max(axis=1)
    values = measured(frame, BINARY)
    assert values[Key("aurc")][0] == pytest.approx(by_definition(certainty, wrong))
    assert values[Key("risk_coverage")][0, -1] == pytest.approx(wrong.mean())
    shuffled = frame.sample(frac=1, random_state=seed % 2**31).reset_index(drop=True)
    assert measured(shuffled, BINARY)[Key("aurc")][0] == pytest.approx(values[Key("aurc")][0])
    # A weight of 2 is the row twice.
    weights = 1 + np.arange(len(frame)) % 2
    twice = frame.loc[frame.index.repeat(weights)].reset_index(drop=True)
    assert measured(frame, BINARY, weights=weights)[Key("aurc")][0] == pytest.approx(
        measured(twice, BINARY)[Key("aurc")][0]
    )


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_best_order_has_all_right_answers_first(right, errors):
    if right + errors == 0:
        return
    loss = np.array([0.0] * right + [1.0] * errors)
    expected = np.mean(np.cumsum(loss) / np.arange(1, len(loss) + 1))
    assert best_aurc(np.array([float(errors)]), np.array([float(right + errors)]))[0] == pytest.approx(
        expected, abs=1e-12
    )


def test_every_task_and_a_column_of_uncertainty():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 50)
    types = make_predictions(TYPES, [f"s{i}" for i in range(50)], p, rng.integers(3, size=50))
    wrong = (p.argmax(axis=1) != types["target"].map({"a": 0, "b": 1, "c": 2})).to_numpy().astype(float)
    assert measured(types, TYPES)[Key("aurc")][0] == pytest.approx(by_definition(p.max(axis=1), wrong))
    spread = rng.random(50)
    assert measured(types.assign(spread=spread.astype(str)), TYPES, "spread")[Key("aurc")][0] == pytest.approx(
        by_definition(-spread, wrong)
    )
    labels = make_predictions(
        FINDINGS, list("abc"), [[0.9, 0.5], [0.2, 0.4], [0.6, 0.3]], [[1, 0], [1, np.nan], [0, 0]]
    )
    values = measured(labels, FINDINGS)
    assert values[Key("aurc", "oedema")][0] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert values[Key("aurc", "effusion")][0] == pytest.approx((0 + 1 / 2) / 2)
    numbers = make_predictions(NUMBER, list("abc"), [[1.0], [2.0], [6.0]], [1.0, 3.0, 3.0])
    assert answers(numbers, Task.of("regression")) == []
    values = measured(numbers.assign(spread=[0.1, 0.2, 0.9]), Task.of("regression"), "spread")
    assert values[Key("aurc")][0] == pytest.approx((0 + 1 / 2 + 4 / 3) / 3)
    assert Key("e_aurc") not in values


def test_a_column_that_is_not_there_or_holds_no_numbers():
    frame = table([0.9, 0.2], [1, 0], extra={"note": ["x", "1"]})
    with pytest.raises(InputError, match="--uncertainty spread: no such column; there are note"):
        measured(frame, BINARY, "spread")
    with pytest.raises(InputError, match="is no number in row 's0'"):
        measured(frame, BINARY, "note")


def test_it_is_part_of_the_evaluation(tmp_path, medsoft):
    rng = np.random.default_rng(1)
    yes = rng.integers(2, size=200)
    p = 1 / (1 + np.exp(-(rng.normal(size=200) + 2 * (2 * yes - 1))))
    frame = table(
        p.tolist(), yes.tolist(), extra={"spread_yes": rng.random(200)}, patient=[f"P{i // 2}" for i in range(200)]
    )
    write_predictions(frame, tmp_path / "predictions.csv")
    part = evaluate_table(frame, BINARY, QUICK).parts[0]
    found = part.find("aurc")
    assert found.low < found.value < found.high
    assert found.method == "bootstrap"
    assert found.value < 1 - part.find("accuracy").value, "setting the least certain aside helps"
    code, out, err = medsoft("evaluate", tmp_path / "predictions.csv", f"--out={tmp_path / 'a'}", "--draws=50")
    assert (code, err) == (0, "")
    assert "aurc" in out
    assert (tmp_path / "a" / "figures" / "risk_coverage_test.png").is_file()
    curves = pd.read_csv(tmp_path / "a" / "curves.csv").query("curve == 'risk_coverage' and level == 'row'")
    assert curves["x"].tolist() == pytest.approx(COVERAGES.tolist())
    words = ["--uncertainty=spread_yes", "--draws=50", "--figures=false", f"--out={tmp_path / 'b'}"]
    assert medsoft("evaluate", tmp_path / "predictions.csv", *words)[0] == 0
    parts = json.loads((tmp_path / "b" / "evaluation.json").read_text())["parts"]
    by = {part["level"]: {e["metric"]: e["value"] for e in part["estimates"]} for part in parts}
    assert by["row"]["aurc"] > found.value + 0.02, "random numbers tell nothing of errors"
    assert "aurc" not in by["patient"]
