"""Masks of volumes from the command line: training, new volumes, folds, ensembles, bundles, and what is refused."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from medsoft.evaluation.segmentation.contours import COLOURS
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.training.callbacks import StopGracefully
from tests.builders.dicom import write_series
from tests.builders.volume_masks import SPACING, ball_and_core, save_labels, write_volume_masks
from tests.builders.volumes import oblique, save

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("brief_reports")]

COLUMNS = ["--config=segmentation_volume", "--data.path=file", "--data.mask=mask", "--data.patient=patient"]
SMALL = [
    *COLUMNS,
    "--data.classes=[ball, core]",
    "--transforms.size=16",
    "--transforms.intensity=zscore",
    "--model.network=unet_seqnorm",
    "--model.network_args={widths: [8, 16], depth: 1, conv_levels: 1}",
    "--model.warmup_epochs=0",
    "--model.overlap=0",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
]
QUIET = ["--figures=false", "--report=false"]
LENIENT = ["--data.on_error=skip", "--data.resample_masks=true", "--data.parts=2"]
UNKNOWN = ["--data.patient=null"]


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    return write_volume_masks(tmp_path_factory.mktemp("masks") / "set", 8, empty=(5,))


@pytest.fixture(scope="module")
def run(tmp_path_factory, masks) -> Path:
    """Some epochs, with report, figures and pictures."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "run"
    more = ["--trainer.max_epochs=3", "--model.lr=5e-3", "--data.parts=4", "--transforms.spacing_mm=1.5"]
    assert main(["fit", f"--data.table={masks}", *SMALL, *more, f"--out={out}"]) == 0
    return out


def predictions(run: Path) -> pd.DataFrame:
    return read_predictions(run / "predictions.csv")[0]


def fit(medsoft, table: Path, out: Path, *words: str):
    return medsoft("fit", f"--data.table={table}", *SMALL, *QUIET, *words, f"--out={out}")


def test_a_training_learns_the_ball_and_its_masks_lie_on_the_volumes_that_were_read(run, masks):
    frame = predictions(run)
    assert frame["dice_ball"].mean() > 0.5
    voxel = np.prod(SPACING)
    for row in frame.itertuples():
        found = nibabel.load(run / "masks" / f"{row.split}_{row.id}.nii.gz")
        source = nibabel.load(masks.parent / "volumes" / f"{row.id}.nii.gz")
        np.testing.assert_allclose(found.affine, source.affine, rtol=1e-6)
        assert (found.shape, found.get_data_dtype()) == (source.shape, np.uint8)
        mask = np.asarray(found.dataobj)
        truth = np.asarray(nibabel.load(masks.parent / "masks" / f"{row.id}.nii.gz").dataobj)
        assert row.volume_mm3_ball == pytest.approx((mask == 1).sum() * voxel)
        assert row.true_volume_mm3_core == pytest.approx((truth == 2).sum() * voxel)
        both, all_ = ((mask == 1) & (truth == 1)).sum(), (mask == 1).sum() + (truth == 1).sum()
        if all_:
            assert row.dice_ball == pytest.approx(2 * both / all_)


def test_the_report_shows_slices_with_outlines_worst_first(run):
    shown = json.loads((run / "examples" / "examples.json").read_text())
    dice = [one["p"] for one in shown["examples"] if one["target"] == "worst"]
    assert dice == sorted(dice)
    text = (run / "report.html").read_text()
    assert "four axial slices" in text
    assert "(volume mm³ " in text
    last = len(shown["examples"]) - 1  # the first may be the empty mask
    pixels = np.asarray(Image.open(run / "examples" / f"{last:02d}_true.jpg").convert("RGB")).astype(int)
    for colour in COLOURS[:2]:
        assert (np.abs(pixels - colour).max(axis=2) < 40).any()


