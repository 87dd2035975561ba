"""How a run ends: facts, examples with maps of contributions, and the report with locked thresholds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medsoft.classifiers.image import Classifier
from medsoft.data.transforms.plain import Plain
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.inference.attribution.images import can_be_taken_apart, image_contributions
from medsoft.models.attribution.patches import patch_contributions
from medsoft.specs import Covariates, DataSpec
from medsoft.task import Task
from medsoft.workflows import run_report
from medsoft.workflows.example_figures import overlay
from tests.builders.images import TINY, without_knowledge

pytestmark = pytest.mark.long

TWO = Task.of("binary", ("dark", "light"))
TINY_VIT = "vit_seqnorm_tiny_patch16_224"
BACKBONE = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory, table) -> Path:
    """A run with pictures, 40 images of 20 patients."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("runs") / "tiny"
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", f"--out={out}"]
    assert (
        main(["fit", *words, *TINY, "--report=true", "--figures=true", "--trainer.max_epochs=2", "--examples=2"]) == 0
    )
    return out


def test_a_run_ends_with_its_report(run: Path) -> None:
    values = json.loads((run / "report.json").read_text())
    frame, task = read_predictions(run / "predictions.csv")
    assert [part["heading"] for part in values["parts"]] == ["Test part", "Validation part"]
    splits = {split["name"]: split for split in values["flow"]["splits"]}
    counts = pd.read_csv(run / "split.csv")["split"].value_counts()
    assert {name: split["rows"] for name, split in splits.items()} == counts.to_dict()
    assert splits["train"]["patients"] * 2 == splits["train"]["rows"]
    assert sum(splits["train"]["classes"].values()) == splits["train"]["rows"]
    assert (values["flow"]["unit"], values["flow"]["rows"], values["flow"]["patients"]) == ("image", 40, 20)
    assert values["settings"]["draws"] == run_report.DRAWS
    chosen = [row for row in values["locked"] if row["rule"] == "youden"]
    assert {row["chosen_on"] for row in chosen} == {"val"}
    html = (run / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 2 * len(
        json.loads((run / "examples/examples.json").read_text())["examples"]
    )
    assert f"{run_report.DRAWS} draws" in html
    assert not any(name in html for name in [*frame["id"], *frame["patient"]])
    locked = json.loads((run / "evaluation" / "locked.json").read_text())
    assert (locked["task"], locked["classes"]) == ("binary", list(task.classes))


def test_facts_of_a_run(run: Path) -> None:
    facts = json.loads((run / "facts.json").read_text())
    assert facts["training"]["epochs"] == 2
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert facts["training"]["best_epoch"] == best["epoch"] + 1
    state = best["state_dict"]
    assert facts["model"]["parameters"] == sum(value.numel() for value in state.values())
    assert facts["model"]["backbone"] == "vit_seqnorm_tiny_patch16_224"


def test_another_table_is_read_with_the_thresholds_of_the_run(run: Path, medsoft, table, tmp_path: Path) -> None:
    words = ["--checkpoint", run, "--data.table", table, "--figures=false", "--data.split", "none"]
    frame = pd.read_csv(table).assign(none="test")
    frame["path"] = [str(table.parent / path) for path in frame["path"]]
    frame.to_csv(tmp_path / "other.csv", index=False)
    words[3] = tmp_path / "other.csv"
    code, out, err = medsoft("test", *words, "--report=true", "--out", tmp_path / "test")
    assert code == 0, err
    assert "Report: " in out
    values = json.loads((tmp_path / "test" / "report.json").read_text())
    ours = json.loads((run / "report.json").read_text())
    assert values["locked"] == ours["locked"]
    assert [part["chose_thresholds"] for part in values["parts"]] == [False]
    assert any("as locked by" in note for note in values["notes"])
    rules = {column.split(",")[0] for t in values["parts"][0]["tables"] for column in t["columns"]}
    assert "Youden" in rules
    assert values["run"]["training"] == ours["run"]["training"]


def test_without_labels_there_is_no_report_and_no_table_of_dashes(run: Path, medsoft, table, tmp_path: Path) -> None:
    frame = pd.read_csv(table).drop(columns="label")
    frame["path"] = [str(table.parent / path) for path in frame["path"]]
    frame.to_csv(tmp_path / "new.csv", index=False)
    code, out, err = medsoft(
        "predict",
        "--checkpoint",
        run,
        "--data.table",
        tmp_path / "new.csv",
        "--out",
        tmp_path / "new",
        "--figures=false",
        "--report=true",
    )
    assert code == 0, err
    assert "No row has a target" in out
    assert "–" not in out
    assert "Report" not in out
    assert not (tmp_path / "new" / "report.html").exists()
    assert (tmp_path / "new" / "predictions.csv").is_file()


def test_the_table_of_metrics_has_sensitivity_and_specificity(fit, tmp_path: Path) -> None:
    out, _ = fit("--trainer.max_epochs=1", f"--out={tmp_path / 'run'}", "--report=false")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in ("sensitivity", "specificity"):
        (line,) = [line for line in out.splitlines() if name in line]
        for split in ("val", "test"):
            assert f"{metrics[split]['overall'][name]:.3f}" in line
    assert "Report: " not in out
    assert not (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "evaluation").exists()
    assert not (tmp_path / "run" / "examples").exists()


def test_examples_are_of_the_reported_part_and_their_files_are_there(run: Path) -> None:
    frame, _ = read_predictions(run / "predictions.csv")
    known = frame.set_index("id")
    examples = json.loads((run / "examples" / "examples.json").read_text())["examples"]
    assert examples
    for example in examples:
        row = known.loc[example["id"]]
        assert (example["split"], row["split"]) == ("test", "test")
        assert example["target"] == row["target"]
        assert example["p"] == row[f"p_{example['predicted']}"]
        assert Image.open(run / "examples" / example["image"]).size == (32, 32)
        assert Image.open(run / "examples" / example["map"]).size == (32, 32)


def test_a_report_can_be_made_again_by_evaluate(run: Path, medsoft, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(run, folder)
    code, _, err = medsoft("evaluate", folder, "--out", tmp_path / "again", "--draws", 20, "--figures", "false")
    assert code == 0, err
    values = json.loads((tmp_path / "again" / "report.json").read_text())
    assert values["run"]["name"] == "moved"
    assert values["flow"]["rows"] == 40
    assert "data:image/jpeg" in (tmp_path / "again" / "report.html").read_text()


def spec(task: Task = TWO, **about) -> DataSpec:
    return DataSpec(task, 3, (32, 32), np.ones(len(task.classes)), **about)


def test_shares_are_those_of_the_log_odds_covariates_included() -> None:
    """Two classes: the log-odds are the difference of the logits, which is linear in the head's weights."""
    torch.manual_seed(0)
    model = Classifier(spec(covariates=Covariates(("age",), ((50.0, 10.0),))), TINY_VIT, BACKBONE, freeze=True).eval()
    torch.nn.init.normal_(model.covariates.linear.weight)
    sample = {"image": torch.rand(3, 32, 32), "covariates": torch.tensor([70.0])}
    found = image_contributions(model, sample, 1)
    direction = (model.head.weight[1] - model.head.weight[0]).detach()
    expected = patch_contributions(model.backbone, sample["image"][None], lambda features: features @ direction)
    assert found.shape == (4, 4)
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-4, atol=1e-8)


def test_shares_of_a_label_that_is_not_there_have_the_other_sign() -> None:
    torch.manual_seed(0)
    model = Classifier(spec(Task.of("multilabel", ("a", "b"))), TINY_VIT, BACKBONE).eval()
    image = torch.rand(3, 32, 32)
    there, absent = (image_contributions(model, {"image": image}, 0, positive) for positive in (True, False))
    np.testing.assert_allclose(there, -absent, rtol=1e-4)


def test_only_our_transformer_with_a_class_token_is_taken_apart() -> None:
    assert can_be_taken_apart(Classifier(spec(), TINY_VIT, BACKBONE))
    assert can_be_taken_apart(Classifier(spec(), "test_resnet", {}))
    assert not can_be_taken_apart(Classifier(spec(), "test_vit", {"img_size": 32, "patch_size": 8}))
    assert not can_be_taken_apart(Classifier(spec(), TINY_VIT, BACKBONE | {"global_pool": "map"}))
    assert not can_be_taken_apart(Plain())


def test_a_map_is_red_where_shares_are_for_and_grey_where_they_are_nothing() -> None:
    pixels = np.full((8, 8, 3), 100, np.uint8)
    drawn = overlay(pixels, np.array([[1.0, 0.0], [-1.0, 0.0]])).astype(int)
    assert drawn[0, 0, 0] > drawn[0, 0, 2]
    assert drawn[7, 0, 2] > drawn[7, 0, 0]
    assert (drawn[:, 4:] == 100).all()
    assert (overlay(pixels, np.zeros((2, 2))) == 100).all()


def test_a_model_that_learnt_nothing_says_so_and_has_no_maps(run: Path, medsoft, tmp_path: Path) -> None:
    without_knowledge(run, tmp_path / "run")
    code, out, err = medsoft("test", "--checkpoint=run", "--out=new", "--report=true", "--figures=true", "--examples=2")
    assert code == 0, err
    sentence = json.loads(Path("new/report.json").read_text())["nothing_learnt"]
    assert "the predictions hardly vary" in sentence
    assert f"WARNING: {sentence}" in out
    examples = json.loads(Path("new/examples/examples.json").read_text())["examples"]
    assert examples
    for example in examples:
        assert example["map"] is None
        assert example["note"].startswith("no map: what the parts add is rounding noise")
    assert not list(Path("new/examples").glob("*_contributions.jpg"))
    assert "No map: what the parts add" in Path("new/report.html").read_text(encoding="utf-8")
    code, out, _ = medsoft("test", "--checkpoint=run", "--out=again", "--figures=false", "--report=false")
    assert code == 0
    assert f"WARNING: {sentence}" in out  # with the report switched off too


def test_abstaining_stands_in_the_summary_and_beside_the_examples(run: Path, medsoft) -> None:
    code, out, err = medsoft(
        "test", "--checkpoint", run, "--out=new", "--report=true", "--figures=true", "--examples=2"
    )
    assert code == 0, err
    frame = pd.read_csv("new/predictions.csv")
    aside, n = int(frame["abstain"].sum()), len(frame)
    assert f"test: abstains from {aside} of {n} samples (out-of-distribution score above 1)" in out
    of = frame.set_index("id")
    for example in json.loads(Path("new/examples/examples.json").read_text())["examples"]:
        row = of.loc[example["id"]]
        words = f"out-of-distribution score {row['ood_score']:.2f}"
        assert example["unfamiliar"] == ("abstains: " if row["abstain"] else "") + words
        assert words in Path("new/report.html").read_text(encoding="utf-8").replace("Out-", "out-")
