"""Boxes from the command line: training, new images, evaluation, folds, bundles, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medsoft.data.boxes.read import CORNERS
from medsoft.evaluation.detection.answers import parse
from medsoft.evaluation.segmentation.contours import COLOURS
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.training.callbacks import StopGracefully
from tests.builders.boxes import CLASSES, objects, write_boxes

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("brief_reports")]

COLUMNS = ["--config=detection", "--data.path=file", "--data.patient=patient"]
SMALL = [
    *COLUMNS,
    "--transforms.size=96",
    "--transforms.rotation=0",
    "--transforms.jitter=0",
    "--model.backbone=test_resnet",
    "--model.fpn_channels=64",
    "--model.least_score=0.05",
    "--model.most_boxes=40",
    "--model.called=0.3",
    "--model.warmup_epochs=0",
    "--model.lr=2e-3",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
]
QUIET = ["--figures=false", "--report=false"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_boxes(tmp_path_factory.mktemp("boxes") / "set", 16, (5,))


@pytest.fixture(scope="module")
def run(tmp_path_factory, images) -> Path:
    """With report, figures and pictures."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "run"
    words = [f"--data.boxes={images.with_name('boxes.csv')}", "--trainer.max_epochs=9"]
    assert main(["fit", f"--data.table={images}", *SMALL, *words, f"--out={out}"]) == 0
    return out


def predictions(run: Path) -> pd.DataFrame:
    return read_predictions(run / "predictions.csv")[0]


def fit(medsoft, images: Path, out: Path, *words: str, boxes: str = "boxes.csv"):
    where = f"--data.boxes={images.with_name(boxes)}"
    return medsoft("fit", f"--data.table={images}", where, *SMALL, *QUIET, *words, f"--out={out}")


def test_a_training_finds_the_objects_and_writes_them_in_pixels_of_their_images(run):
    frame = predictions(run)
    assert frame["boxes"].sum() == 2 * len(frame) - 2 * (frame["boxes"] == 0).sum()
    detections = pd.read_csv(run / "detections.csv", dtype={"id": str})
    best = detections.sort_values("score", ascending=False)
    hit = best.groupby(["id", "label"]).head(1)
    assert hit["hit"].mean() > 0.5
    for row in frame.itertuples():
        own = detections[(detections["id"] == row.id) & (detections["split"] == row.split)]
        assert row.best_score == (own["score"].max() if len(own) else 0)
        for name in CLASSES:
            cell = parse(getattr(row, f"matches_{name}"))
            of_class = own[own["label"] == name]
            assert [score for score, _ in cell] == pytest.approx(of_class["score"].tolist())
            assert [bits & 1 for _, bits in cell] == of_class["hit"].tolist()
        file = json.loads((run / "boxes" / f"{row.split}_{row.id}.geojson").read_text())
        assert len(file["features"]) == len(own)
        assert {one["properties"]["classification"]["name"] for one in file["features"]} == set(own["label"])
    assert (detections[["x_min", "y_min"]].to_numpy() >= 0).all()
    assert (detections["x_max"] <= 96).all()
    assert (detections["y_max"] <= 80).all()


def test_a_hit_of_the_table_overlaps_a_true_box_by_half(run):
    detections = pd.read_csv(run / "detections.csv", dtype={"id": str})
    shown = detections[(detections["id"] == detections["id"].iloc[0])]
    true = objects(int(shown["id"].iloc[0][2:]))[1]
    for row in shown.itertuples():
        best = 0.0
        for x, y, x2, y2, label in true:
            width = max(0, min(x2, row.x_max) - max(x, row.x_min))
            height = max(0, min(y2, row.y_max) - max(y, row.y_min))
            area = (row.x_max - row.x_min) * (row.y_max - row.y_min) + (x2 - x) * (y2 - y) - width * height
            best = max(best, width * height / area if label == row.label else 0.0)
        assert not row.hit or best >= 0.5 - 1e-3


