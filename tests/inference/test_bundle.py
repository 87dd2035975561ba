"""Bundles: they predict as the run does when that is gone, and are refused where a byte differs."""

import csv
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from medsoft.errors import InputError
from medsoft.evaluation.locked import decide
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.inference.export.export import clean_config
from medsoft.runs.bundle import Bundle
from tests.builders.bags import TINY_BAGS, write_slides, write_table
from tests.builders.images import TINY, write_images
from tests.builders.slides import write_slide

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def exported(tmp_path_factory, run) -> Path:
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("export") / "bundle"
    assert main(["export", str(run), "--out", str(out), "--licence", "CC0", "--description", "Tells light."]) == 0
    return out


@pytest.fixture
def bundle(exported, tmp_path) -> Path:
    """A copy to spoil."""
    shutil.copytree(exported, tmp_path / "bundle")
    return tmp_path / "bundle"


def unlabelled(images: Path, path: Path) -> Path:
    frame = pd.read_csv(images).drop(columns="label")
    frame.assign(path=[str(images.parent / name) for name in frame["path"]]).to_csv(path, index=False)
    return path


# Images


def test_a_bundle_predicts_as_its_run_when_that_is_gone(medsoft, images, run, bundle, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    table = unlabelled(images, tmp_path / "new.csv")
    for where, out in ((f"--checkpoint={tmp_path / 'run'}", "by run"), (f"--bundle={bundle}", "by bundle")):
        words = [where, f"--data.table={table}", "--trainer.accelerator=cpu", f"--out={tmp_path / out}"]
        code, _, err = medsoft("predict", *words)
        assert code == 0, err
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert (tmp_path / "by run/predictions.csv").read_bytes() == (tmp_path / "by bundle/predictions.csv").read_bytes()


def test_what_was_locked_on_validation_data_is_applied(medsoft, images, run, bundle, tmp_path):
    words = [f"--bundle={bundle}", f"--data.table={images}", "--trainer.accelerator=cpu", f"--out={tmp_path / 'out'}"]
    assert medsoft("predict", *words)[0] == 0
    frame, task = read_predictions(tmp_path / "out" / "predictions.csv")
    found = pd.read_csv(tmp_path / "out" / "decisions.csv")
    assert found["id"].tolist() == frame["id"].tolist()

    # The same as an evaluation of the run's predictions locks.
    shutil.copytree(run, tmp_path / "run")
    code, _, err = medsoft(
        "evaluate", tmp_path / "run/predictions.csv", "--out", tmp_path / "evaluation", "--draws=10", "--figures=false"
    )
    assert code == 0, err
    both = [json.loads((folder / "locked.json").read_text()) for folder in (bundle, tmp_path / "evaluation")]
    by_row = [[one for one in locked["chosen"] if one["level"] == "row"] for locked in both]
    assert by_row[0] == by_row[1]

    chosen = by_row[0][0]
    threshold = next(point["threshold"] for point in chosen["points"] if point["rule"] == "youden")
    column = next(name for name in found if name.startswith("light, youden"))
    assert found[column].tolist() == (frame["p_light"] >= threshold).astype(int).tolist()
    logits = np.log(frame["p_light"] / frame["p_dark"]) / chosen["recalibration"]["temperatures"][0]
    np.testing.assert_allclose(found["recalibrated_light"], 1 / (1 + np.exp(-logits)), rtol=1e-6)
    assert decide(frame, task, Bundle(bundle).locked()[""]).shape == found.shape


def test_the_evaluation_of_the_run_is_taken_where_there_is_one(medsoft, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    words = [tmp_path / "run/predictions.csv", "--out", tmp_path / "run/evaluation", "--draws=10", "--figures=false"]
    assert medsoft("evaluate", *words, "--thresholds=sensitivity:0.9", "--recalibrate=isotonic")[0] == 0
    assert medsoft("export", tmp_path / "run", "--out", tmp_path / "b")[0] == 0
    locked = json.loads((tmp_path / "b" / "locked.json").read_text())
    assert locked["chosen"][0]["points"][0]["rule"] == "sensitivity:0.9"
    assert locked["chosen"][0]["recalibration"]["method"] == "isotonic"


def test_nothing_of_the_patients_is_in_a_bundle(exported, run, images):
    ids = pd.read_csv(run / "predictions.csv")["id"].tolist()
    for path in exported.rglob("*"):
        content = path.read_bytes()
        assert b"Jane" not in content, path
        assert not any(id.encode() in content for id in ids), path
        assert b'"P0' not in content


def test_a_bundle_says_what_it_is(exported, run):
    card = (exported / "README.md").read_text()
    for words in (
        "# brightness",
        "not a medical device",
        "Tells light.",
        "vit_seqnorm_tiny_patch16_224",
        "CC0",
        "Youden",
        "rows are few",
        "The table has the columns `",
    ):
        assert words in card, words
    metrics = json.loads((run / "metrics.json").read_text())["test"]["overall"]
    assert f"{metrics['auroc']:.3f}" in card
    about = json.loads((exported / "bundle.json").read_text())
    state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert about["parameters"] == sum(value.numel() for value in state.values())
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=exported, capture_output=True)
    assert done.returncode == 0


def test_the_authors_words_are_in_the_card_of_report_and_bundle(medsoft, run, tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text(
        "intended_use: To order images.\nreference_standard: |\n  Two readers,\n  a third for ties.\nlicence: CC0\n"
    )
    assert medsoft("export", run, "--out", tmp_path / "bundle", "--card", card)[0] == 0
    words = ["--run", run, "--draws=10", "--figures=false", "--card", card, "--out", tmp_path / "ev"]
    assert medsoft("evaluate", run / "predictions.csv", *words)[0] == 0
    text = (tmp_path / "bundle/README.md").read_text()
    sections = json.loads((tmp_path / "ev/report.json").read_text())["card"]
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading not in ("Input", "How to run it")] == [
        section["heading"] for section in sections if section["heading"] != "Factors"
    ]
    entries = {entry["name"]: entry["text"] for section in sections for entry in section["entries"]}
    for name in (
        "Architecture",
        "Parameters",
        "Checkpoint",
        "Training part",
        "Test part",
        "Intended use",
        "Thresholds",
    ):
        assert f"- {name}: {entries[name]}" in text
    assert entries["Ethics, consent and privacy"] is None
    assert "- Ethics, consent and privacy: *to be stated by the authors*" in text
    assert "Two readers,\n  a third for ties." in text
    assert (tmp_path / "bundle/LICENCE.txt").read_text() == "Licence of these weights: CC0\n"
    both = ["--card", card, "--description", "Another."]
    code, _, err = medsoft("export", run, "--out", tmp_path / "both", *both)
    assert code == 2
    assert "already states the intended use" in err


def test_a_regression_keeps_its_scale(medsoft, images, tmp_path):
    words = [f"--data.table={images}", "--data.label=grade", "--data.task=regression", "--data.patient=patient", *TINY]
    assert medsoft("fit", *words, "--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")[0] == 0
    code, _, err = medsoft("export", tmp_path / "run", "--out", tmp_path / "bundle", "--format", "torch-export")
    assert code == 0, err
    about = json.loads((tmp_path / "bundle/bundle.json").read_text())
    assert about["networks"][0]["outputs"] == ["logits", "prediction"]
    assert "Nothing is locked" in (tmp_path / "bundle/README.md").read_text()
    for where, out in ((f"--checkpoint={tmp_path / 'run'}", "a"), (f"--bundle={tmp_path / 'bundle'}", "b")):
        words = [
            where,
            f"--data.table={unlabelled(images, tmp_path / 'new.csv')}",
            "--trainer.accelerator=cpu",
            f"--out={tmp_path / out}",
        ]
        assert medsoft("predict", *words)[0] == 0
    assert (tmp_path / "a/predictions.csv").read_bytes() == (tmp_path / "b/predictions.csv").read_bytes()
    assert not (tmp_path / "b/decisions.csv").exists()


def test_covariates_and_their_scale_go_along(medsoft, images, tmp_path):
    frame = pd.read_csv(images)
    frame["path"] = [str(images.parent / name) for name in frame["path"]]
    frame.assign(age=np.linspace(40, 80, len(frame))).to_csv(tmp_path / "with age.csv", index=False)
    about = [f"--data.table={tmp_path / 'with age.csv'}", "--data.classes=[dark, light]", "--data.patient=patient"]
    words = [*about, "--data.covariates=age", *TINY, "--trainer.max_epochs=1", f"--out={tmp_path / 'run'}"]
    code, _, err = medsoft("fit", *words)
    assert code == 0, err
    assert medsoft("export", tmp_path / "run", "--out", tmp_path / "bundle", "--format", "torch-export")[0] == 0
    inputs = json.loads((tmp_path / "bundle/bundle.json").read_text())["networks"][0]["inputs"]
    assert inputs["covariates"] == ["batch", 1]
    shutil.copy(tmp_path / "with age.csv", tmp_path / "new.csv")
    for where, out in ((f"--checkpoint={tmp_path / 'run'}", "a"), (f"--bundle={tmp_path / 'bundle'}", "b")):
        words = [where, f"--data.table={tmp_path / 'new.csv'}", "--trainer.accelerator=cpu", f"--out={tmp_path / out}"]
        code, _, err = medsoft("predict", *words)
        assert code == 0, err
    assert (tmp_path / "a/predictions.csv").read_bytes() == (tmp_path / "b/predictions.csv").read_bytes()


# Changed bundles


def spoil(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [0, -1])
@pytest.mark.parametrize(
    "name", ["bundle.json", "model.safetensors", "config.yaml", "locked.json", "README.md", "LICENCE.txt", "SHA256SUMS"]
)
def test_a_changed_byte_is_refused(medsoft, images, bundle, tmp_path, name, at):
    spoil(bundle / name, at)
    with pytest.raises(InputError, match="not as it was exported"):
        Bundle(bundle)
    if at == 0:
        words = [f"--bundle={bundle}", f"--data.table={images}", f"--out={tmp_path / 'out'}"]
        code, _, err = medsoft("predict", *words)
        assert (code, (tmp_path / "out").exists()) == (2, False)
        # With one digit changed in the list, the file of that line seems to be the one that was changed.
        assert f"{name} was changed" in err or name == "SHA256SUMS", err


def test_a_missing_and_an_additional_file_are_refused(bundle):
    (bundle / "more.txt").write_text("x")
    with pytest.raises(InputError, match=r"more\.txt does not belong to it"):
        Bundle(bundle)
    (bundle / "more.txt").unlink()
    Bundle(bundle)
    (bundle / "locked.json").unlink()
    with pytest.raises(InputError, match=r"locked\.json is missing"):
        Bundle(bundle)
    text = (bundle / "SHA256SUMS").read_text()
    (bundle / "SHA256SUMS").write_text("".join(line for line in text.splitlines(True) if "locked" not in line))
    Bundle(bundle)  # whoever writes the list anew has made another bundle, with another hash of the list


def test_a_list_that_says_the_same_in_other_words_is_refused(bundle):
    sums = bundle / "SHA256SUMS"
    sums.write_text(sums.read_text() + "\n")
    with pytest.raises(InputError, match="SHA256SUMS was changed"):
        Bundle(bundle)


def test_what_is_no_bundle(tmp_path, run):
    for path in (tmp_path / "nothing", run):
        with pytest.raises(InputError, match="not a bundle"):
            Bundle(path)


# What cannot be exported


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "tflite"], "one of weights, onnx, torch-export"),
        (["--licence", "licences/none.txt"], "no such file"),
        (["--locked", "none.json"], "cannot read"),
        (["--encoder", "uni.bin"], "needs no encoder"),
    ],
)
def test_what_is_refused_leaves_nothing(medsoft, run, tmp_path, words, message):
    code, _, err = medsoft("export", run, "--out", tmp_path / "b", *words)
    assert (code, message in err) == (2, True), err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_not_written_over_what_is_there(medsoft, run, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_text("x")
    assert medsoft("export", run, "--out", tmp_path / "b")[0] == 2
    assert medsoft("export", tmp_path / "b", "--out", tmp_path / "c")[0] == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "file"]