def test_new_volumes_of_other_sizes_and_a_dicom_series_get_masks_of_theirs(tmp_path, medsoft, run):
    pytest.importorskip("highdicom", reason="the extra dicom_seg is not installed")
    volume = ball_and_core(40, (20, 12, 26))[0]
    files = write_series(tmp_path / "ct", (volume * 10).astype(np.int16), spacing=SPACING, FrameOfReferenceUID="1.2.3")
    save(volume[:9], oblique(SPACING), tmp_path / "cut.nii.gz")
    (tmp_path / "new.csv").write_text("file\nct\ncut.nii.gz\n")
    words = ["--checkpoint", run, f"--data.table={tmp_path / 'new.csv'}", *UNKNOWN, *QUIET]
    code, _, err = medsoft("predict", *words, "--data.dicom_seg=true", f"--out={tmp_path / 'no'}")
    assert code == 2
    assert "row 2: the volume is no DICOM series, to which a DICOM SEG could refer" in err
    assert not (tmp_path / "no").exists()
    code, _, err = medsoft("predict", *words, f"--out={tmp_path / 'p'}")
    assert (code, err) == (0, "")
    frame = predictions(tmp_path / "p").set_index("id")
    assert frame["dice"].isna().all()
    assert (frame["mask"] == 0).all()
    assert nibabel.load(tmp_path / "p" / "masks" / "cut.nii.gz").shape == (9, 12, 26)
    (tmp_path / "new.csv").write_text("file\nct\n")
    code, _, err = medsoft("predict", *words, "--data.dicom_seg=true", f"--out={tmp_path / 's'}")
    assert (code, err) == (0, "")
    seg = pydicom.dcmread(tmp_path / "s" / "masks" / "ct.dcm")
    first = pydicom.dcmread(files[0])
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    nifti = np.asarray(nibabel.load(tmp_path / "s" / "masks" / "ct.nii.gz").dataobj)
    assert nifti.shape == (20, 12, 26)
    assert seg.pixel_array.sum() == (nifti > 0).sum() > 0


