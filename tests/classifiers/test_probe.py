"""Probes: solutions against scikit-learn's own, choices by inner folds, and ``medsoft fit --config probe``."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from medsoft.classifiers.objectives import Corn, CrossEntropy, MaskedBinaryCrossEntropy, Quantity
from medsoft.classifiers.probe_solver import GRID, Examples, choose, neighbours_path, solve_linear
from medsoft.data.datasets.feature_scale import Scale
from medsoft.data.features.open import open_bag
from medsoft.models.aggregators import build_aggregator
from medsoft.models.aggregators.neighbours import Neighbours
from tests.builders.bags import write_bag, write_table

N = 60


def vectors(n: int = N, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


def examples(x: np.ndarray, objective, target: torch.Tensor, views=None, row_of=None) -> Examples:
    answers = objective.answers(target)
    views = np.zeros((0, x.shape[1])) if views is None else views
    row_of = np.zeros(0, int) if row_of is None else row_of
    return Examples(x, answers.values_NK.numpy(), answers.weights_NK.numpy(), views, row_of)


def solve(found: Examples, link: str, C: float = 0.3):
    (model,) = solve_linear(found, link, [C])
    return model


# ---- the solutions


@pytest.mark.parametrize("width", [8, 200], ids=["more rows than features", "more features than rows"])
@pytest.mark.parametrize("classes", [2, 3])
def test_classes_are_what_scikit_learn_answers(width, classes):
    x = vectors(width=width)
    y = np.arange(N) % classes
    x[:, 0] += y
    found = solve(examples(x, CrossEntropy(classes), torch.from_numpy(y)), "softmax")
    direct = LogisticRegression(C=0.3, tol=1e-8, max_iter=5000).fit(x, y)
    p = torch.from_numpy(found(x)).softmax(-1).numpy()
    np.testing.assert_allclose(p, direct.predict_proba(x), atol=2e-4)


def test_each_label_and_each_grade_is_a_question_of_its_own():
    x = vectors()
    grade = torch.arange(N) % 3
    found = solve(examples(x, Corn(3), grade), "sigmoid")
    reached = (grade >= 1).numpy()
    second = LogisticRegression(C=0.3, tol=1e-8).fit(x[reached], (grade[reached] > 1).numpy())
    np.testing.assert_allclose(found(x)[:, 1], second.decision_function(x), atol=1e-3)

    labels = torch.stack([grade == 1, grade == 2], dim=1).float()
    labels[:10, 0] = torch.nan
    found = solve(examples(x, MaskedBinaryCrossEntropy(2), labels), "sigmoid")
    first = LogisticRegression(C=0.3, tol=1e-8).fit(x[10:], labels[10:, 0].numpy())
    np.testing.assert_allclose(found(x)[:, 0], first.decision_function(x), atol=1e-3)


def test_numbers_are_ridge_regression_in_standard_deviations():
    x, y = vectors(), np.linspace(20, 80, N)
    found = solve(examples(x, Quantity((50.0, 10.0), "mse"), torch.from_numpy(y)), "identity")
    direct = Ridge(alpha=1 / 0.3).fit(x, (y - 50) / 10)
    np.testing.assert_allclose(found(x)[:, 0], direct.predict(x), atol=1e-9)


def test_balanced_weights_are_those_of_the_loss():
    x, y = vectors(), (np.arange(N) % 5 == 0).astype(int)
    weights = torch.tensor([0.625, 2.5])
    found = solve(examples(x, CrossEntropy(2, weights), torch.from_numpy(y)), "softmax")
    direct = LogisticRegression(C=0.3, tol=1e-8, class_weight="balanced").fit(x, y)
    np.testing.assert_allclose(np.diff(found(x), axis=1)[:, 0], direct.decision_function(x), atol=1e-3)


def test_a_class_without_a_row_is_improbable_and_a_label_of_one_answer_is_its_frequency():
    x, y = vectors(), torch.arange(N) % 2
    p = torch.from_numpy(solve(examples(x, CrossEntropy(3), y), "softmax")(x)).softmax(-1)
    assert (p[:, 2] < 0.05).all()
    assert (p > 0).all()
    labels = torch.stack([y, torch.ones(N)], dim=1).float()
    p = torch.from_numpy(solve(examples(x, MaskedBinaryCrossEntropy(2), labels), "sigmoid")(x)).sigmoid()
    assert p[:, 1].numpy() == pytest.approx((N + 0.5) / (N + 1))


def test_a_row_counts_once_with_and_without_copies_as_views():
    x, y = vectors(), torch.arange(N) % 2
    plain = examples(x, CrossEntropy(2), y)
    copied = examples(x, CrossEntropy(2), y, np.concatenate([x, x]), np.concatenate([np.arange(N)] * 2))
    found = [solve(one.with_views(shared=True), "softmax").weight_KF for one in (plain, copied)]
    np.testing.assert_allclose(*found, atol=1e-4)


def test_a_constant_feature_becomes_nothing():
    x = vectors()
    x[:, 3] = 7 + 1e-9 * vectors(seed=1)[:, 3]
    assert (Scale.of(x)(x)[:, 3] == 0).all()
    assert Scale.of(x)(x)[:, 4].std() == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_vote_as_those_of_scikit_learn_and_one_more(k):
    x, y = vectors(), np.arange(N) % 3
    new = vectors(n=20, seed=1)
    found = examples(x, CrossEntropy(3), torch.from_numpy(y))
    (logits,) = neighbours_path(found, "softmax", [k], new)
    share = KNeighborsClassifier(k).fit(x, y).predict_proba(new)
    np.testing.assert_allclose(np.exp(logits), (share * k + 1 / 3) / (k + 1))
    head = Neighbours(8, 3, "softmax")
    arrays = (torch.from_numpy(one) for one in (x, found.values_NK, found.weights_NK))
    head.learn(*arrays, torch.full((3,), 1 / 3), k)
    np.testing.assert_allclose(head(torch.from_numpy(new)).numpy(), logits, atol=1e-5)


def test_weights_of_neighbours_are_loaded_into_a_module_that_was_just_made():
    one, other = (build_aggregator("neighbours", 8, 2, standardise=True) for _ in range(2))
    x = torch.randn(9, 8)
    one.head.learn(x, torch.eye(2).repeat(5, 1)[:9], torch.ones(9, 2), torch.full((2,), 0.5), 3)
    other.load_state_dict(one.state_dict())
    bags = torch.randn(4, 5, 8)
    assert torch.equal(one(bags), other(bags))
    with pytest.raises(ValueError, match="no sum over tiles"):
        one.eval().explain(bags[:1], 0)


def test_covariates_are_standardised_by_what_is_known_of_them():
    x = np.concatenate([1000 * vectors(), vectors(width=2, seed=1), np.ones((N, 1))], axis=1)
    x[:9, 8] = np.nan
    scale = Scale.of(x, covariates=3)
    found = scale(x)
    assert (found[:9, 8] == 0).all()
    assert [found[9:, 8].mean(), found[9:, 8].std()] == pytest.approx([0, 1])
    assert found[:, 9].std() == pytest.approx(1)  # though the features vary a thousand times as much
    assert (found[:, 10] == 0).all()


# ---- what is chosen


def loss_of(objective, target):
    return lambda logits: float(objective.loss(torch.from_numpy(logits), target))


def test_noise_is_held_down_and_a_plain_answer_is_not():
    target = torch.arange(N) % 2
    objective, folds = CrossEntropy(2), np.arange(N) // 2 % 5
    of_noise = choose(
        "C", examples(vectors(width=300), objective, target), "softmax", folds, loss_of(objective, target)
    )
    x = vectors()
    x[:, 0] = 10 * target.numpy() - 5
    plain = choose("C", examples(x, objective, target), "softmax", folds, loss_of(objective, target))
    assert of_noise.value < 1e-3 < 0.1 < plain.value
    assert plain.folds == 5
    assert plain.loss < of_noise.loss
    assert {of_noise.value, plain.value} <= set(GRID)


def test_views_never_stand_on_the_other_side_of_a_fold():
    """Views that give each row's answer away would, in another fold, tell the answer of held-out rows."""
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.integers(0, 2, N))
    x = vectors()
    objective = CrossEntropy(2)
    leak = examples(x, objective, target, x.copy(), np.arange(N))  # the same vectors again
    folds = np.arange(N) % 5
    found = choose("k", leak, "softmax", folds, loss_of(objective, target), given=1)
    right = (found.logits_NK.argmax(axis=1) == target.numpy()).mean()
    assert right < 0.75  # a copy across folds would make it 1


