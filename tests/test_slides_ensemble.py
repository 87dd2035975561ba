"""``slides predict`` with several models, and with what is familiar to a run: what ``predict`` says, slide by slide."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medsoft.evaluation.predictions import read_predictions
from medsoft.learn.familiar import Familiar
from medsoft.task import Task
from tests.bag_sets import TINY_BAGS, write_slides
from tests.test_slides_predict import write_checkpoint

P = ["p_healthy", "p_ill"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    return write_slides(tmp_path_factory.mktemp("slides"), n=24)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, slides) -> list[Path]:
    """Two seeds on one split, and a cross-validation of two folds."""
    from medsoft.cli import main

    folder = tmp_path_factory.mktemp("runs")
    base = [*TINY_BAGS, f"--data.table={slides}", f"--data.features={slides.parent / 'features'}"]
    base += ["--trainer.max_epochs=1", "--report=false"]
    for seed, more in ((0, []), (1, [f"--data.splits_from={folder / '0' / 'split.csv'}"])):
        assert main(["fit", *base, *more, f"--seed_everything={seed}", f"--out={folder / str(seed)}"]) == 0
    assert main(["crossval", *base, "--folds=2", f"--out={folder / 'cv'}"]) == 0
    return [folder / name for name in ("0", "1", "cv")]


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> Path:
    return write_slides(tmp_path_factory.mktemp("strangers"), n=6, seed=5)


def files(table: Path) -> list[Path]:
    return sorted((table.parent / "features").iterdir())


def predictions(folder: Path) -> pd.DataFrame:
    frame = read_predictions(folder / "predictions.csv")[0].set_index("id").sort_index()
    return frame.drop(columns=["patient", "exam", "split", "target"])


def test_slides_get_what_predict_gives_their_features(medsoft, runs, strangers, tmp_path):
    where = [f"--data.table={strangers}", f"--data.features={strangers.parent / 'features'}", "--report=false"]
    for name, members in {"one": runs[:1], "two": runs[:2], "folds": runs[2:]}.items():
        assert medsoft("predict", "--ckpt_path", *members, *where, f"--out={tmp_path / name}")[0] == 0
        words = [word for member in members for word in ("--checkpoint", member)]
        code, said, err = medsoft("slides", "predict", *files(strangers), *words, "--out", tmp_path / f"{name} slides")
        assert (code, err) == (0, ""), err
        assert ("2 models" in said) == (name != "one")
        expected, found = predictions(tmp_path / name), predictions(tmp_path / f"{name} slides")
        assert list(found) == list(expected)
        assert found.index.tolist() == expected.index.tolist()
        assert {"ood_score", "abstain"} <= set(found)
        assert ({"members", "spread_healthy", "spread_ill"} <= set(found)) == (name != "one")
        numbers = [column for column in found if column not in ("fold", "task")]
        np.testing.assert_allclose(found[numbers].astype(float), expected[numbers].astype(float), rtol=1e-5, atol=1e-6)
        assert (tmp_path / f"{name} slides" / "heatmaps").exists() == (name == "one")


def test_the_mean_is_that_of_the_members(medsoft, runs, strangers, tmp_path):
    for name, words in {"a": runs[:1], "b": runs[1:2], "both": runs[:2]}.items():
        named = [word for run in words for word in ("--checkpoint", run)]
        assert medsoft("slides", "predict", *files(strangers), *named, "--out", tmp_path / name)[0] == 0
    a, b, both = (predictions(tmp_path / name) for name in ("a", "b", "both"))
    np.testing.assert_allclose(both[P], (a[P] + b[P]) / 2, atol=1e-12)
    assert both["spread_ill"].astype(float).to_numpy() == pytest.approx(abs(a["p_ill"] - b["p_ill"]) / np.sqrt(2))
    assert both["spread_ill"].astype(float).max() > 1e-4
    scores = (a["ood_score"].astype(float) + b["ood_score"].astype(float)) / 2
    np.testing.assert_allclose(both["ood_score"].astype(float), scores)
    assert (both["abstain"].astype(int) == (scores > 1)).all()


def test_slides_beyond_the_runs_threshold_are_set_aside(medsoft, runs, strangers, tmp_path):
    """The threshold is the run's, kept beside its checkpoint."""
    strict = shutil.copytree(runs[0], tmp_path / "strict")
    known = Familiar.read(strict / "familiar.safetensors")
    replace(known, threshold=known.threshold / 1000).write(strict / "familiar.safetensors")
    scores = {}
    for name, run in {"own": runs[0], "strict": strict}.items():
        words = ["--checkpoint", run, "--heatmap", "false", "--out", tmp_path / name]
        assert medsoft("slides", "predict", *files(strangers), *words)[0] == 0
        scores[name] = predictions(tmp_path / name)
    own, told = (scores[name]["ood_score"].astype(float) for name in ("own", "strict"))
    np.testing.assert_allclose(told, 1000 * own)
    assert (scores["own"]["abstain"].astype(int) == (own > 1)).all()
    assert (scores["strict"]["abstain"] == "1").all()


