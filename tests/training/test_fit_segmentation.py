"""Masks from the command line: training, new images, evaluation, folds, ensembles, bundles, and what is refused."""

from __future__ import annotations

import builtins
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medsoft.evaluation.segmentation.contours import COLOURS
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.training.callbacks import StopGracefully
from tests.builders.masks import disc_and_cup, write_masks

pytest.importorskip("segmentation_models_pytorch", reason="the extra segmentation is not installed")
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("brief_reports")]

COLUMNS = ["--config=segmentation", "--data.path=file", "--data.mask=mask", "--data.patient=patient"]
SMALL = [
    *COLUMNS,
    "--data.classes=[disc, cup]",
    "--transforms.size=32",
    "--model.backbone=test_resnet",
    "--model.warmup_epochs=0",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
]
QUIET = ["--figures=false", "--report=false"]


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    return write_masks(tmp_path_factory.mktemp("masks") / "set", 16, empty=(5,))


@pytest.fixture(scope="module")
def run(tmp_path_factory, masks) -> Path:
    """Twelve epochs, with report, figures and pictures."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "run"
    more = ["--trainer.max_epochs=12", "--model.lr=2e-3", "--model.decoder=unet"]
    assert main(["fit", f"--data.table={masks}", *SMALL, *more, f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    """Images of other sizes, without masks; the ids of two differ in signs that no file's name may have."""
    folder = tmp_path_factory.mktemp("new")
    rows = []
    for number, (height, width) in enumerate([(60, 72), (96, 50)]):
        Image.fromarray(disc_and_cup(40 + number, height, max(60, width))[0][:, :width]).save(folder / f"{number}.png")
        rows.append({"file": f"{number}.png", "id": f"a:{number}"})
    pd.DataFrame(rows).to_csv(folder / "new.csv", index=False)
    return folder / "new.csv"


def predictions(run: Path) -> pd.DataFrame:
    return read_predictions(run / "predictions.csv")[0]


def fit(medsoft, table: Path, out: Path, *words: str):
    return medsoft("fit", f"--data.table={table}", *SMALL, *QUIET, *words, f"--out={out}")


def test_a_training_learns_the_disc_and_writes_masks_of_the_size_of_their_images(run, masks):
    frame = predictions(run)
    assert frame["dice_disc"].mean() > 0.5
    table = pd.read_csv(masks).assign(id=lambda rows: rows["file"].map(lambda name: Path(name).stem)).set_index("id")
    for row in frame.itertuples():
        mask = np.asarray(Image.open(run / "masks" / f"{row.split}_{row.id}.png"))
        truth = np.asarray(Image.open(masks.parent / table.loc[row.id, "mask"]))
        assert mask.shape == truth.shape
        assert (mask == 1).sum() == row.area_disc
        assert (truth == 2).sum() == row.true_area_cup
        both = ((mask == 1) & (truth == 1)).sum()
        assert row.dice_disc == pytest.approx(2 * both / ((mask == 1).sum() + (truth == 1).sum()))


def test_the_report_shows_outlines_worst_first_and_intervals_by_patient(run):
    examples = json.loads((run / "examples" / "examples.json").read_text())["examples"]
    dice = [one["p"] for one in examples if one["target"] == "worst"]
    assert dice == sorted(dice)
    text = (run / "report.html").read_text()
    assert "Left of each pair the true outlines" in text
    assert text.count("data:image/jpeg") >= 2 * len(examples)
    metrics = pd.read_csv(run / "evaluation" / "metrics.csv")
    disc = metrics[(metrics["metric"] == "dice") & (metrics["class"] == "disc") & (metrics["split"] == "test")]
    disc = disc.dropna(subset=["low"])
    assert len(disc)
    assert (disc["low"] <= disc["value"]).all()
    assert (disc["high"] >= disc["value"]).all()


def test_new_images_get_masks_in_their_own_size(tmp_path, medsoft, run, new):
    code, _, err = medsoft(
        "predict", "--checkpoint", run, f"--data.table={new}", "--data.patient=null", f"--out={tmp_path / 'p'}"
    )
    assert (code, err) == (0, "")
    frame = predictions(tmp_path / "p")
    assert frame["dice"].isna().all()
    assert (frame["mask"] == 0).all()
    sizes = sorted(Image.open(file).size for file in (tmp_path / "p" / "masks").iterdir())
    assert sizes == [(50, 96), (72, 60)]


def test_large_images_are_predicted_window_by_window(tmp_path, medsoft, masks):
    code, _, err = fit(medsoft, masks, tmp_path / "run", "--data.patches=true", "--model.overlap=0.25")
    assert (code, err) == (0, "")
    sizes = {Image.open(file).size for file in (tmp_path / "run" / "masks").iterdir()}
    assert sizes == {(72, 60)}


