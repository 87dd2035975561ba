"""Bad input: one clear message, exit code 2, and nothing half-written. Work that cannot go on: 1, and what was kept."""

import os
import re
import resource
import shutil
import struct
import subprocess
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.builders.images import SHARED_DATA, TINY, write_images

pytestmark = pytest.mark.long

CLASSES = "--data.classes=[dark, light]"


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def small(tmp_path) -> Path:
    """12 images of two classes that the tests may spoil."""
    return write_images(tmp_path / "set", 12)


@pytest.fixture
def refused(tmp_path, medsoft, small):
    """Run a verb that must be refused, and leave everything as it was; gives the message."""

    def run(*words: object, on: Path = small, verb: str = "fit", out: Path | None = None) -> str:
        before = contents(tmp_path)
        labels = [] if any(str(word).startswith("--data.classes") for word in words) else [CLASSES]
        options = [f"--data.table={on}", *labels, *TINY, "--trainer.max_epochs=1", f"--out={out or tmp_path / 'out'}"]
        code, said, err = medsoft(verb, *options, *words)
        assert code == 2, (said, err)
        assert err.startswith("medsoft: error: ")
        assert "Traceback" not in err
        assert contents(tmp_path) == before
        return err.removeprefix("medsoft: error: ")

    return run


def edited(table: Path, **columns: object) -> Path:
    rows = pd.read_csv(table, dtype=str)
    rows.assign(**columns).to_csv(table, index=False)
    return table


# The table


def test_a_missing_table(refused, small):
    assert "nowhere.csv: no such table" in refused(on=small.with_name("nowhere.csv"))
    assert "a table is a file .csv, .parquet, .xlsx, .npz" in refused(on=small.with_name("nowhere"))


@pytest.mark.parametrize("text", ["", "path,label\n"])
def test_an_empty_table(refused, small, text):
    small.write_text(text)
    assert re.search(r"the table (is empty|has no rows)", refused())


def test_an_unknown_column_gets_the_nearest(refused):
    err = refused("--data.label=lable", "--data.patient=pateint", "--data.site=hospital")
    assert "no column 'lable' (nearest: 'label')" in err
    assert "no column 'pateint' (nearest: 'patient')" in err
    assert "no column 'hospital': name the right one with the option site (fit: --data.site; null for none)" in err


def test_all_missing_files_are_listed(refused, small):
    for i in (2, 5, 7):
        (small.parent / "images" / f"im{i:03d}.png").unlink()
    err = refused()
    assert "missing file (3)" in err
    assert all(f"row {i + 1}: no such file" in err for i in (2, 5, 7))
    assert ".png" not in err


def test_a_label_outside_the_classes(refused, small):
    edited(small, label=["dark", "light", "grey"] * 4)
    err = refused()
    assert "unknown label (4)" in err
    assert "row 3: 'grey'" in err


def test_a_numeric_label_without_a_task(refused):
    err = refused("--data.label=grade", "--data.classes=null")
    assert "the label column 'grade' holds numbers (0, 1)" in err
    assert "--data.task" in err


def test_two_labels_without_a_positive_one(refused):
    assert "say which is the positive one" in refused("--data.classes=null")


def test_a_patient_in_two_splits(refused, small):
    edited(small, patient=["A", "B", "C"] * 4, split=["train"] * 6 + ["val"] * 4 + ["test"] * 2)
    err = refused("--data.patient=patient")
    assert "patient in two splits (3)" in err
    assert "a patient is in 'test' and 'train' and 'val'" in err


def test_a_class_without_a_sample_in_val(refused, small):
    edited(small, split=["train"] * 8 + ["val", "test"] * 2)  # rows 9 and 11 are dark
    assert "class 'light' has no sample in val" in refused()


def test_too_few_patients_to_split(refused, small):
    edited(small, patient=["A", "B"] * 6)
    assert "2 patients (or samples) are too few to split into train, val, test" in refused("--data.patient=patient")


def test_a_split_file_that_does_not_fit(refused, small, tmp_path):
    split = tmp_path / "split.csv"
    split.write_text("id,split\nim000,train\n")
    assert "has no split for 11 rows" in refused(f"--data.splits_from={split}")
    rows = [f"im{i:03d},{'val' if i % 2 else 'train'}" for i in range(12)]
    split.write_text("\n".join(["id,split", *rows]))
    err = refused(f"--data.splits_from={split}")
    assert "class 'light' has no sample in train" in err
    assert "class 'dark' has no sample in val" in err


def test_a_test_without_test_rows(refused, small, tmp_path, medsoft):
    run = tmp_path / "run"
    words = [f"--data.table={small}", CLASSES, *TINY, "--trainer.max_epochs=1", "--data.test_fraction=0"]
    assert medsoft("fit", *words, f"--out={run}")[0] == 0
    assert "has no rows of the split test" in refused(f"--checkpoint={run}", verb="test")