# ---- as a run

WORDS = ["--config=probe", "--trainer.accelerator=cpu", "--figures=false", "--report=false", "--data.patient=patient"]
MIXED = np.random.default_rng(3).permutation(40)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """40 bags of 4 tiles of 20 patients, whose mean says class, grade, number and labels."""
    folder = tmp_path_factory.mktemp("bags")
    rng, rows = np.random.default_rng(0), []
    for i in MIXED:
        grade = int(i // 2 % 3)
        features = rng.normal(size=(4, 6)).astype(np.float32)
        features[:, 0] += 3 * grade
        write_bag(folder / "features" / f"s{i:02d}.h5", features)
        row = {
            "path": f"s{i:02d}.svs",
            "patient": f"P{i // 2:02d}",
            "grade": grade,
            "ill": ("healthy", "ill")[grade > 0],
        }
        row |= {"any": int(grade > 0)}
        rows.append(row | {"age": 40 + 10 * grade + float(rng.normal()), "high": int(grade > 1)})
    return write_table(folder / "table.csv", rows)


def fit(medsoft, table: Path, out: Path, *more: str) -> tuple[int, str, str]:
    where = [f"--data.table={table}", f"--data.features={table.parent / 'features'}", f"--out={out}"]
    return medsoft("fit", *WORDS, *where, *more)


@pytest.mark.parametrize(
    ("more", "metric"),
    [
        (["--data.label=ill", "--data.positive=ill"], "auroc"),
        (["--data.label=grade", "--data.task=ordinal", "--model.class_weights=balanced"], "auroc"),
        (["--data.label=any,high"], "auroc"),
        (["--data.label=age", "--data.task=regression"], "concordance"),
        (["--data.label=grade", "--data.task=multiclass", "--model.head=knn"], "auroc"),
    ],
    ids=["binary", "ordinal", "multilabel", "regression", "knn"],
)
def test_every_task_is_solved_and_answers_again_from_its_checkpoint(tmp_path, medsoft, table, more, metric):
    code, out, err = fit(medsoft, table, tmp_path / "run", *more)
    assert code == 0, err
    assert "Probe: " in out
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    value = scores["macro"].get(metric, scores["overall"].get(metric))
    assert value > 0.8
    epochs = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert len(epochs) == 1
    assert {"C", "inner_loss"} <= set(epochs) or {"k", "inner_loss"} <= set(epochs)
    code, _, err = medsoft(
        "test", f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'again'}", "--figures=false", "--report=false"
    )
    assert code == 0, err
    first = pd.read_csv(tmp_path / "run" / "predictions.csv").query("split == 'test'").reset_index(drop=True)
    pd.testing.assert_frame_equal(first, pd.read_csv(tmp_path / "again" / "predictions.csv"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--trainer.max_epochs=3", "solved in one step"),
        ("--ema_decay=0.9", "moving average"),
        ("--lr_find=true", "solved in one step: leave out lr_find"),
        ("--trainer.batch=auto", "solved in one step: leave out trainer.batch"),
        ("--model.k=3", "of model.head knn"),
        ("--model.C=0", "larger than 0"),
        ("--data.tile_fraction=0.5", "one vector a bag"),
        ("--data.balanced_sampling=true", "class_weights balanced"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, medsoft, table, option, message):
    code, _, err = fit(medsoft, table, tmp_path / "run", "--data.label=ill", "--data.positive=ill", option)
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_class_with_three_patients_is_folded_by_three(tmp_path, medsoft, table):
    frame = pd.read_csv(table).sort_values("patient")
    rare = frame["patient"].isin(["P02", "P05", "P08", "P11"])
    frame["rare"] = np.where(rare, "rare", "usual")
    frame["split"] = np.where(frame["patient"].isin(["P11", "P12", "P13"]), "val", "train")
    frame.to_csv(table.with_name("rare.csv"), index=False)
    code, out, err = fit(
        medsoft, table.with_name("rare.csv"), tmp_path / "run", "--data.label=rare", "--data.positive=rare"
    )
    assert code == 0, err
    assert "by 3 inner folds by patient (not 5: class 'rare' has 3)" in out


def test_one_label_in_all_rows_is_one_message(tmp_path, medsoft, table):
    frame = pd.read_csv(table).assign(same="ill")
    frame.to_csv(table.with_name("same.csv"), index=False)
    code, _, err = fit(medsoft, table.with_name("same.csv"), tmp_path / "run", "--data.label=same")
    assert code == 2
    assert len(err.strip().splitlines()) <= 3


def test_covariates_join_the_features_as_in_scikit_learn(tmp_path, medsoft, table):
    frame = pd.read_csv(table)
    frame["dose"] = np.where(frame.index % 7 == 0, np.nan, 5.0 * frame["high"] + np.arange(40) % 3)
    frame["sex"] = frame["patient"].str[1:].astype(int) % 2
    frame.to_csv(table.with_name("doses.csv"), index=False)
    more = ["--data.label=high", "--data.positive=1", "--data.covariates=dose,sex", "--model.C=0.1"]
    code, out, err = fit(medsoft, table.with_name("doses.csv"), tmp_path / "run", *more)
    assert code == 0, err
    assert "6 standardised features and 2 covariates of" in out

    features = []
    for path in frame["path"]:
        with open_bag(table.parent / "features" / path.replace(".svs", ".h5")) as bag:
            features.append(bag.read().mean(axis=0, dtype=np.float64))
    beside = frame[["dose", "sex"]].to_numpy(np.float64)
    x = np.concatenate([np.stack(features), beside, np.isnan(beside).astype(float)], axis=1)
    ids = frame["path"].str.removesuffix(".svs")
    train = (ids.map(pd.read_csv(tmp_path / "run" / "split.csv").set_index("id")["split"]) == "train").to_numpy()
    sd = np.nanstd(x[train], axis=0)
    z = np.nan_to_num((x - np.nanmean(x[train], axis=0)) / np.where(sd > 0, sd, np.inf))
    direct = LogisticRegression(C=0.1, tol=1e-8).fit(z[train], frame["high"][train])
    expected = pd.Series(direct.predict_proba(z)[:, 1], index=ids)
    found = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index("id")["p_positive"]
    assert found.to_numpy() == pytest.approx(expected[found.index].to_numpy(), abs=1e-4)

    code, _, err = fit(medsoft, table.with_name("doses.csv"), tmp_path / "knn", *more[:3], "--model.head=knn")
    assert (code, "use model.head linear" in err) == (2, True), err