def test_the_report_shows_froc_intervals_and_boxes_worst_first(run):
    examples = json.loads((run / "examples" / "examples.json").read_text())["examples"]
    wrong = [one["p"] for one in examples if one["target"] == "worst"]
    assert wrong == sorted(wrong, reverse=True)
    text = (run / "report.html").read_text()
    assert "thick where they were missed" in text
    assert "FROC" in text
    assert "sensitivity at 1/4 false positives per image" in text
    metrics = pd.read_csv(run / "evaluation" / "metrics.csv")
    assert {"map", "map50", "froc", "sensitivity_fp_1_8", "sensitivity_fp_8"} <= set(metrics["metric"])


def test_new_images_need_no_boxes(tmp_path, medsoft, run):
    Image.fromarray(objects(40, 120, 90)[0]).save(tmp_path / "new.png")
    (tmp_path / "t.csv").write_text("file\nnew.png\n")
    words = ["--checkpoint", run, f"--data.table={tmp_path / 't.csv'}", "--data.patient=null"]
    code, _, err = medsoft("predict", *words, f"--out={tmp_path / 'p'}")
    assert (code, err) == (0, "")
    frame = predictions(tmp_path / "p")
    assert frame["boxes"].isna().all()
    assert frame["true_disc"].isna().all()
    detections = pd.read_csv(tmp_path / "p" / "detections.csv")
    assert detections["hit"].isna().all()
    assert (detections["y_max"] <= 120).all()
    # With a label that the model does not know.
    (tmp_path / "b.csv").write_text("file,x_min,y_min,x_max,y_max,label\nnew.png,1,1,9,9,tumour\n")
    code, _, err = medsoft("predict", *words, f"--data.boxes={tmp_path / 'b.csv'}", f"--out={tmp_path / 'q'}")
    assert code == 2
    assert "'tumour' is no class" in err


def test_a_run_is_scored_again_compared_and_bundled(tmp_path, medsoft, run, images):
    code, out, err = medsoft("evaluate", run / "predictions.csv", f"--out={tmp_path / 'e'}")
    assert (code, err) == (0, "")
    assert "map50" in out
    assert list((tmp_path / "e").rglob("froc_test.png"))
    assert medsoft("export", run, f"--out={tmp_path / 'bundle'}")[::2] == (0, "")
    code, _, err = medsoft("export", run, "--format=onnx", f"--out={tmp_path / 'onnx'}")
    assert code == 2
    assert "networks for masks and boxes are exported as weights alone" in err
    boxes = f"--data.boxes={images.with_name('boxes.json')}"
    for name, words in (("c", ["--checkpoint", run]), ("b", ["--bundle", tmp_path / "bundle", "--data.path=file"])):
        code, _, err = medsoft("predict", *words, f"--data.table={images}", boxes, f"--out={tmp_path / name}")
        assert (code, err) == (0, "")
    columns = ["best_score", "boxes", "matches_disc", "matches_square"]
    ours, theirs = (predictions(tmp_path / name).set_index("id").sort_index()[columns] for name in ("c", "b"))
    pd.testing.assert_frame_equal(ours, theirs)
    assert "boxes.csv" not in "".join(file.read_text() for file in (tmp_path / "bundle").rglob("*.yaml"))
    tables = [run / "predictions.csv", shutil.copy(run / "predictions.csv", tmp_path / "again.csv")]
    code, out, err = medsoft("compare", *tables, "--draws=100", f"--out={tmp_path / 'cmp'}")
    assert (code, err) == (0, "")
    assert "map" in out.lower()