# The pictures


def truncated(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:1500])


def bomb(path: Path) -> None:
    """A few bytes that say they are 60 000 × 60 000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def dicom(path: Path) -> None:
    real = SHARED_DATA / "dicom" / "pydicom_wheel" / "waveform_ecg.dcm"
    path.write_bytes(real.read_bytes() if real.is_file() else bytes(128) + b"DICM" + bytes(500))


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path, "PNG")


def text(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


SPOILT = {
    truncated: "is damaged or cut short",
    bomb: "has more pixels than the limit of 89478485",
    dicom: "is a DICOM object without a picture",
    one_pixel: "has 1 x 1 pixels: each side must have at least 2",
    text: "not a picture",
}


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_an_unreadable_picture_is_found_before_work_starts(refused, small, spoil, cache):
    spoil(small.parent / "images" / "im004.png")
    err = refused(f"--data.cache={cache}")
    assert re.search(f"row 5: .*{re.escape(SPOILT[spoil])}", err)
    assert err.count("row 5") == 1
    assert "im004" not in err
    assert "on_error skip" in err


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_unreadable_pictures_of_all_parts_are_listed_at_once(refused, small, cache):
    for file in (small.parent / "images").iterdir():
        file.write_text(f"{file.name} is no picture")
    err = refused(f"--data.cache={cache}")
    assert "unreadable picture (12)" in err
    assert sorted(int(row) for row in re.findall(r"row (\d+): is", err)) == list(range(1, 13))


def test_pictures_above_a_limit_of_the_user(refused):
    assert "has 48 x 40 pixels, more than the limit of 1900 (max_pixels)" in refused("--data.max_pixels=1900")


def test_leaving_out_every_picture_of_a_part_is_refused(refused, small):
    edited(small, split=["train"] * 8 + ["val"] * 2 + ["test"] * 2)
    for i in (10, 11):
        (small.parent / "images" / f"im{i:03d}.png").write_text(f"no picture {i}")
    assert "unreadable picture (2)" in refused("--data.on_error=skip")


# The options


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--trainer.max_epochs=0", "trainer.max_epochs 0 must be 1 or more"),
        ("--trainer.max_epochs=-1", "trainer.max_epochs -1 must be 1 or more"),
        ("--trainer.max_steps=0", "trainer.max_steps 0 leaves nothing to do"),
        ("--trainer.limit_train_batches=0", "trainer.limit_train_batches 0 leaves nothing to do"),
        ("--trainer.limit_val_batches=0", "trainer.limit_val_batches 0 leaves nothing to do"),
        ("--trainer.limit_val_batches=0.01", "the validation part cannot answer it"),
        ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches 0 must be 1 or more"),
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val -1 must be 0 or more"),
        ("--trainer.gradient_clip_algorithm=cut", "`gradient_clip_algorithm` cut is invalid"),
        ("--trainer.accelerator=quantum", "invalid accelerator name"),
        ("--trainer.precision=17", "trainer.precision"),
        ("--trainer.max_time=soon", "trainer"),
        ("--data.batch_size=0", "data.batch_size 0 must be 1 or more"),
        ("--data.batch_size=many", "data.batch_size"),
        ("--data.num_workers=-1", "data.num_workers -1 must be 0 or more"),
        ("--data.val_fraction=-0.1", "the fractions of a split must be positive and sum to 1"),
        ("--data.test_fraction=1.5", "the fractions of a split must be positive and sum to 1"),
        ("--data.val_fraction=0", "fit chooses its checkpoint on a validation part"),
        ("--data.max_pixels=0", "data.max_pixels 0 must be 1 or more"),
        ("--data.cache_gib=-1", "data.cache_gib -1 must be 0 or more"),
        ("--data.root=nowhere", "the root of the paths is not a folder"),
        ("--data.task=segmentation", "data.task"),
        ("--data.splits_from=nowhere.csv", "nowhere.csv: no such table"),
        ("--transforms.size=0", "size 0 must be 1 or more"),
        (
            "--model.backbone=convnext_atto --model.backbone_args={} --transforms.size=4",
            "model.backbone: takes no images of 4 x 4 px",
        ),
        ("--model.backbone_args={dynamic_img_size: false}", "dynamic_img_size is not an option"),
        ("--model.backbone=vit_seqnrm_tiny", "no model 'vit_seqnrm_tiny'; did you mean vit_seqnorm_tiny"),
        ("--model.backbone_args={dpeth: 2}", "model.backbone_args: vit_seqnorm_tiny_patch16_224 cannot be built"),
        ("--model.backbone_args={embed_dim: 33, num_heads: 2}", "width 33 is not divisible by 2 heads"),
        ("--model.backbone_args={global_pool: avg}", "loses what seqnorm attention computes"),
        ("--model.backbone_args={global_pool: ''}", "not one vector per image; choose a pooling"),
        ("--model.pretrained=nowhere.pt", "nowhere.pt: no such weights file"),
        ("--model.pretrained=set/labels.csv", "set/labels.csv: no plain state dict"),
        ("--model.lr=-1", "model.lr -1 must be 0 or more"),
        ("--model.lr=.nan", "model.lr nan must be 0 or more"),
        ("--model.dropout=2", "model.dropout 2 must be between 0 and 1"),
        ("--model.label_smoothing=1.5", "model.label_smoothing 1.5 must be between 0 and 1"),
        ("--model.weight_decay=-1", "model.weight_decay -1 must be 0 or more"),
        ("--model.layer_decay=2", "model.layer_decay 2 must be between 0 and 1"),
        ("--model.warmup_epochs=-1", "model.warmup_epochs -1 must be 0 or more"),
        ("--model.final_lr=3", "model.final_lr 3 must be between 0 and 1"),
        ("--monitor=nothing", "--monitor nothing: no metric of a binary task; one of auroc, "),
        ("--monitor=kappa", "--monitor kappa: no metric of a binary task"),
        ("--patience=0", "patience 0 must be 1 or more"),
        ("--ema_decay=1.5", "ema_decay 1.5 must be between 0 and 1"),
        ("--save_every_n_steps=0", "save_every_n_steps 0 must be 1 or more"),
        ("--seed_everything=-1", "seed_everything -1 must be between 0 and"),
        (
            "--use.data=nowhere.at.All",
            "use.data: nowhere.at.All is none of medsoft's own (image, bag, volume, masks, boxes, volume_masks)",
        ),
        ("--use.data=medsoft.data.tables.split.split_folds", "is none of medsoft's own"),
        ("--use.model=pathlib.Path", "use.model: pathlib.Path is none of medsoft's own"),
        ("--use.transforms=Fundus", "there is no transforms 'Fundus'"),
        ("--config=nowhere", "nowhere: no such file, and no shipped configuration: bags, breast_mri, "),
    ],
)
def test_an_option_that_cannot_be(refused, word, says):
    assert says in refused(*re.split(r" (?=--)", word))


def test_options_that_contradict_each_other(refused, small):
    edited(small, other=["0", "1", "1"] * 4, grade=["0", "1"] * 6)
    words = ["--data.label=grade,other", "--data.classes=null"]
    assert "not for multilabel tasks" in refused(*words, "--data.balanced_sampling=true")
    ordinal = ["--data.label=grade", "--data.task=ordinal", "--data.classes=null"]
    assert "label_smoothing is not defined for an ordinal task" in refused(*ordinal, "--model.label_smoothing=0.1")
    assert "positive belongs to a binary task" in refused(*ordinal, "--data.positive=1")
    assert "a binary task has two classes" in refused("--data.task=binary", "--data.classes=[a, b, c]")


def test_a_metric_that_the_validation_part_cannot_answer(refused, small):
    """Every row of val has the label: there is no AUROC to choose a checkpoint by. Its loss there is."""
    edited(small, grade=["0", "1"] * 4 + ["1"] * 4, other=["0", "1"] * 6, split=["train"] * 8 + ["val"] * 4)
    words = ["--data.label=grade,other", "--data.classes=null", "--monitor=auroc", "--trainer.limit_val_batches=1"]
    edited(small, other=["0", "1"] * 4 + ["1"] * 4)
    err = refused(*words)
    assert "--monitor auroc: the validation part cannot answer it. Every row is 'grade'; undefined: auroc" in err
    assert "such as loss" in err


# The checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("trained")
    table = write_images(folder / "set", 20)
    words = [f"--data.table={table}", CLASSES, *TINY, "--trainer.max_epochs=1", f"--out={folder / 'run'}"]
    assert main(["fit", *words]) == 0
    return folder / "run"


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_checkpoint_that_is_none(refused, tmp_path, verb):
    assert "--checkpoint is missing" in refused(verb=verb)
    assert "--checkpoint nowhere: no such file" in refused("--checkpoint=nowhere", verb=verb)
    assert f"{tmp_path}: no folder of a run" in refused(f"--checkpoint={tmp_path}", verb=verb)
    assert "this is not a medsoft checkpoint" in refused(f"--checkpoint={tmp_path / 'set' / 'labels.csv'}", verb=verb)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    assert "this is not a medsoft checkpoint" in refused(f"--checkpoint={tmp_path / 'weights.pt'}", verb=verb)


def test_a_checkpoint_that_was_cut_short(refused, medsoft, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    for name in ("best", "last"):
        file = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
        file.write_bytes(file.read_bytes()[:-100])
    assert "is damaged" in refused(f"--checkpoint={tmp_path / 'run'}", verb="test")
    code, _, err = medsoft("fit", "--resume", tmp_path / "run", "--trainer.max_epochs=2")
    assert (code, "is damaged" in err) == (2, True)


def test_a_checkpoint_is_never_unpickled(refused, tmp_path, trained):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was here"),)

    state = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save({**state, "hostile": Hostile()}, tmp_path / "hostile.ckpt")
    assert "this is not a medsoft checkpoint" in refused(f"--checkpoint={tmp_path / 'hostile.ckpt'}", verb="test")


def test_a_run_without_a_checkpoint(refused, medsoft, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    assert "this run has no checkpoint yet" in refused(f"--checkpoint={tmp_path / 'run'}", verb="test")
    code, _, err = medsoft("fit", "--resume", tmp_path / "run")
    assert code == 2
    assert "has no checkpoint to go on from; start it again with --config" in err


# The folder of the run


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_folder_that_holds_files_is_left_alone(refused, tmp_path, trained, verb):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    words = [] if verb == "fit" else [f"--checkpoint={trained}"]
    assert "holds files already; choose another folder with --out" in refused(*words, verb=verb)


@pytest.mark.parametrize("verb", ["fit", "test"])
@pytest.mark.parametrize("out", ["set/labels.csv", "set/labels.csv/run", "/proc/medsoft/run"])
def test_a_folder_that_cannot_be_made(refused, tmp_path, trained, verb, out):
    words = [] if verb == "fit" else [f"--checkpoint={trained}"]
    assert re.search("this folder cannot be (used|written): ", refused(*words, verb=verb, out=tmp_path / out))


# What goes wrong on the way


def test_a_training_that_diverges_says_so_and_keeps_what_was_good(tmp_path, fit, medsoft):
    _, err = fit(f"--out={tmp_path / 'out'}", "--trainer.max_epochs=3", "--model.lr=1e30", code=1)
    assert "the training has diverged in epoch 1: the model's outputs are not numbers. Lower model.lr" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "predictions.csv").exists()
    run = tmp_path / "run"
    fit(f"--out={run}", "--trainer.max_epochs=1")
    before = contents(run / "checkpoints")
    code, _, err = medsoft("fit", "--resume", run, "--trainer.max_epochs=3", "--transforms.std=[1e-30, 1, 1]")
    assert code == 1
    assert "diverged in epoch 2" in err
    assert contents(run / "checkpoints") == before


@contextmanager
def largest_file(size: int):
    """No file of this process may grow beyond so many bytes: the writer is told so as of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_the_start(refused, tmp_path):
    with largest_file(600):
        err = refused()
    assert "out: this folder cannot be written: File too large" in err
    (tmp_path / "mine").mkdir()
    with largest_file(600):
        refused(out=tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())


