"""A model that learnt nothing says so: in one sentence, wherever its numbers are read; and its maps are not drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medsoft.evaluation.abstention import abstention_notes, unfamiliar
from medsoft.evaluation.attribution import is_noise, spread_of
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.examples import all_examples, read_examples, write_examples
from medsoft.evaluation.learnt import hardly_vary, nothing_learnt
from medsoft.evaluation.locked import decide
from medsoft.evaluation.report.content import Given
from medsoft.evaluation.report.page import write_report
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.task import Task
from medsoft.workflows.run_report import without_signs

BINARY = Task.of("binary", ("no", "yes"))
TYPES = Task.of("multiclass", ("a", "b", "c"))
GRADES = Task.of("ordinal", ("0", "1", "2"))
FINDINGS = Task.of("multilabel", ("oedema", "effusion"))
QUICK = Settings(draws=200)
N = 120


def table(task: Task, strength: float, spread: float = 1.0, split: str = "test", **about) -> pd.DataFrame:
    """Predictions that follow the truth by a strength, 0 for not at all, of which ``spread`` scales the logits."""
    rng = np.random.default_rng(3)
    classes = len(task.classes)
    target = np.arange(N) % classes if task.kind != "multilabel" else rng.integers(2, size=(N, classes))
    truth = target if task.kind == "multilabel" else np.eye(classes)[target]
    z = spread * (rng.normal(size=(N, classes)) + strength * truth)
    p = 1 / (1 + np.exp(-z)) if task.kind == "multilabel" else np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return make_predictions(task, [f"s{i}" for i in range(N)], p, target, split=split, **about)


def numbers(prediction: np.ndarray, split: str = "test") -> pd.DataFrame:
    target = np.random.default_rng(5).normal(60, 10, N)
    return make_predictions(
        Task.of("regression", ()), [f"s{i}" for i in range(N)], (prediction + 0 * target)[:, None], target, split=split
    )


def said(frame: pd.DataFrame, task: Task) -> str:
    return nothing_learnt(evaluate_table(frame, task, QUICK))


@pytest.mark.parametrize("task", [BINARY, TYPES, GRADES, FINDINGS])
def test_chance_and_constant_predictions_are_said_and_a_model_that_learnt_is_not(task: Task) -> None:
    assert said(table(task, 2.0), task) == ""
    chance = said(table(task, 0.0), task)
    assert chance.startswith("No sign that this model has learnt anything (test): ")
    assert "cannot be told from chance" in chance
    assert "hardly vary" not in chance
    constant = table(task, 0.0, spread=1e-4)
    assert "hardly vary" in said(constant, task)
    same = constant.assign(**dict.fromkeys(task.p_columns, 1 / len(task.classes)))
    assert "hardly vary" in said(same, task)
    assert "0.500" in said(same, task)
    assert hardly_vary(constant[:4], task) == ""  # too few to say


def test_rare_classes_have_small_probabilities_that_vary_all_the_same() -> None:
    frame = table(BINARY, 2.0)
    small = frame["p_yes"] / 1000
    assert said(frame.assign(p_yes=small, p_no=1 - small), BINARY) == ""


def test_one_label_of_several_is_named() -> None:
    frame = table(FINDINGS, 2.0)
    frame["p_effusion"] = table(FINDINGS, 0.0)["p_oedema"].sample(frac=1, random_state=1).to_numpy()
    found = said(frame, FINDINGS)
    assert "of 1 of 2 labels the AUROC cannot be told from chance: effusion 0." in found
    assert "oedema" not in found
    assert "macro" not in found


def test_a_regression_below_the_mean_and_a_constant_one() -> None:
    target = numbers(np.zeros(N))["target"].to_numpy()
    rng = np.random.default_rng(0)
    assert said(numbers(target + rng.normal(0, 3, N)), Task.of("regression")) == ""
    worse = said(numbers(60 + rng.normal(0, 30, N)), Task.of("regression"))
    assert "lies below 0, where the mean of the targets would predict better" in worse
    assert "hardly vary" not in worse
    assert "hardly vary (60 to 60)" in said(numbers(np.full(N, 60.0)), Task.of("regression"))
    assert said(numbers(60 + rng.normal(0, 0.01, N)), Task.of("regression")).count("hardly vary") == 1
    # Without targets only constant numbers can be told.
    unknown = numbers(np.full(N, 60.0)).assign(target=np.nan)
    assert "hardly vary" in without_signs(unknown, Task.of("regression", ()), None)


def test_the_part_that_is_reported_first_decides() -> None:
    val, test = table(BINARY, 0.0, split="val"), table(BINARY, 2.0)
    assert said(pd.concat([val, test], ignore_index=True), BINARY) == ""
    found = said(pd.concat([val.assign(split="test"), test.assign(split="val")], ignore_index=True), BINARY)
    assert "(test)" in found
    folds = pd.concat([table(BINARY, 0.0).assign(fold=str(k)) for k in range(2)], ignore_index=True)
    assert "cannot be told from chance" in said(folds, BINARY)


def test_it_stands_in_the_report_in_its_values_and_in_the_terminal(medsoft, tmp_path: Path) -> None:
    write_predictions(table(BINARY, 0.0), tmp_path / "t.csv")
    code, out, err = medsoft("evaluate", "t.csv", "--out", "ev", "--draws", 50, "--figures", "false")
    assert code == 0, err
    sentence = json.loads(Path("ev/report.json").read_text())["nothing_learnt"]
    assert sentence.startswith("No sign that this model has learnt anything")
    assert f"WARNING: {sentence}" in out
    html = Path("ev/report.html").read_text(encoding="utf-8")
    assert html.index(f'<p class="alarm">{sentence}.') < html.index('class="tiles"')
    assert json.loads(Path("ev/evaluation.json").read_text())["nothing_learnt"] == sentence
    write_predictions(table(BINARY, 2.0), tmp_path / "good.csv")
    _, out, _ = medsoft("evaluate", "good.csv", "--out", "good", "--draws", 50, "--figures", "false")
    assert "WARNING" not in out
    assert 'class="alarm"' not in Path("good/report.html").read_text(encoding="utf-8")


def test_shares_are_noise_by_their_size_beside_the_spread_and_not_by_their_number() -> None:
    rng = np.random.default_rng(0)
    assert is_noise(1e-6 * rng.normal(size=(14, 14)))
    assert is_noise(1e-6 * rng.normal(size=10_000))
    assert not is_noise(np.full(10_000, 1e-4))  # which add up to a whole logit
    assert not is_noise([0.0, 0.01])
    assert is_noise([])
    # In millilitres or years the same contribution is another number; the unit goes along.
    for unit in (1e-3, 1.0, 500.0):
        assert is_noise(unit * 1e-5 * rng.normal(size=64), spread_of(unit=unit))
        assert not is_noise(unit * 0.1 * rng.normal(size=64), spread_of(unit=unit))
    assert spread_of([0.1, 0.2]) == 1
    assert spread_of([-10.0, 10.0, np.inf]) == 10


def test_abstaining_is_counted_and_said_beside_the_examples(tmp_path: Path) -> None:
    scores = np.linspace(0.1, 1.2, N)
    extra = {"ood_score": scores, "abstain": (scores > 1).astype(int)}
    frame = table(BINARY, 2.0, extra=extra)
    n = int((scores > 1).sum())
    assert abstention_notes(frame) == [f"test: abstains from {n} of {N} samples (out-of-distribution score above 1)"]
    assert abstention_notes(frame.drop(columns="abstain")) == []
    assert unfamiliar(frame)[0] == "out-of-distribution score 0.10"
    assert unfamiliar(frame)[-1] == "abstains: out-of-distribution score 1.20"
    one = next(example for example in all_examples(frame, BINARY) if example.id == f"s{N - 1}")
    (tmp_path / "e").mkdir()
    write_examples(tmp_path / "e", [(one, None, None)], "how")
    shown, _ = read_examples(tmp_path / "e", frame, 1)
    assert shown[0].example == one
    result = evaluate_table(frame, BINARY, QUICK)
    write_report(result, tmp_path / "r", Given(frame), shown, "how")
    assert "Abstains: out-of-distribution score 1.20" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    # None set aside is no warning.
    assert any("set aside" in note for note in result.parts[0].notes)
    none = evaluate_table(frame.assign(abstain=0), BINARY, QUICK).parts[0]
    assert not any("set aside" in note for note in none.notes)
    assert none.abstention.n_answered == N
    single = evaluate_table(frame.assign(abstain=[1] + [0] * (N - 1)), BINARY, QUICK).parts[0]
    assert any(note.startswith(f"1 of {N} samples is set aside") for note in single.notes)


@pytest.mark.parametrize("task", [BINARY, TYPES, GRADES, FINDINGS])
def test_decisions_of_every_task(task: Task) -> None:
    both = pd.concat([table(task, 2.0, split="val"), table(task, 1.0)], ignore_index=True)
    frame = both[both["split"] == "test"].assign(ood_score=0.5, abstain=0)
    found = decide(frame, task, evaluate_table(both, task, Settings(draws=20)).locked)
    assert len(found) == N
    assert {"ood_score", "abstain"} <= set(found)
    if task.kind in ("multiclass", "ordinal"):
        most_probable = np.array(task.classes)[frame[task.p_columns].to_numpy().argmax(axis=1)]
        assert found["decision"].tolist() == most_probable.tolist()
    else:
        for label in task.classes[-1:] if task.kind == "binary" else task.classes:
            columns = [name for name in found if name.startswith(f"{label}, ")]
            assert [name.split(", ")[1] for name in columns] == ["0.5", "youden"]
            assert found[columns[0]].tolist() == (frame[f"p_{label}"] >= 0.5).astype(int).tolist()


def test_few_of_a_label_are_warned_of_too() -> None:
    frame = table(FINDINGS, 1.0)
    frame.loc[4:, "target_effusion"] = 0
    frame.loc[:3, "target_effusion"] = 1
    (part,) = evaluate_table(frame, FINDINGS, QUICK).parts
    assert any(note.startswith("few rows: 4 of 'effusion'") for note in part.notes)
