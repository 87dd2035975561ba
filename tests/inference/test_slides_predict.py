"""``slides predict`` and ``slides heatmap``: as the checkpoint says, from whatever is there already."""

import csv
import json
import math
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import pytest
import torch

from medsoft.classifiers.slide import load_slide_classifier
from medsoft.data.datasets.bag_dataset import pieces_of
from medsoft.data.features.open import Bag, open_bag
from medsoft.errors import InputError
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.inference.attribution.bags import explain_bag
from medsoft.models.aggregators import can_stream, read_logits
from medsoft.slides.heatmaps.write import SUFFIXES
from medsoft.task import Task
from tests.builders.slides import AGGREGATORS, BINARY, ENCODER, TILES, write_checkpoint, write_slide

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three slides, the last without tissue; the folder in which two are encoded; and a checkpoint for them."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("made")
    (folder / "slides").mkdir()
    for seed, name in enumerate(("a", "b ü")):
        write_slide(folder / "slides" / f"{name}.tif", seed)
    write_slide(folder / "slides" / "empty.tif", 0, tissue=False)
    words = ["slides", "encode", folder / "slides", *ENCODER, *TILES, "--out", folder / "work"]
    assert main([str(word) for word in words]) == 0
    write_checkpoint(folder / "abmil.ckpt", folder / "work" / "features" / "a.h5")
    return folder


@pytest.fixture
def work(made, tmp_path):
    """A copy of the folder in which two slides are encoded, to change."""
    shutil.copytree(made / "work", tmp_path / "work")
    return tmp_path / "work"


def times(folder: Path, pattern: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob(pattern))}