def test_a_checkpoint_by_itself_has_no_score(medsoft, runs, strangers, tmp_path):
    alone = write_checkpoint(tmp_path / "alone.ckpt", files(strangers)[0], Task("binary", ("healthy", "ill")))
    words = ["--checkpoint", alone, "--out", tmp_path / "out"]
    assert medsoft("slides", "predict", *files(strangers), *words)[0] == 0
    assert "ood_score" not in predictions(tmp_path / "out")
    assert medsoft("slides", "predict", *files(strangers), *words, "--checkpoint", runs[0])[0] == 0
    mixed = predictions(tmp_path / "out")
    assert "ood_score" not in mixed, "one member cannot speak for both"
    assert (mixed["members"] == "2").all()


def test_what_is_no_ensemble_of_slides_is_refused(medsoft, runs, strangers, tmp_path):
    out = tmp_path / "out"
    other = write_checkpoint(tmp_path / "other.ckpt", files(strangers)[0], Task("binary", ("ill", "healthy")))
    wide = write_slides(tmp_path / "wide", n=4, num_features=9)
    stranger = write_checkpoint(tmp_path / "wide.ckpt", files(wide)[0], Task("binary", ("healthy", "ill")))
    both = ["--checkpoint", runs[0], "--checkpoint", runs[1]]
    for words, says in (
        ([*both, "--heatmap", "true"], "heatmaps are of one model"),
        ([*both, "--classes", "ill"], "heatmaps are of one model"),
        (["--checkpoint", runs[0], "--checkpoint", runs[0] / "checkpoints" / "best.ckpt"], "is named twice"),
        (["--checkpoint", runs[0], "--checkpoint", tmp_path / "nowhere"], "no such checkpoint"),
        (["--checkpoint", runs[0], "--checkpoint", other], "answer different questions: binary (ill, healthy) and"),
        (["--checkpoint", runs[0], "--checkpoint", stranger], "trained on features of different kinds"),
    ):
        code, _, err = medsoft("slides", "predict", *files(strangers), *words, "--out", out)
        assert code == 2, words
        assert says in err
        assert not out.exists()
    code, _, err = medsoft("slides", "heatmap", *files(strangers), "--checkpoint", runs[2], "--out", out)
    assert code == 2
    assert "heatmaps are of one model" in err


def test_a_regression_has_one_spread(medsoft, slides, tmp_path):
    task = Task("regression", ())
    members = []
    for seed in range(2):
        path = write_checkpoint(tmp_path / f"{seed}.ckpt", files(slides)[0], task)
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["state_dict"]["aggregator.head.bias"] += seed
        torch.save(checkpoint, path)
        members += ["--checkpoint", path]
    assert medsoft("slides", "predict", *files(slides)[:3], *members, "--out", tmp_path / "out")[0] == 0
    frame = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert frame["spread"].to_numpy() == pytest.approx(np.sqrt(0.5), rel=1e-4)
    assert (frame["members"] == 2).all()