def test_folds_are_pooled_and_several_models_are_refused(tmp_path, medsoft, images):
    where = f"--data.boxes={images.with_name('voc')}"
    words = ["--folds=2", "--model.network=fcos", "--data.first_pixel=0", f"--out={tmp_path / 'cv'}"]
    code, _, err = medsoft("crossval", f"--data.table={images}", where, *SMALL, *QUIET, *words)
    assert (code, err) == (0, "")
    assert len(predictions(tmp_path / "cv")) == 16
    code, _, err = medsoft(
        "predict", "--checkpoint", tmp_path / "cv", f"--data.table={images}", f"--out={tmp_path / 'p'}"
    )
    assert code == 2
    assert "boxes of several models have no mean" in err


def test_a_stopped_training_goes_on(tmp_path, medsoft, images, monkeypatch):
    def ask(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (0, 1):
            self._ask(signal.SIGINT)
        original(self, trainer, pl_module, outputs, batch, batch_idx)

    original = StopGracefully.on_train_batch_end
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert fit(medsoft, images, straight, "--trainer.max_epochs=2")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(StopGracefully, "on_train_batch_end", ask)
        assert fit(medsoft, images, stopped, "--trainer.max_epochs=2")[0] == 130
    assert medsoft("fit", "--resume", stopped)[0] == 0
    pd.testing.assert_frame_equal(predictions(straight), predictions(stopped))


def test_the_sheet_of_the_input_shows_the_boxes(tmp_path, medsoft, images):
    words = ["data", "show", images, *COLUMNS, f"--data.boxes={images.with_name('boxes.csv')}", "--n=2"]
    code, _, err = medsoft(*words, "--transforms.jitter=0", f"--out={tmp_path / 'sheet.png'}")
    assert (code, err) == (0, "")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    for colour in COLOURS[:2]:
        assert (np.abs(pixels - colour).max(axis=2) < 40).sum() > 30


def exchanged(frame: pd.DataFrame) -> str:
    frame.loc[0, ["x_min", "x_max"]] = frame.loc[0, ["x_max", "x_min"]].tolist()
    return "minimum and maximum exchanged"


def beyond(frame: pd.DataFrame) -> str:
    frame.loc[3, "y_max"] = 81
    return "reaches beyond the image of 96 x 80 px"


def without_area(frame: pd.DataFrame) -> str:
    frame.loc[3, "y_max"] = frame.loc[3, "y_min"]
    return "has no area"


def relative(frame: pd.DataFrame) -> str:
    frame[list(CORNERS)] /= 100
    return "all coordinates lie between 0 and 1"


def of_no_image(frame: pd.DataFrame) -> str:
    frame.loc[0, "file"] = "im99.png"
    return "1 boxes are of 1 images that the table does not have"


def none_at_all(frame: pd.DataFrame) -> str:
    frame.drop(frame.index, inplace=True)
    return "has no row"


@pytest.mark.parametrize("spoil", [exchanged, beyond, without_area, relative, of_no_image, none_at_all])
def test_boxes_that_cannot_be_learnt_from_are_told_before_training(tmp_path, medsoft, images, spoil):
    frame = pd.read_csv(images.with_name("boxes.csv")).astype(dict.fromkeys(CORNERS, float))
    said = spoil(frame)
    frame.to_csv(images.with_name("bad.csv"), index=False)
    code, _, err = fit(medsoft, images, tmp_path / "run", boxes="bad.csv")
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
    if spoil is beyond:
        code, _, err = fit(medsoft, images, tmp_path / "run", "--data.on_error=skip", boxes="bad.csv")
        assert code == 3, err
        assert said in (tmp_path / "run" / "errors.csv").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.backbone=vit_tiny_patch16_224"], "gives no feature maps of the strides 8, 16 and 32"),
        (["--ood_quantile=0.95"], "ood_quantile is for answers to whole images"),
        (["--data.boxes=null"], "data.boxes: name the file with the true boxes"),
        (["--model.mixup=0.2"], "model.mixup"),
        (["--model.fpn_channels=20"], "must be a multiple of 32, and at least 64"),
        (["--data.classes=disc"], "'square' is no class"),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path, medsoft, images, words, said):
    code, _, err = fit(medsoft, images, tmp_path / "run", *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