def test_folders_that_are_no_single_run_say_what_they_are(medsoft, images, bundle, tmp_path):
    words = ["--data.table", images, "--out", tmp_path / "out"]
    assert "is a bundle: name it with --bundle" in medsoft("predict", "--checkpoint", bundle, *words)[2]
    assert "is a bundle already" in medsoft("export", bundle, "--out", tmp_path / "b")[2]
    fold = {"number": 0, "repeat": 0, "name": "fold 0", "seed": 0, "n": {}, "sha256": ""}
    plan = json.dumps({"format": 1, "folds": [fold]})
    state = {"format": 1, "chosen": ["quick"], "candidates": [], "asked": {}, "seconds": 1}
    folds = tmp_path / "auto" / "candidates" / "quick"
    folds.mkdir(parents=True)
    (folds / "crossval.json").write_text(plan)
    (tmp_path / "auto" / "auto.json").write_text(json.dumps(state))
    for folder, whose in ((tmp_path / "auto", "medsoft auto"), (folds, "a cross-validation")):
        code, _, err = medsoft("export", folder, "--out", tmp_path / "b")
        assert (code, f"is the folder of {whose}, of several models" in err) == (2, True), err
        assert f"such as {folds / 'fold-0'}" in err


def test_options_that_a_bundle_brings_itself(medsoft, images, run, bundle):
    words = [f"--bundle={bundle}", f"--data.table={images}"]
    assert "leave out --checkpoint" in medsoft("predict", *words, f"--checkpoint={run}")[2]
    assert "leave out --config" in medsoft("predict", *words, "--config=fundus")[2]
    assert "--checkpoint" in medsoft("slides", "predict", "x.h5", "--out", "o")[2]