def errors(folder: Path) -> dict[str, tuple[str, str]]:
    with (folder / "errors.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: (row["stage"], row["reason"]) for row in csv.DictReader(file)}


# From slides to probabilities


def test_from_slides_to_probabilities_and_heatmaps_in_one_go(medsoft, made, tmp_path):
    out = tmp_path / "out"
    code, said, err = medsoft("slides", "predict", made / "slides", "--checkpoint", made / "abmil.ckpt", "--out", out)
    assert code == 3, err
    assert errors(out).keys() == {"empty"}  # no tissue: no answer, and said to be missing
    assert "nothing to predict" in errors(out)["empty"][1]
    frame, task = read_predictions(out / "predictions.csv")
    assert task == BINARY
    assert frame["id"].tolist() == ["a", "b ü"]
    assert "2 of 3 slides predicted" in said
    assert "No tissue on 1 of 3 slides" in said
    code, said, _ = medsoft(
        "slides", "predict", made / "slides" / "empty.tif", "--checkpoint", made / "abmil.ckpt", "--out", out
    )
    assert code == 3
    assert "NO TISSUE ON 1 OF 1 SLIDES" in said

    loaded = load_slide_classifier(made / "abmil.ckpt")
    for row in frame.itertuples():
        with open_bag(made / "work" / "features" / f"{row.id}.h5") as bag:  # the same as from features made before
            with torch.no_grad():
                logits = loaded.model(torch.from_numpy(bag.read())[None])
            expected = loaded.probabilities(logits)[0, 1].item()
            places = bag.coords_N2_px0
        assert row.p_tumour == pytest.approx(expected, rel=1e-5)
        about = json.loads((out / "heatmaps" / f"{row.id}.json").read_text(encoding="utf-8"))
        assert about["class"] == "tumour"
        assert about["probability"] == pytest.approx(row.p_tumour)
        assert about["logit"] == pytest.approx(math.log(row.p_tumour / row.p_normal), rel=1e-4)
        assert about["sum_of_contributions"] + sum(about["parts"].values()) == pytest.approx(about["logit"], rel=1e-4)
        with (out / "heatmaps" / f"{row.id}.csv").open(newline="") as file:
            contributions = list(csv.DictReader(file))
        assert [[int(tile["x_px0"]), int(tile["y_px0"])] for tile in contributions] == places.tolist()
        assert sum(float(tile["contribution"]) for tile in contributions) == pytest.approx(
            about["sum_of_contributions"], rel=1e-5
        )
        with openslide.OpenSlide(out / "heatmaps" / f"{row.id}.tif") as slide:
            assert slide.dimensions == (640, 512)
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
    assert not (out / "metrics.json").exists()


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_shares_add_up_and_do_not_depend_on_the_chunks(made, tmp_path, monkeypatch, aggregator):
    features = made / "work" / "features" / "a.h5"
    model = load_slide_classifier(write_checkpoint(tmp_path / "m.ckpt", features, aggregator=aggregator)).aggregator
    logit_target = BINARY.logit_target("tumour")
    chunks = Bag.chunks
    with open_bag(features) as bag:
        whole = explain_bag(model, bag, logit_target)
        logits = read_logits(model, partial(pieces_of, bag))[0]
        monkeypatch.setattr(Bag, "chunks", lambda bag: chunks(bag, 7))
        chunked = explain_bag(model, bag, logit_target)
        again = read_logits(model, partial(pieces_of, bag))[0]
        other = explain_bag(model, bag, BINARY.logit_target("normal"))
    assert whole.logit == pytest.approx(float(logits[1] - logits[0]), rel=1e-4, abs=1e-6)
    assert whole.logit == pytest.approx(sum(whole.parts.values()) + whole.contributions_N.sum(), rel=1e-4, abs=1e-6)
    assert torch.allclose(logits, again, rtol=1e-4, atol=1e-6)
    assert np.allclose(whole.contributions_N, chunked.contributions_N, rtol=1e-3, atol=1e-6)
    assert np.allclose(whole.contributions_N, -other.contributions_N, rtol=1e-3, atol=1e-6)
    assert can_stream(model) == (aggregator != "softmax")
    assert (set(whole.parts) == {"bias"}) == (aggregator in ("abmil", "mean"))


def test_what_is_there_is_used_again(medsoft, made, work):
    words = ["slides", "predict", made / "slides" / "a.tif", "--checkpoint", made / "abmil.ckpt", "--out", work]
    features = times(work, "features/*")
    code, said, _ = medsoft(*words)
    assert code == 0
    assert "1 of 1 slides are encoded already: their features are kept" in said
    assert "encoded, " not in said
    with (work / "slides.csv").open(newline="", encoding="utf-8") as file:
        sizes = {row["id"]: (row["status"], row["tile_mpp"], row["tile_px"]) for row in csv.DictReader(file)}
    assert sizes["a"] == ("predicted", "1", "32")
    assert times(work, "features/*") == features
    heatmaps = times(work, "heatmaps/*")
    assert len(heatmaps) == len(SUFFIXES) + 1  # and the contact sheet
    assert medsoft(*words)[0] == 0
    assert times(work, "heatmaps/*") == heatmaps
    write_checkpoint(made / "other.ckpt", work / "features" / "a.h5", aggregator="mean")
    assert medsoft(*words[:4], made / "other.ckpt", "--out", work)[0] == 0
    assert not set(times(work, "heatmaps/*").values()) & set(heatmaps.values())


def test_another_slide_under_the_same_name_is_encoded_anew(medsoft, made, work, tmp_path):
    slide = tmp_path / "slides" / "a.tif"
    slide.parent.mkdir()
    words = ["slides", "predict", slide, "--checkpoint", made / "abmil.ckpt", "--heatmap", "false"]
    shutil.copy(made / "slides" / "a.tif", slide)
    assert medsoft(*words, "--out", tmp_path / "out")[0] == 0
    before, _ = read_predictions(tmp_path / "out" / "predictions.csv")
    write_slide(slide, seed=7)
    assert medsoft(*words, "--out", tmp_path / "out")[0] == 0
    after, _ = read_predictions(tmp_path / "out" / "predictions.csv")
    assert before["p_tumour"][0] != after["p_tumour"][0]
    code, _, err = medsoft(*words, "--out", work)  # there the name belongs to the slide of another folder
    assert code == 2
    assert "take another --out" in err


def test_damaged_slides_do_not_stop_the_others(medsoft, made, tmp_path):
    (tmp_path / "slides").mkdir()
    shutil.copy(made / "slides" / "a.tif", tmp_path / "slides" / "good.tif")
    (tmp_path / "slides" / "bad.tif").write_bytes((made / "slides" / "a.tif").read_bytes()[:5000])
    out = tmp_path / "out"
    words = ["slides", "predict", tmp_path / "slides", "--checkpoint", made / "abmil.ckpt", "--out", out]
    assert medsoft(*words, "--heatmap", "false")[0] == 3
    assert errors(out).keys() == {"bad"}
    assert read_predictions(out / "predictions.csv")[0]["id"].tolist() == ["good"]
    assert not (out / "heatmaps").exists()

    (tmp_path / "slides" / "good.tif").unlink()
    assert medsoft(*words, "--heatmap", "false")[0] == 3
    assert not (out / "predictions.csv").exists()  # nothing of an earlier call is taken for this one's answer


# What does not fit is refused


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--mpp", 0.5], "--mpp 0.5: the model was trained with 1"),
        (["--tile", 224], "--tile 224: the model was trained with 32"),
        (["--overlap", 8], "--overlap 8"),
        (["--encoder", "uni"], "trained on features of test_efficientnet"),
        (["--classes", "tumor"], "the model knows normal, tumour"),
        (["--classes", "tumour", "--heatmap", "false"], "draws none"),
        (["--label", "label"], "no column 'label'"),
        (["--weights", "no such file"], "no such file"),
        (["--batch-size", 0], "batch_size 0"),
        (["--batch", 8], "--batch is now called --batch_size"),
        (["--tissue.method", "all"], "unknown option"),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_refused_before_work_starts(medsoft, made, tmp_path, words, expected):
    out = tmp_path / "out"
    call = ["slides", "predict", made / "slides", "--checkpoint", made / "abmil.ckpt", "--out", out, *words]
    code, _, err = medsoft(*call)
    assert code == 2
    assert expected in err
    assert not out.exists()


def test_options_that_say_what_the_checkpoint_says_are_accepted(medsoft, made, work):
    words = ["slides", "predict", made / "slides" / "a.tif", "--checkpoint", made / "abmil.ckpt", "--out", work]
    assert medsoft(*words, *TILES, "--overlap", 0, "--encoder", "test_efficientnet", "--heatmap", "false")[0] == 0


def test_other_weights_are_refused_and_none_are_needed_when_all_is_encoded(medsoft, made, tmp_path):
    import timm

    for seed in (0, 1):
        torch.manual_seed(seed)
        model = timm.create_model("test_efficientnet", num_classes=0)
        torch.save(model.state_dict(), tmp_path / f"weights_{seed}.pt")
    slide, out = made / "slides" / "a.tif", tmp_path / "out"
    stated = ["--encoder", "test_efficientnet", "--input-px", 32, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    own = ["--weights", tmp_path / "weights_0.pt"]
    assert medsoft("slides", "encode", slide, *stated, *own, *TILES, "--device", "cpu", "--out", out)[0] == 0
    checkpoint = write_checkpoint(tmp_path / "m.ckpt", out / "features" / "a.h5")
    words = ["slides", "predict", slide, "--checkpoint", checkpoint, "--heatmap", "false", "--device", "cpu"]
    for place in (out, tmp_path / "new"):  # encoded already, or still to encode
        code, _, err = medsoft(*words, "--weights", tmp_path / "weights_1.pt", "--out", place)
        assert code == 2
        assert "SHA-256" in err
    assert medsoft(*words, "--out", out)[0] == 0
    code, _, err = medsoft(*words, "--out", tmp_path / "new")
    assert code == 2
    assert "needs its weights" in err
    assert not (tmp_path / "new").exists()
    assert medsoft(*words, *own, "--out", tmp_path / "new")[0] == 0


def test_what_is_no_checkpoint_of_slides_is_refused(medsoft, made, tmp_path):
    torch.save({"state_dict": {}, "medsoft": {"task": {"kind": "binary", "classes": ["a", "b"]}}}, tmp_path / "x.ckpt")
    for checkpoint in (tmp_path / "x.ckpt", tmp_path / "nothing.ckpt", tmp_path):
        code, _, err = medsoft("slides", "predict", made / "slides", "--checkpoint", checkpoint, "--out", "out")
        assert code == 2
        assert "checkpoint" in err


# Feature files in place of slides


def test_feature_files_stand_in_for_slides(medsoft, made, tmp_path):
    features = made / "work" / "features"
    words = ["slides", "predict", features / "a.h5", features / "b ü.h5", "--checkpoint", made / "abmil.ckpt"]
    assert medsoft(*words, "--out", "out")[0] == 0
    frame, _ = read_predictions(Path("out/predictions.csv"))
    assert frame["id"].tolist() == ["a", "b ü"]
    endings = {Path(f"x{suffix}").suffix for suffix in SUFFIXES}
    assert {path.suffix for path in Path("out/heatmaps").iterdir()} == endings
    assert not Path("out/features").exists()


def test_a_damaged_feature_file_does_not_stop_the_others(medsoft, made, work):
    file = work / "features" / "a.h5"
    file.write_bytes(file.read_bytes()[:-500])
    words = ["slides", "predict", file, work / "features" / "b ü.h5", "--checkpoint", made / "abmil.ckpt"]
    assert medsoft(*words, "--out", "out")[0] == 3
    assert errors(Path("out"))["a"][0] == "predict"
    assert read_predictions(Path("out/predictions.csv"))[0]["id"].tolist() == ["b ü"]


def test_features_of_another_encoder_are_refused(medsoft, made, tmp_path):
    other = ["--encoder", "test_resnet", *ENCODER[2:]]
    assert medsoft("slides", "encode", made / "slides" / "a.tif", *other, *TILES, "--out", "other")[0] == 0
    shutil.copy("other/features/a.h5", "other/features/b.h5")
    files = ["other/features/a.h5", "other/features/b.h5"]
    code, _, err = medsoft("slides", "predict", *files, "--checkpoint", made / "abmil.ckpt", "--out", "out")
    assert code == 2
    assert "test_resnet" in err
    assert "  a and 1 more: " in err
    assert not Path("out").exists()


def test_features_of_trident_are_predicted_but_not_mapped(medsoft, made, shared_data, tmp_path):
    from medsoft.errors import BagError

    for file in sorted((shared_data / "interop" / "trident").rglob("*.h5")):
        try:
            open_bag(file).close()
        except BagError:  # coordinates alone
            continue
        break
    checkpoint = write_checkpoint(tmp_path / "m.ckpt", file)
    words = ["--checkpoint", checkpoint, "--out", tmp_path / "out"]
    code, said, _ = medsoft("slides", "predict", file, *words)
    assert code == 0
    assert "no heatmap" in said
    assert len(read_predictions(tmp_path / "out" / "predictions.csv")[0]) == 1
    code, _, err = medsoft("slides", "predict", made / "slides", *words)
    assert code == 2
    assert "another tool, trident (" in err
    assert len(err) < 250


# Tables


def write_table(folder: Path, made: Path, **columns) -> Path:
    rows = [{"path": str(made / "slides" / f"{name}.tif")} for name in ("a", "b ü")]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    with (folder / "slides.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "slides.csv"


def test_a_table_brings_patients_splits_and_true_classes(medsoft, made, work, tmp_path):
    table = write_table(
        tmp_path, made, case=["P1", "P2"], split=["test", "test"], grade=["0", "3"], phantom=["yes", "yes"]
    )
    words = ["slides", "predict", table, "--checkpoint", made / "abmil.ckpt", "--out", work, "--patient", "case"]
    code, said, err = medsoft(*words, "--label", "grade", "--positive", "2,3,4")
    assert code == 0, err
    frame, _ = read_predictions(work / "predictions.csv")
    assert frame["patient"].tolist() == ["P1", "P2"]
    assert frame["split"].tolist() == ["test", "test"]
    assert frame["target"].tolist() == ["normal", "tumour"]
    assert json.loads((work / "metrics.json").read_text())["test"]["n"] == 2
    assert "test (n=2)" in said
    assert "Phantom slides, no patients" in (work / "report.html").read_text(encoding="utf-8")
    assert medsoft(*words, "--report", "false")[0] == 0
    assert json.loads((work / "metrics.json").read_text())["test"]["n"] == 0
    assert not (work / "report.html").exists()  # of the earlier call
    assert not list(work.glob("evaluation/*"))


def test_labels_that_the_model_does_not_know_are_refused(medsoft, made, work, tmp_path):
    table = write_table(tmp_path, made, label=["normal", "tumor"])
    words = ["slides", "predict", table, "--checkpoint", made / "abmil.ckpt", "--out", work]
    code, _, err = medsoft(*words, "--label", "label")
    assert code == 2
    assert "row 2: 'tumor'" in err
    code, _, err = medsoft(*words, "--patient", "case")
    assert code == 2
    assert "no column 'case'" in err


# Heatmaps alone, and of chosen classes


def test_heatmaps_alone_need_features(medsoft, made, work, tmp_path):
    words = ["--checkpoint", made / "abmil.ckpt"]
    code, _, _ = medsoft("slides", "heatmap", made / "slides" / "a.tif", *words, "--out", work)
    assert code == 0
    assert len(times(work, "heatmaps/*")) == len(SUFFIXES) + 1  # and the contact sheet
    assert not (work / "predictions.csv").exists()
    assert medsoft("slides", "heatmap", made / "slides" / "a.tif", *words, "--out", tmp_path / "none")[0] == 3
    assert errors(tmp_path / "none")["a"][0] == "features"


def test_maps_of_named_classes_lie_in_folders_of_their_own(medsoft, made, work):
    words = ["--checkpoint", made / "abmil.ckpt", "--out", work, "--classes", "[normal, tumour]"]
    assert medsoft("slides", "heatmap", made / "slides" / "a.tif", *words)[0] == 0
    found = {name: json.loads((work / "heatmaps" / name / "a.json").read_text()) for name in BINARY.classes}
    assert found["normal"]["logit"] == pytest.approx(-found["tumour"]["logit"])
    assert found["normal"]["probability"] == pytest.approx(1 - found["tumour"]["probability"])


def test_a_slide_that_is_gone_after_encoding_is_listed(medsoft, made, work, tmp_path):
    table = write_table(tmp_path, made)
    table.write_text(table.read_text(encoding="utf-8").replace("b ü.tif", "gone.tif"), encoding="utf-8")
    words = ["slides", "predict", table, "--checkpoint", made / "abmil.ckpt", "--out", work, "--heatmap", "false"]
    assert medsoft(*words)[0] == 2
    assert medsoft(*words, "--on-error", "skip")[0] == 3
    assert errors(work).keys() == {"gone"}
    assert read_predictions(work / "predictions.csv")[0]["id"].tolist() == ["a"]


def test_which_logit_stands_for_a_class():
    several = Task.of("multiclass", ("a", "b", "c"))
    assert several.logit_target("b").weights == {1: 1.0}
    assert several.default_logit_target(np.array([0.1, 0.2, 0.7])).name == "c"
    grades = Task.of("ordinal", ("0", "1", "2", "3"))
    assert grades.logit_target("2").weights == {1: 1.0}
    assert grades.logit_target("2").name == "≥ 2 | ≥ 1"
    assert grades.logit_target("1").name == "≥ 1"
    assert grades.default_logit_target(np.array([0.9, 0.05, 0.03, 0.02])).weights == {0: 1.0}
    with pytest.raises(InputError, match="lowest grade"):
        grades.logit_target("0")
    assert BINARY.default_logit_target(np.array([0.9, 0.1])).weights == {1: 1.0, 0: -1.0}
    labels = Task.of("multilabel", ("x", "y"))
    assert labels.default_logit_target(np.array([0.3, 0.4])).weights == {1: 1.0}
    with pytest.raises(InputError, match="knows a, b, c"):
        several.logit_target("d")


@pytest.mark.parametrize("kind", ["multiclass", "ordinal", "multilabel"])
def test_every_kind_of_task_is_predicted_and_mapped(medsoft, made, work, tmp_path, kind):
    task = Task.of(kind, ("0", "a/b", "ö"))
    checkpoint = write_checkpoint(tmp_path / "m.ckpt", work / "features" / "a.h5", task)
    words = ["slides", "predict", made / "slides" / "a.tif", "--checkpoint", checkpoint, "--out", work]
    assert medsoft(*words, "--classes", "[a/b, ö]")[0] == 0
    frame, found = read_predictions(work / "predictions.csv")
    assert found == task
    for index, folder in enumerate(("a_b", "ö"), start=1):
        about = json.loads((work / "heatmaps" / folder / "a.json").read_text(encoding="utf-8"))
        if kind != "ordinal":
            assert about["probability"] == pytest.approx(frame[task.p_columns[index]][0], rel=1e-5)
        else:  # P(at least this grade, given at least the one before)
            at_least = frame[task.p_columns].to_numpy()[0][::-1].cumsum()[::-1]
            assert about["probability"] == pytest.approx(at_least[index] / at_least[index - 1], rel=1e-5)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_said(medsoft, made, tmp_path):
    tmp_path.chmod(0o500)
    words = ["--checkpoint", made / "abmil.ckpt", "--out", tmp_path / "out"]
    assert medsoft("slides", "predict", made / "slides" / "a.tif", *words)[0] == 1


def test_heatmaps_of_a_regression_are_in_the_unit_of_its_column(medsoft, made, tmp_path):
    run, features = tmp_path / "run", made / "work" / "features" / "a.h5"
    file = write_checkpoint(run / "checkpoints" / "best.ckpt", features, Task.of("regression", ()), scale=(60.0, 10.0))
    (run / "config.yaml").write_text("data: {label: age}\n")
    words = [made / "slides" / "a.tif", "--checkpoint", file, "--out", tmp_path / "work"]
    shutil.copytree(made / "work", tmp_path / "work")
    code, _, err = medsoft("slides", "predict", *words)
    assert code == 0, err
    prediction = read_predictions(tmp_path / "work" / "predictions.csv")[0]["prediction"].iloc[0]
    about = json.loads((tmp_path / "work" / "heatmaps" / "a.json").read_text(encoding="utf-8"))
    assert (about["class"], about["quantity"], about["probability"]) == ("age", "prediction of age", None)
    assert about["logit"] == pytest.approx(prediction, rel=1e-5)
    assert about["sum_of_contributions"] + sum(about["parts"].values()) == pytest.approx(prediction, rel=1e-5)
    assert 40 < about["parts"]["bias"] < 80
    with (tmp_path / "work" / "heatmaps" / "a.csv").open(newline="") as table:
        assert sum(float(tile["contribution"]) for tile in csv.DictReader(table)) == pytest.approx(
            about["sum_of_contributions"]
        )


def test_a_slide_whose_shares_are_noise_has_no_map_and_says_so(medsoft, made, work):
    checkpoint = write_checkpoint(made / "nothing.ckpt", work / "features" / "a.h5", weight=1e-8)
    words = ["slides", "predict", made / "slides" / "a.tif", "--checkpoint", checkpoint, "--out", work]
    for _ in range(2):  # drawn, and found again
        assert medsoft(*words)[0] == 0
        with (work / "slides.csv").open(newline="", encoding="utf-8") as file:
            warnings = {row["id"]: row["warnings"] for row in csv.DictReader(file)}
        assert "tumour: no map: what the parts add is rounding noise" in warnings["a"]
        assert {path.name for path in (work / "heatmaps").iterdir()} == {"a.csv", "a.json"}
