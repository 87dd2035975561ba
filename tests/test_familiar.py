"""What lies far from the training data: the score, its threshold, its file and columns, and what abstaining changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medsoft.errors import InputError
from medsoft.evaluation.abstention import abstained
from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.predictions import make_predictions, read_predictions
from medsoft.evaluation.settings import Settings
from medsoft.learn.familiar import Familiar, learn_familiar
from medsoft.task import Task
from tests.bag_sets import TINY_BAGS, write_slides
from tests.conftest import TINY, write_images

BINARY = Task("binary", ("no", "yes"))


def correlated(n: int, width: int = 6, seed: int = 0) -> np.ndarray:
    mixing = np.random.default_rng(9).normal(size=(width, width))
    return np.random.default_rng(seed).normal(size=(n, width)) @ mixing + 5


def test_the_distance_is_that_of_mahalanobis_under_the_shrunk_covariance():
    from scipy.spatial.distance import mahalanobis
    from sklearn.covariance import LedoitWolf

    train, others = correlated(200), correlated(20, seed=1)
    found = learn_familiar(train, correlated(100, seed=2), 0.99)
    precision = np.linalg.inv(LedoitWolf().fit(train).covariance_)
    expected = [mahalanobis(row, train.mean(axis=0), precision) for row in others]
    np.testing.assert_allclose(found.distance(others), expected, rtol=1e-9)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99, 1.0])
def test_the_threshold_holds_the_stated_share_of_the_validation_part(quantile):
    val = correlated(150, seed=2)
    found = learn_familiar(correlated(200), val, quantile)
    within = (found.score(val) <= 1).mean()
    assert quantile <= within <= quantile + 1 / 149 + 1e-9
    assert (found.score(correlated(20) + 100) > 1).all()


def test_more_features_than_samples_and_features_that_never_vary():
    train = np.concatenate([correlated(20), np.zeros((20, 40))], axis=1)
    found = learn_familiar(train, train[:5], 0.99)
    assert np.isfinite(found.score(train)).all()
    same = learn_familiar(np.ones((4, 3)), np.ones((2, 3)), 0.99)
    assert (same.score(np.ones((2, 3))) == 0).all()
    assert (same.score(np.zeros((1, 3))) > 1).all()
    assert found.score(np.full((1, 46), np.nan)).tolist() == [np.inf]
    with pytest.raises(ValueError, match="1 training and 5 validation"):
        learn_familiar(train[:1], train[:5], 0.99)


def test_a_file_and_back(tmp_path):
    found = learn_familiar(correlated(50), correlated(20, seed=1), 0.95, "ab12")
    found.write(tmp_path / "familiar.safetensors")
    again = Familiar.read(tmp_path / "familiar.safetensors")
    assert (again.threshold, again.quantile, again.n_train, again.n_val, again.weights) == (
        found.threshold, 0.95, 50, 20, "ab12",
    )  # fmt: skip
    new = correlated(5, seed=3)
    assert (again.score(new) == found.score(new)).all()
    for content in (b"", b"not a file of tensors", (tmp_path / "familiar.safetensors").read_bytes()[:100]):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            Familiar.read(tmp_path / "bad.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory, table) -> Path:
    from medsoft.cli import main

    out = tmp_path_factory.mktemp("fit") / "run"
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    assert main(["fit", *words, "--trainer.max_epochs=3", "--ood_quantile=0.9", f"--out={out}"]) == 0
    return out


def predictions(folder: Path) -> pd.DataFrame:
    frame = read_predictions(folder / "predictions.csv")[0]
    return frame.assign(ood_score=frame["ood_score"].astype(float), abstain=frame["abstain"].astype(int))


def test_a_run_knows_what_is_familiar(run):
    kept = Familiar.read(run / "familiar.safetensors")
    frame = predictions(run)
    val = frame[frame["split"] == "val"]
    assert (kept.quantile, kept.n_val) == (0.9, len(val))
    assert kept.n_train == (pd.read_csv(run / "split.csv")["split"] == "train").sum()
    assert val["ood_score"].max() == pytest.approx(1), (
        "with few validation samples the threshold is the farthest of them"
    )
    assert (frame["abstain"] == (frame["ood_score"] > 1)).all()


def test_predict_abstains_from_what_is_unlike_the_training_data(tmp_path, medsoft, run):
    table = write_images(tmp_path / "new", 6)
    for path in sorted((table.parent / "images").iterdir())[:3]:
        stripes = np.zeros((40, 48, 3), np.uint8)
        stripes[::4] = (255, 0, 255)
        stripes[:, ::4] = (0, 255, 0)
        stripes += len(path.name) * int(path.stem[2:]) % 7
        Image.fromarray(stripes).save(path)
    out = tmp_path / "out"
    assert medsoft("predict", "--ckpt_path", run, f"--data.table={table}", f"--out={out}")[0] == 0
    frame = predictions(out)
    assert frame["abstain"][:3].tolist() == [1, 1, 1]
    assert frame["abstain"][3:].tolist() == [0, 0, 0]
    # The same with views: the score is that of the picture as it is.
    again = ["--transforms.flips=both", "--tta=4", f"--out={tmp_path / 'views'}"]
    assert medsoft("predict", "--ckpt_path", run, f"--data.table={table}", *again)[0] == 0
    np.testing.assert_array_equal(predictions(tmp_path / "views")["ood_score"], frame["ood_score"])
    # Two members: the mean of their scores.
    members = ["--ckpt_path", run, copied(run, tmp_path / "copy"), f"--data.table={table}"]
    assert medsoft("predict", *members, f"--out={tmp_path / 'both'}")[0] == 0
    np.testing.assert_allclose(predictions(tmp_path / "both")["ood_score"], frame["ood_score"])


def copied(run: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(run, to)
    return to


def test_what_is_familiar_belongs_to_its_weights(tmp_path, medsoft, run, table):
    """Another checkpoint of the same run has other features: no score rather than a wrong one."""
    last = run / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state["state_dict"]["head.bias"] += 1
    other = copied(run, tmp_path / "copy") / "checkpoints" / "last.ckpt"
    torch.save(state, other)
    assert medsoft("test", "--ckpt_path", other, f"--out={tmp_path / 'out'}")[0] == 0
    assert "ood_score" not in read_predictions(tmp_path / "out" / "predictions.csv")[0]
    (tmp_path / "copy" / "familiar.safetensors").write_bytes(b"broken")
    code, _, err = medsoft("test", "--ckpt_path", tmp_path / "copy", f"--out={tmp_path / 'no'}")
    assert code == 2
    assert "familiar.safetensors: cannot be read" in err


def test_it_can_be_left_out_and_has_a_range(tmp_path, fit):
    fit("--trainer.max_epochs=1", "--ood_quantile=null", f"--out={tmp_path / 'run'}")
    assert not (tmp_path / "run" / "familiar.safetensors").exists()
    assert "abstain" not in read_predictions(tmp_path / "run" / "predictions.csv")[0]
    _, err = fit("--ood_quantile=1.2", f"--out={tmp_path / 'no'}", code=2)
    assert "ood_quantile 1.2 must be between 0.5 and 1" in err


def test_bags_have_features_too(tmp_path, medsoft):
    slides = write_slides(tmp_path / "slides", n=24)
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}"]
    assert medsoft("fit", *TINY_BAGS, *where, "--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")[0] == 0
    assert Familiar.read(tmp_path / "run" / "familiar.safetensors").mean_D.shape == (16,)
    assert predictions(tmp_path / "run")["ood_score"].notna().all()


# ---- what abstaining changes


def table_with_abstentions(n: int = 120, aside: int = 30) -> pd.DataFrame:
    """Answers that are right but for noise, and at random where the model abstains."""
    rng = np.random.default_rng(0)
    yes = rng.integers(2, size=n)
    logit = rng.normal(size=n) + np.where(np.arange(n) < aside, 0, 2 * (2 * yes - 1))
    p = 1 / (1 + np.exp(-logit))
    extra = {"abstain": (np.arange(n) < aside).astype(int)}
    ids = [f"s{i}" for i in range(n)]
    return make_predictions(BINARY, ids, np.stack([1 - p, p], 1), yes, split="test", extra=extra)


def test_metrics_with_and_without_what_is_set_aside(tmp_path, medsoft):
    from sklearn.metrics import roc_auc_score

    from medsoft.evaluation.predictions import write_predictions

    frame = table_with_abstentions()
    part = evaluate_table(frame, BINARY, Settings(draws=200)).parts[0]
    found = part.abstention
    assert (found.n, found.n_answered, found.coverage) == (120, 90, 0.75)
    auroc = next(e for e in found.estimates if e.metric == "auroc")
    kept = frame[frame["abstain"] == 0]
    assert auroc.value_all == pytest.approx(roc_auc_score(frame["target"] == "yes", frame["p_yes"]))
    assert auroc.value == pytest.approx(roc_auc_score(kept["target"] == "yes", kept["p_yes"]))
    assert auroc.difference == pytest.approx(auroc.value - auroc.value_all)
    assert 0 < auroc.difference_low < auroc.difference < auroc.difference_high
    write_predictions(frame, tmp_path / "predictions.csv")
    words = ["--draws=50", "--pictures=false", f"--out={tmp_path / 'out'}"]
    code, out, _ = medsoft("evaluate", tmp_path / "predictions.csv", *words)
    assert code == 0
    assert "30 of 120 samples are set aside (column abstain): AUROC (yes)" in out
    lines = pd.read_csv(tmp_path / "out" / "abstention.csv")
    assert set(lines["metric"]) == {"auroc", "sensitivity", "specificity", "brier"}
    assert (lines["coverage"] == 0.75).all()
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["parts"][0]["abstention"]


def test_nothing_and_everything_set_aside():
    frame = table_with_abstentions(aside=0)
    found = evaluate_table(frame, BINARY, Settings(draws=50)).parts[0].abstention
    assert found.coverage == 1
    assert all(e.difference == 0 for e in found.estimates)
    found = evaluate_table(frame.assign(abstain=1), BINARY, Settings(draws=50)).parts[0].abstention
    assert (found.n_answered, found.estimates) == (0, [])
    assert evaluate_table(frame.drop(columns="abstain"), BINARY, Settings(draws=50)).parts[0].abstention is None
    numbers = make_predictions(Task("regression", ()), list("abc"), [[1.0], [2.0], [9.0]], [1.0, 3.0, 3.0])
    numbers["abstain"] = [0, 0, 1]
    found = evaluate_table(numbers, None, Settings(draws=50)).parts[0].abstention
    mae = next(e for e in found.estimates if e.metric == "mae")
    assert (mae.value_all, mae.value) == pytest.approx((7 / 3, 0.5))


def test_a_column_of_something_else_is_refused():
    frame = table_with_abstentions().assign(abstain="perhaps")
    with pytest.raises(InputError, match="column 'abstain' is 'perhaps' in row 's0': 0 or 1 is allowed"):
        abstained(frame)