def test_the_configuration_keeps_what_is_no_path(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    clean = clean_config(config)
    assert clean["transforms"] == config["transforms"]
    assert clean["data"]["classes"] == ["dark", "light"]
    assert not clean["data"].keys() & {"table", "splits_from"}
    assert "accelerator" not in clean["trainer"]
    assert config["data"]["table"]  # the original is not touched


# Slides


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Slides, an encoder that medsoft trained on tiles, and a run on the features."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("slides")
    tiles = write_images(folder / "tiles", 16)
    words = [f"--data.table={tiles}", "--data.classes=[dark, light]", *TINY, "--trainer.max_epochs=1"]
    assert main(["fit", "--config=histology", *words, f"--out={folder / 'encoder'}"]) == 0
    (folder / "scans").mkdir()
    rows = []
    for index in range(8):
        write_slide(folder / "scans" / f"s{index}.tif", index)
        rows.append({"path": f"s{index}.tif", "label": ("healthy", "ill")[index % 2], "patient": f"P{index}"})
        rows[-1]["split"] = "train" if index < 4 else "val"
    table = write_table(folder / "scans" / "slides.csv", rows)
    words = ["--encoder", folder / "encoder", "--mpp", 1, "--tile", 32, "--out", folder / "work", "--device", "cpu"]
    assert main([str(word) for word in ["slides", "encode", folder / "scans", *words]]) == 0
    words = [*TINY_BAGS, f"--data.table={table}", f"--data.features={folder / 'work' / 'features'}"]
    assert main(["fit", *words, "--trainer.max_epochs=1", "--report=true", f"--out={folder / 'run'}"]) == 0
    return folder


def test_slides_are_predicted_from_a_bundle_alone(medsoft, slides, tmp_path):
    for name in ("run", "encoder", "scans"):
        shutil.copytree(slides / name, tmp_path / name)
    words = [tmp_path / "scans/s0.tif", tmp_path / "scans/s1.tif", "--device", "cpu"]
    given = ["--checkpoint", tmp_path / "run", "--encoder", tmp_path / "encoder"]
    assert medsoft("slides", "predict", *words, *given, "--out", tmp_path / "by run")[0] == 0
    code, _, err = medsoft("export", tmp_path / "run", "--encoder", tmp_path / "encoder", "--out", tmp_path / "bundle")
    assert code == 0, err
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(tmp_path / "encoder")
    code, _, err = medsoft(
        "slides", "predict", *words, "--bundle", tmp_path / "bundle", "--out", tmp_path / "by bundle"
    )
    assert code == 0, err
    one, other = ((tmp_path / name / "predictions.csv").read_bytes() for name in ("by run", "by bundle"))
    assert one == other
    found = pd.read_csv(tmp_path / "by bundle" / "decisions.csv")
    assert len(found) == 2
    assert (tmp_path / "by bundle" / "heatmaps" / "s0.png").is_file()
    with (tmp_path / "by bundle" / "slides.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["predicted", "predicted"]


def test_an_encoder_of_another_training_is_not_put_in(medsoft, slides, tmp_path):
    shutil.copytree(slides / "encoder", tmp_path / "encoder")
    path = tmp_path / "encoder/checkpoints/best.ckpt"
    torch.save(torch.load(path, weights_only=True) | {"more": 1}, path)
    code, _, err = medsoft("export", slides / "run", "--encoder", tmp_path / "encoder", "--out", tmp_path / "bundle")
    assert (code, "another file" in err) == (2, True), err
    code, _, err = medsoft(
        "export", slides / "run", "--encoder", path.with_suffix(".bin"), "--out", tmp_path / "bundle"
    )
    assert (code, "the folder of the run" in err) == (2, True), err
    code, out, err = medsoft("export", slides / "run", "--out", tmp_path / "bundle")
    assert (code, "is not in it (--encoder)" in out) == (0, True), err


def test_an_encoders_file_goes_along(medsoft, tmp_path, monkeypatch):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "enc.safetensors")
    digest = hashlib.sha256((tmp_path / "enc.safetensors").read_bytes()).hexdigest()
    (tmp_path / "scans").mkdir()
    for index in range(4):
        write_slide(tmp_path / "scans" / f"s{index}.tif", index)
    encoder = ["--encoder", "resnet10t", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--device", "cpu"]
    words = [*encoder, "--weights", tmp_path / "enc.safetensors", "--mpp", 1, "--tile", 32, "--out", tmp_path / "work"]
    assert medsoft("slides", "encode", tmp_path / "scans", *words)[0] == 0
    rows = [{"path": f"s{i}.tif", "label": ("healthy", "ill")[i % 2], "patient": f"P{i}"} for i in range(4)]
    rows = [row | {"split": "train" if i < 2 else "val"} for i, row in enumerate(rows)]
    table = write_table(tmp_path / "slides.csv", rows)
    data = [f"--data.table={table}", f"--data.features={tmp_path / 'work/features'}"]
    assert medsoft("fit", *TINY_BAGS, *data, "--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")[0] == 0

    words = [tmp_path / "run", "--encoder", tmp_path / "enc.safetensors", "--out", tmp_path / "bundle"]
    code, _, err = medsoft("export", *words)
    assert code == 0, err
    assert hashlib.sha256((tmp_path / "bundle/encoder/enc.safetensors").read_bytes()).hexdigest() == digest
    for name in ("run", "work"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "enc.safetensors").unlink()
    given = [tmp_path / "scans/s0.tif", "--bundle", tmp_path / "bundle", "--heatmap", "false", "--device", "cpu"]
    code, _, err = medsoft("slides", "predict", *given, "--out", tmp_path / "o")
    assert code == 0, err


def test_features_of_another_set_are_refused_by_a_bundle(medsoft, slides, tmp_path):
    assert medsoft("export", slides / "run", "--out", tmp_path / "bundle")[0] == 0
    write_slides(tmp_path / "other", n=4)
    words = [*(tmp_path / "other/features").iterdir(), "--bundle", tmp_path / "bundle", "--out", tmp_path / "o"]
    code, _, err = medsoft("slides", "predict", *words)
    assert (code, "of another kind" in err) == (2, True), err