def test_without_highdicom_one_message_says_what_to_install_and_the_rest_works(tmp_path, medsoft, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    (tmp_path / "new.csv").write_text(f"file\n{save(ball_and_core(1)[0], oblique(SPACING), tmp_path / 'v.nii.gz')}\n")
    words = ["predict", "--checkpoint", run, f"--data.table={tmp_path / 'new.csv'}", *UNKNOWN, *QUIET]
    code, _, err = medsoft(*words, "--data.dicom_seg=true", f"--out={tmp_path / 'no'}")
    assert code == 2
    assert "pip install 'medsoft[dicom_seg]'" in err
    assert medsoft(*words, f"--out={tmp_path / 'p'}")[0] == 0


def test_a_bundle_predicts_the_same(tmp_path, medsoft, run, masks):
    assert medsoft("export", run, f"--out={tmp_path / 'bundle'}")[::2] == (0, "")
    words = ["--bundle", tmp_path / "bundle", f"--data.table={masks}", *QUIET]
    code, _, err = medsoft("predict", *words, f"--out={tmp_path / 'b'}")
    assert (code, err) == (0, "")
    columns = ["volume_mm3_ball", "dice", "hd95_ball"]
    ours, theirs = (predictions(one).set_index("id")[columns] for one in (run, tmp_path / "b"))
    pd.testing.assert_frame_equal(ours, theirs.loc[ours.index])


def test_folds_become_an_ensemble(tmp_path, medsoft, masks):
    folder = tmp_path / "cv"
    code, _, err = medsoft("crossval", f"--data.table={masks}", *SMALL, *QUIET, "--folds=2", f"--out={folder}")
    assert (code, err) == (0, "")
    assert len(predictions(folder)) == 8
    code, out, err = medsoft(
        "predict", "--checkpoint", folder, f"--data.table={masks}", *QUIET, f"--out={tmp_path / 'a'}"
    )
    assert (code, err) == (0, "")
    assert "2 models" in out
    assert len(list((tmp_path / "a" / "masks").iterdir())) == 8


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> tuple[Path, Path, int]:
    """A table with a mask of another grid and one that is none, and a run that takes the one and leaves the other."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("spoiled")
    table = write_volume_masks(folder / "set", 8)
    other_grid(folder / "set")
    four_dimensions(folder / "set", "v01.nii.gz")
    code = main(["fit", f"--data.table={table}", *SMALL, *QUIET, *LENIENT, f"--out={folder / 'run'}"])
    return table, folder / "run", code


def test_masks_on_other_grids_are_taken_when_asked_and_bad_ones_left_out(straight):
    _, run, code = straight
    assert code == 3
    errors = pd.read_csv(run / "errors.csv")
    assert len(errors) == 1
    assert "holds 2 volumes, one after the other (4D)" in errors["reason"][0]


def test_a_stopped_training_goes_on(tmp_path, medsoft, straight, monkeypatch):
    def ask(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (0, 1):
            self._ask(signal.SIGINT)
        original(self, trainer, pl_module, outputs, batch, batch_idx)

    table, run, _ = straight
    original, stopped = StopGracefully.on_train_batch_end, tmp_path / "stopped"
    kept_on_disk = ["--data.cache=disk", f"--data.cache_dir={tmp_path / 'cache'}"]
    with monkeypatch.context() as patch:
        patch.setattr(StopGracefully, "on_train_batch_end", ask)
        assert fit(medsoft, table, stopped, *LENIENT, *kept_on_disk)[0] == 130
    assert medsoft("fit", "--resume", stopped)[0] == 3
    pd.testing.assert_frame_equal(predictions(run), predictions(stopped))


def test_the_sheet_of_the_input_shows_the_masks(tmp_path, medsoft, masks):
    words = ["data", "show", masks, *COLUMNS, "--data.classes=[ball, core]", "--transforms.intensity=zscore", "--n=1"]
    code, _, err = medsoft(*words, f"--out={tmp_path / 'sheet.png'}")
    assert (code, err) == (0, "")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    assert (np.abs(pixels - (255, 190, 0)).max(axis=2) < 30).sum() > 20


def other_grid(folder: Path) -> str:
    save_labels(np.ones((9, 8, 6), np.uint8), oblique(tuple(2 * mm for mm in SPACING)), folder / "masks" / "v00.nii.gz")
    return "on another grid: 9 x 8 x 6 voxels of 2 x 2.5 x 4 mm"


def four_dimensions(folder: Path, name: str = "v00.nii.gz") -> str:
    save_labels(np.ones((18, 16, 12, 2), np.uint8), oblique(SPACING, 0), folder / "masks" / name)
    return "holds 2 volumes, one after the other (4D)"


def unnamed(folder: Path) -> str:
    labels = ball_and_core(0)[1]
    save_labels(labels + (labels == 2), oblique(SPACING, 0), folder / "masks" / "v00.nii.gz")
    return "has values without a name: 3; named are 0 background, 1 ball, 2 core"


def all_empty(folder: Path) -> str:
    for file in (folder / "masks").iterdir():
        save_labels(np.zeros((18, 16, 12), np.uint8), nibabel.load(file).affine, file)
    return "every mask of the part train is empty (2 rows): there is no voxel of ball, core"


def none_named(folder: Path) -> str:
    frame = pd.read_csv(folder / "table.csv")
    frame.loc[3, "mask"] = None
    frame.to_csv(folder / "table.csv", index=False)
    return "the mask is empty"


@pytest.mark.parametrize("spoil", [other_grid, four_dimensions, unnamed, all_empty, none_named])
def test_masks_that_cannot_be_learnt_from_are_told_before_training(tmp_path, medsoft, spoil):
    table = write_volume_masks(tmp_path / "set", 6)
    said = spoil(tmp_path / "set")
    code, _, err = fit(medsoft, table, tmp_path / "run")
    assert code == 2
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.network=unet_sofd"], "did you mean unet_soft"),
        (["--model.network_args={depht: 1}"], "has no depht"),
        (["--transforms.crop=mask"], "transforms.crop mask"),
        (["--transforms.fit=stretch"], "transforms.fit stretch"),
        (["--shortcuts=true"], "shortcuts is for answers to whole images"),
        (["--data.mask_values=[1]"], "1 values for 2 classes"),
        (["--data.parts=0"], "data.parts"),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path, medsoft, masks, words, said):
    code, _, err = fit(medsoft, masks, tmp_path / "run", *words)
    assert code == 2
    assert said in err