def test_a_run_is_scored_again_and_a_bundle_predicts_the_same(tmp_path, medsoft, run, masks):
    code, out, err = medsoft("evaluate", run / "predictions.csv", f"--out={tmp_path / 'e'}")
    assert (code, err) == (0, "")
    assert "surface dice" in out
    assert medsoft("export", run, f"--out={tmp_path / 'bundle'}")[::2] == (0, "")
    code, _, err = medsoft("export", run, "--format=onnx", f"--out={tmp_path / 'onnx'}")
    assert code == 2
    assert "exported as weights alone" in err
    for name, words in (("c", ["--checkpoint", run]), ("b", ["--bundle", tmp_path / "bundle"])):
        code, _, err = medsoft("predict", *words, f"--data.table={masks}", f"--out={tmp_path / name}")
        assert (code, err) == (0, "")
    columns = ["area_disc", "area_cup", "dice", "hd95_disc"]
    ours, theirs = (predictions(tmp_path / name).set_index("id").sort_index()[columns] for name in ("c", "b"))
    pd.testing.assert_frame_equal(ours, theirs)


def test_folds_become_an_ensemble_whose_mask_is_of_the_mean(tmp_path, medsoft, masks, new):
    folder = tmp_path / "cv"
    code, out, err = medsoft("crossval", f"--data.table={masks}", *SMALL, *QUIET, "--folds=2", f"--out={folder}")
    assert (code, err) == (0, "")
    assert len(predictions(folder)) == 16
    # Each image is cut to the mask of the fold that has not seen it.
    words = ["--path=file", f"--masks={folder}", "--empty=whole", "--margin=0", f"--out={tmp_path / 'cut'}"]
    code, _, err = medsoft("data", "crop", masks, *words)
    assert (code, err) == (0, "")
    cut = pd.read_csv(tmp_path / "cut" / "cropped.csv").set_index("file")
    for number in range(2):
        reported = predictions(folder / f"fold-{number}").query("split == 'test'")
        for id in reported["id"]:
            mask = np.asarray(Image.open(folder / f"fold-{number}" / "masks" / f"test_{id}.png"))
            fraction = cut.loc[f"images/{id}.png", "mask_fraction"]
            assert fraction == pytest.approx((mask > 0).mean(), abs=1e-6)
    code, out, err = medsoft(
        "predict", "--checkpoint", folder, f"--data.table={new}", "--data.patient=null", f"--out={tmp_path / 'all'}"
    )
    assert (code, err) == (0, "")
    assert "2 models" in out
    assert predictions(tmp_path / "all")["members"].astype(int).tolist() == [2, 2]
    # A model with itself is itself; models of other sizes have no pixels in common.
    one = folder / "fold-0"
    shutil.copytree(one, tmp_path / "copy")
    for name, members in (("one", [one]), ("twice", [one, tmp_path / "copy"])):
        code, _, err = medsoft(
            "predict",
            "--checkpoint",
            *members,
            f"--data.table={new}",
            "--data.patient=null",
            f"--out={tmp_path / name}",
        )
        assert (code, err) == (0, "")
    areas = ["area_disc", "area_cup"]
    pd.testing.assert_frame_equal(predictions(tmp_path / "one")[areas], predictions(tmp_path / "twice")[areas])
    for number in range(2):
        words = ["--checkpoint", folder / f"fold-{number}", f"--data.table={masks}", "--data.splits_from=null"]
        assert medsoft("predict", *words, f"--out={tmp_path / f'of-{number}'}")[0] == 0
    tables = [tmp_path / f"of-{number}" / "predictions.csv" for number in range(2)]
    code, out, err = medsoft("compare", *tables, f"--out={tmp_path / 'cmp'}")
    assert (code, err) == (0, "")
    assert "dice" in out
    assert fit(medsoft, masks, tmp_path / "other", "--transforms.size=64")[0] == 0
    code, _, err = medsoft(
        "predict",
        "--checkpoint",
        one,
        tmp_path / "other",
        f"--data.table={new}",
        "--data.patient=null",
        f"--out={tmp_path / 'no'}",
    )
    assert code == 2
    assert "different transforms.size: masks are joined pixel by pixel" in err


def test_images_are_cut_to_the_masks_that_were_predicted(tmp_path, medsoft, run, masks):
    frame = predictions(run).query("split == 'test' and area_disc + area_cup > 0").set_index("id")
    rows = pd.read_csv(masks)
    rows = rows[rows["file"].map(lambda name: Path(name).stem in frame.index)]
    rows.to_csv(masks.parent / "test.csv", index=False)
    words = ["--path=file", f"--masks={run}", "--margin=0", f"--out={tmp_path / 'cut'}"]
    code, _, err = medsoft("data", "crop", masks.parent / "test.csv", *words)
    assert (code, err) == (0, "")
    for row in pd.read_csv(tmp_path / "cut" / "cropped.csv").itertuples():
        mask = np.asarray(Image.open(run / "masks" / f"test_{Path(row.file).stem}.png"))
        inside = mask[row.crop_y0 : row.crop_y1, row.crop_x0 : row.crop_x1]
        assert (inside > 0).sum() == (mask > 0).sum()
        assert Image.open(tmp_path / "cut" / row.file).size == inside.shape[::-1]
    code, _, err = medsoft("data", "crop", masks, "--path=file", f"--masks={run}", f"--out={tmp_path / 'no'}")
    assert (code, "has no mask" in err) == (2, True), err