def test_a_disk_that_is_full_at_a_checkpoint_keeps_the_one_before(tmp_path, fit, medsoft):
    run = tmp_path / "run"
    fit(f"--out={run}", "--trainer.max_epochs=1")
    before = contents(run / "checkpoints")
    assert min(map(len, before.values())) > 100_000
    with largest_file(100_000):
        code, _, err = medsoft("fit", "--resume", run, "--trainer.max_epochs=2")
    assert code == 1
    assert re.search(r"\.ckpt: not written, the disk or quota is full \(.*\); everything saved before is kept\n$", err)
    assert "Traceback" not in err
    assert contents(run / "checkpoints") == before
    assert medsoft("fit", "--resume", run, "--trainer.max_epochs=2")[0] == 0
    assert (run / "predictions.csv").is_file()


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("room", [600_000, 300_000, 20_000, 3_000, 0], ids="{} bytes left".format)
def test_a_full_disk_is_one_message(tmp_path, medsoft, table, tiny_disk, room, monkeypatch):
    """ENOSPC wherever it comes: at the first or second checkpoint, in a log, in the folder's first files."""
    monkeypatch.setattr(
        "medsoft.workflows.fit.check_space", lambda *_: None
    )  # others may fill a disk after it was asked
    (tiny_disk / "others").write_bytes(bytes(2**20 - room - 4096))
    out = tiny_disk / "run"
    words = [f"--data.table={table}", CLASSES, *TINY, "--trainer.max_epochs=3", f"--out={out}"]
    code, _, err = medsoft("fit", *words)
    assert code == (1 if out.exists() else 2), err
    assert re.match(f"medsoft: error: {out}.*(No space left on device|disk or quota is full)", err)
    assert err.count("\n") == 1
    assert not list(tiny_disk.rglob(".*"))
    for file in out.rglob("*.ckpt"):
        torch.load(file, weights_only=True)
