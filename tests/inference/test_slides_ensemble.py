"""``slides predict`` with several models, and with a run's detector: what ``predict`` says, slide by slide."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medsoft.classifiers.out_of_distribution import Detector, Place
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.inference.slides.agreement import RANK, SHARED
from medsoft.task import Task
from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.slides import write_checkpoint

pytestmark = pytest.mark.long

P = ["p_healthy", "p_ill"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    return write_slides(tmp_path_factory.mktemp("slides"), n=24)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, slides) -> list[Path]:
    """Two seeds on one split, and a cross-validation of two folds."""
    from medsoft.cli.main import main

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
    for name, members in {"one": runs[:1], "folds": runs[2:]}.items():
        assert medsoft("predict", "--checkpoint", *members, *where, f"--out={tmp_path / name}")[0] == 0
        words = [word for member in members for word in ("--checkpoint", member)]
        code, said, err = medsoft("slides", "predict", *files(strangers), *words, "--out", tmp_path / f"{name} slides")
        assert (code, err) == (0, ""), err
        assert ("2 models" in said) == (name != "one")
        expected, found = predictions(tmp_path / name), predictions(tmp_path / f"{name} slides")
        compared = [column for column in found if column not in expected]
        assert compared == ([] if name == "one" else [RANK, SHARED])
        assert (f"explanations of {len(found)} slides: the order of the tiles" in said) == (name != "one")
        found = found.drop(columns=compared)
        assert list(found) == list(expected)
        assert found.index.tolist() == expected.index.tolist()
        assert {"ood_score", "abstain"} <= set(found)
        assert ({"members", "spread_healthy", "spread_ill"} <= set(found)) == (name != "one")
        numbers = [column for column in found if column not in ("fold", "task")]
        np.testing.assert_allclose(found[numbers].astype(float), expected[numbers].astype(float), rtol=1e-5, atol=1e-6)
        assert (tmp_path / f"{name} slides" / "heatmaps").exists() == (name == "one")


def results_of(folder: Path) -> set[str]:
    """Names of the files that follow from predictions."""
    files = [*folder.iterdir(), *folder.glob("evaluation/*"), *folder.glob("figures/*")]
    of_work = ("config.yaml", "versions.json", "facts.json", "slides.csv", "predictions.json")
    return {str(file.relative_to(folder)) for file in files if file.is_file() and file.name not in of_work}


@pytest.mark.parametrize("labelled", [True, False])
def test_slides_get_the_rows_scores_and_report_that_predict_gives(medsoft, runs, strangers, tmp_path, labelled):
    table = pd.read_csv(strangers).assign(split=["test"] * 6, exam=list("aabbcd"), patient=list("PPQQRS"))
    table = table if labelled else table.drop(columns=["label", "grade"])
    table.to_csv(tmp_path / "bags.csv", index=False)
    table.assign(path=[str(file) for file in files(strangers)]).to_csv(tmp_path / "slides.csv", index=False)
    about = ["--data.patient=patient", "--data.exam=exam", "--data.split=split"]
    where = [f"--data.table={tmp_path / 'bags.csv'}", f"--data.features={strangers.parent / 'features'}", *about]
    assert medsoft("predict", "--checkpoint", runs[0], *where, f"--out={tmp_path / 'one'}", "--report=true")[0] == 0
    words = ["--checkpoint", runs[0], "--out", tmp_path / "two", "--heatmap", "false", "--figures", "false"]
    words += ["--label", "label"] if labelled else []
    code, said, err = medsoft("slides", "predict", tmp_path / "slides.csv", *words)
    assert (code, err) == (0, ""), err
    one, two = tmp_path / "one", tmp_path / "two"
    for name in ("predictions.csv", "predictions_exams.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(two / name), pd.read_csv(one / name), rtol=1e-5, atol=1e-6)
    assert results_of(two) == results_of(one)
    assert ("report.html" in results_of(two)) == labelled == ("Report: " in said)
    for name in ("metrics.json", "metrics_exams.json", "evaluation/evaluation.json", "report.json"):
        if not labelled and not name.startswith("metrics"):
            continue
        mine, theirs = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (two, one))
        if name.startswith("metrics"):
            pd.testing.assert_frame_equal(pd.json_normalize(mine), pd.json_normalize(theirs))
        else:
            assert mine["notes"] == theirs["notes"]
    if labelled:
        tables = [pd.read_csv(folder / "evaluation" / "metrics.csv") for folder in (two, one)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-6)
        flows = [json.loads((folder / "report.json").read_text(encoding="utf-8"))["flow"] for folder in (two, one)]
        assert flows[0]["rows"] == flows[1]["rows"] == 6
        assert flows[0]["splits"] == flows[1]["splits"]


def test_the_results_of_a_run_are_not_written_over(medsoft, runs, strangers):
    before = (runs[0] / "predictions.csv").read_bytes()
    code, _, err = medsoft("slides", "predict", *files(strangers), "--checkpoint", runs[0], "--out", runs[0])
    assert code == 2
    assert "is the folder of a run" in err
    assert (runs[0] / "predictions.csv").read_bytes() == before


def test_the_mean_is_that_of_the_members(medsoft, runs, strangers, tmp_path):
    for name, words in {"a": runs[:1], "b": runs[1:2], "both": runs[:2]}.items():
        named = [word for run in words for word in ("--checkpoint", run)]
        words = [*named, "--heatmap=false", "--out", tmp_path / name]
        assert medsoft("slides", "predict", *files(strangers), *words)[0] == 0
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
    known = Detector.read(strict / "out_of_distribution.safetensors")
    none = Place(0.0, 1e-6, 1e-6)
    replace(known, features_place=none, inputs_place=none).write(strict / "out_of_distribution.safetensors")
    scores = {}
    for name, run in {"own": runs[0], "strict": strict}.items():
        words = ["--checkpoint", run, "--heatmap", "false", "--out", tmp_path / f"{name} slides"]
        assert medsoft("slides", "predict", *files(strangers), *words)[0] == 0
        scores[name] = predictions(tmp_path / f"{name} slides")
    own = scores["own"]["ood_score"].astype(float)
    assert (scores["own"]["abstain"].astype(int) == (own > 1)).all()
    assert (scores["strict"]["abstain"] == "1").all()


def test_a_checkpoint_by_itself_has_no_score(medsoft, runs, strangers, tmp_path):
    alone = write_checkpoint(tmp_path / "alone.ckpt", files(strangers)[0], Task.of("binary", ("healthy", "ill")))
    words = ["--checkpoint", alone, "--heatmap=false", "--out", tmp_path / "out"]
    assert medsoft("slides", "predict", *files(strangers), *words)[0] == 0
    assert "ood_score" not in predictions(tmp_path / "out")
    assert medsoft("slides", "predict", *files(strangers), *words, "--checkpoint", runs[0])[0] == 0
    mixed = predictions(tmp_path / "out")
    assert "ood_score" not in mixed, "one member cannot speak for both"
    assert (mixed["members"] == "2").all()


def test_what_is_no_ensemble_of_slides_is_refused(medsoft, runs, strangers, tmp_path):
    out = tmp_path / "out"
    other = write_checkpoint(tmp_path / "other.ckpt", files(strangers)[0], Task.of("binary", ("ill", "healthy")))
    wide = write_slides(tmp_path / "wide", n=4, num_features=9)
    stranger = write_checkpoint(tmp_path / "wide.ckpt", files(wide)[0], Task.of("binary", ("healthy", "ill")))
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
    task = Task.of("regression", ())
    members = []
    for seed in range(2):
        path = write_checkpoint(tmp_path / f"{seed}.ckpt", files(slides)[0], task)
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["state_dict"]["aggregator.head.bias"] += seed
        torch.save(checkpoint, path)
        members += ["--checkpoint", path]
    assert (
        medsoft("slides", "predict", *files(slides)[:3], *members, "--heatmap=false", "--out", tmp_path / "out")[0] == 0
    )
    frame = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert frame["spread"].to_numpy() == pytest.approx(np.sqrt(0.5), rel=1e-4)
    assert (frame["members"] == 2).all()


def test_members_are_compared_by_what_the_tiles_contribute(medsoft, slides, tmp_path):
    from scipy.stats import spearmanr

    features = files(slides)[:2]
    members = [write_checkpoint(tmp_path / f"{name}.ckpt", features[0], aggregator="mean") for name in "ab"]
    other = torch.load(members[1], weights_only=True)
    torch.manual_seed(7)
    torch.nn.init.normal_(other["state_dict"]["aggregator.head.weight"], std=0.5)
    torch.save(other, members[1])
    words = [*features, "--checkpoint", members[0], "--checkpoint", members[1]]
    code, said, err = medsoft("slides", "predict", *words, "--out", tmp_path / "out")
    assert code == 0, err
    assert "explanations of 2 slides" in said
    frame = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("id")
    for file in features:
        contributions = []
        for name, member in zip("ab", members, strict=True):
            out = tmp_path / name
            assert medsoft("slides", "heatmap", file, "--checkpoint", member, "--out", out, "--classes=tumour")[0] == 0
            table = pd.read_csv(out / "heatmaps" / "tumour" / f"{file.stem}.csv")
            contributions.append(table["contribution"].dropna().to_numpy())
        assert frame[RANK][file.stem] == pytest.approx(spearmanr(*contributions).statistic, abs=1e-6)
        assert frame[SHARED][file.stem] == float(contributions[0].argmax() == contributions[1].argmax())
    assert frame[RANK].between(-1, 1).all()
    assert medsoft("slides", "predict", *words, "--out", tmp_path / "without", "--heatmap=false")[0] == 0
    assert RANK not in pd.read_csv(tmp_path / "without" / "predictions.csv")