def test_a_stopped_training_goes_on(tmp_path, medsoft, masks, monkeypatch):
    def ask(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (0, 1):
            self._ask(signal.SIGINT)
        original(self, trainer, pl_module, outputs, batch, batch_idx)

    original = StopGracefully.on_train_batch_end
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert fit(medsoft, masks, straight, "--trainer.max_epochs=2")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(StopGracefully, "on_train_batch_end", ask)
        assert fit(medsoft, masks, stopped, "--trainer.max_epochs=2")[0] == 130
    assert medsoft("fit", "--resume", stopped)[0] == 0
    pd.testing.assert_frame_equal(predictions(straight), predictions(stopped))


def test_the_sheet_of_the_input_shows_the_outlines_of_the_masks(tmp_path, medsoft, masks):
    words = ["data", "show", masks, *COLUMNS, "--data.classes=[disc, cup]", "--transforms.jitter=0", "--n=2"]
    code, _, err = medsoft(*words, f"--out={tmp_path / 'sheet.png'}")
    assert (code, err) == (0, "")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    for colour in COLOURS[:2]:  # of images in grey
        assert (np.abs(pixels - colour).max(axis=2) < 12).sum() > 50
    table = write_masks(tmp_path / "set", 4)
    other_size(tmp_path / "set")
    code, _, err = medsoft("data", "show", table, *COLUMNS, "--data.classes=[disc, cup]", f"--out={tmp_path / 's.png'}")
    assert code == 2
    assert "the mask has 36 x 30 px" in err


def other_size(folder: Path) -> str:
    Image.fromarray(np.zeros((30, 36), np.uint8)).save(folder / "masks" / "im00.png")
    return "the mask has 36 x 30 px and the image 72 x 60"


def smoothed(folder: Path) -> str:
    ramp = np.tile(np.arange(72, dtype=np.uint8), (60, 1))
    Image.fromarray(ramp).save(folder / "masks" / "im00.png")
    return "values without a name"


def colour(folder: Path) -> str:
    Image.fromarray(np.dstack([np.eye(60, 72, dtype=np.uint8) * 255, *[np.zeros((60, 72), np.uint8)] * 2])).save(
        folder / "masks" / "im00.png"
    )
    return "a colour picture"


def volume(folder: Path) -> str:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), np.eye(4)), folder / "masks" / "im00.nii.gz")
    table = folder / "masks.csv"
    table.write_text(table.read_text().replace("masks/im00.png", "masks/im00.nii.gz"))
    return "the mask is not a picture"


def all_empty(folder: Path) -> str:
    for file in (folder / "masks").iterdir():
        Image.fromarray(np.zeros((60, 72), np.uint8)).save(file)
    return "every mask of the part train is empty"


def none_named(folder: Path) -> str:
    table = folder / "masks.csv"
    frame = pd.read_csv(table)
    frame.loc[3, "mask"] = None
    frame.to_csv(table, index=False)
    return "the mask is empty"


@pytest.mark.parametrize("spoil", [other_size, smoothed, colour, volume, all_empty, none_named])
def test_masks_that_cannot_be_learnt_from_are_told_before_training(tmp_path, medsoft, spoil):
    table = write_masks(tmp_path / "set", 8)
    said = spoil(tmp_path / "set")
    code, _, err = fit(medsoft, table, tmp_path / "run")
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_bad_masks_can_be_left_out(tmp_path, medsoft):
    table = write_masks(tmp_path / "set", 8)
    other_size(tmp_path / "set")
    code, _, err = fit(medsoft, table, tmp_path / "run", "--data.on_error=skip")
    assert code == 3, err
    assert "the mask has 36 x 30 px" in (tmp_path / "run" / "errors.csv").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.backbone=vit_tiny_patch16_224"], "pyramid of feature maps"),
        (["--ood_quantile=0.95"], "ood_quantile is for answers to whole images"),
        (["--data.mask_values=[1]"], "1 values for 2 classes"),
        (["--model.overlap=1"], "model.overlap"),
        (["--data.mask=masc"], "masc"),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path, medsoft, masks, words, said):
    code, _, err = fit(medsoft, masks, tmp_path / "run", *words)
    assert code == 2
    assert said in err


def test_grey_images_for_a_model_of_three_channels_are_shown_as_three(tmp_path, medsoft, run):
    Image.fromarray(disc_and_cup(3)[0][..., 0]).save(tmp_path / "grey.png")
    (tmp_path / "t.csv").write_text("file\ngrey.png\n")
    code, _, err = medsoft(
        "predict",
        "--checkpoint",
        run,
        f"--data.table={tmp_path / 't.csv'}",
        "--data.patient=null",
        f"--out={tmp_path / 'p'}",
    )
    assert (code, err) == (0, "")


def test_without_the_extra_one_message_says_what_to_install(tmp_path, medsoft, masks, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **options):
        if name.split(".")[0] == "segmentation_models_pytorch":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    code, _, err = fit(medsoft, masks, tmp_path / "run")
    assert code == 2
    assert "pip install 'medsoft[segmentation]'" in err
    assert "Traceback" not in err
