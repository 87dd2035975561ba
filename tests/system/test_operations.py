"""What keeps long work in hand: logs for machines, a stop in order, too little memory or disk, a deep doctor."""

import json
import os
import re
import signal
import subprocess
import types
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
import torch

from medsoft import errors
from medsoft.classifiers.image import Classifier
from medsoft.cli import doctor_checks as doctor_deep
from medsoft.data.features.open import open_bag
from medsoft.encoders.encoder import Encoder
from medsoft.slides import disk_space
from medsoft.slides.find import find_slides
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.source import SlideInput
from medsoft.slides.tiling.settings import TileSettings, TissueSettings
from medsoft.storage import disk
from tests.builders.forked import Forked
from tests.builders.images import TINY
from tests.builders.slides import write_checkpoint, write_slide
from tests.builders.waiting import wait_until

pytestmark = pytest.mark.long

ENCODER = ["--encoder", "test_efficientnet", "--encoder-init", "random", "--input-px", 32, "--device", "cpu"]
TILES = ["--mpp", 1, "--tile", 32]
NAME = "Jane Doe 1957-03-02"


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Three slides and a broken one, whose names and folder are those of patients."""
    folder = tmp_path_factory.mktemp("scans") / NAME
    folder.mkdir()
    for seed in range(3):
        write_slide(folder / f"{NAME} slide {seed}.tif", seed)
    (folder / f"{NAME} broken.tif").write_bytes(b"no slide")
    return folder


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


# Logs


def test_slides_are_logged_without_a_word_of_the_patient(medsoft, scans, tmp_path):
    words = ["slides", "encode", scans, *ENCODER, *TILES, "--out", tmp_path / "work", "--log-format", "json"]
    code, out, err = medsoft(*words)
    assert code == 3
    assert NAME in out  # for people, as ever
    events = lines(err)  # every line of it
    assert "Jane" not in err
    assert str(tmp_path) not in err
    assert [one["event"] for one in events[:1] + events[-1:]] == ["start", "end"]
    assert (events[-1]["code"], events[-1]["level"]) == (3, "info")
    assert {one["verb"] for one in events} == {"slides encode"}
    assert len({one["run"] for one in events}) == 1
    slides = [one for one in events if one["event"] == "slide"]
    assert sorted(one["status"] for one in slides) == ["encoded", "encoded", "encoded", "failed"]
    assert [one["number"] for one in slides] == [1, 2, 3, 4]
    assert sum(one["tiles"] or 0 for one in slides) > 100


def test_a_training_is_logged_into_a_file(medsoft, table, tmp_path):
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    log = tmp_path / "log.jsonl"
    code, _, err = medsoft("fit", *words, "--trainer.max_epochs=2", "--log_file", log, f"--out={tmp_path / 'run'}")
    assert code == 0, err
    events = lines(log.read_text())
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    disk = next(one for one in events if one["event"] == "disk")
    size = (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_size
    assert 0.8 * size < disk["expected"] / 3 < 1.1 * size
    epochs = [one for one in events if one["event"] == "epoch"]
    assert [one["val_auroc"] for one in epochs] == pytest.approx(metrics["val_auroc"].tolist(), rel=1e-6)
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    of_test = next(one for one in events if one["event"] == "scores" and one["split"] == "test")
    assert of_test["auroc"] == scores["test"]["overall"]["auroc"]
    ids = pd.read_csv(tmp_path / "run" / "predictions.csv")[["id", "patient"]].to_numpy().ravel()
    assert not any(f'"{name}"' in log.read_text() for name in ids)
    assert "log_file" not in (tmp_path / "run" / "config.yaml").read_text()

    code, _, _ = medsoft("predict", f"--checkpoint={tmp_path / 'none'}", f"--log-file={log}")
    assert code == 2
    events = lines(log.read_text())
    assert [(one["verb"], one["event"], one.get("code")) for one in events[-1:]] == [("predict", "end", 2)]


def test_a_mistake_is_not_logged_in_words(medsoft, tmp_path):
    code, out, err = medsoft("slides", "encode", tmp_path / NAME, *ENCODER, "--out", "o", "--log-format=json")
    assert code == 2
    assert f"{NAME}: " in out
    assert [one["event"] for one in lines(err)] == ["start", "end"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--log-format", "xml"], "text or json"),
        (["--log-format"], "needs a value"),
        (["--log-format", "text", "--log-file", "x"], "is for --log-format json"),
        (["--log-file", "no/folder/x"], "cannot be written"),
    ],
)
def test_logs_that_cannot_be_had(medsoft, words, message):
    code, _, err = medsoft("slides", "encode", "x.svs", *words)
    assert (code, message in err) == (2, True), err


def test_what_has_no_log_does_not_take_its_options(medsoft):
    assert medsoft("weights", "list", "--log-format", "json")[0] == 2


# A stop in order


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_leaves_out_the_slide_at_hand_and_is_gone_on_from(medsoft, scans, tmp_path, monkeypatch, number):
    encode = Encoder.__call__
    calls = []

    def stopped(self, images):
        calls.append(len(images))
        if len(calls) == 11:  # within the second slide: the first one has 9 batches
            os.kill(os.getpid(), number)
        return encode(self, images)

    monkeypatch.setattr(Encoder, "__call__", stopped)
    before = signal.getsignal(number)
    words = ["slides", "encode", *sorted(scans.glob("* slide *")), *ENCODER, *TILES, "--batch-size", 12]
    words += ["--out", tmp_path / "work"]
    code, _, err = medsoft(*words)
    assert code == 128 + number
    assert "Stopping after this batch" in err
    assert "stopped: 1 of 3 slides were done in this run; those at hand were left out. Run the same command" in err
    assert signal.getsignal(number) == before
    files = [path.name for path in (tmp_path / "work" / "features").iterdir()]
    assert files == [f"{NAME} slide 0.h5"]  # and no half-written one
    assert pd.read_csv(tmp_path / "work" / "slides.csv")["status"].tolist() == ["encoded"]
    done = (tmp_path / "work" / "features" / files[0]).stat().st_mtime_ns

    monkeypatch.setattr(Encoder, "__call__", encode)
    assert medsoft(*words)[0] == 0
    assert len(list((tmp_path / "work" / "features").iterdir())) == 3
    assert (tmp_path / "work" / "features" / files[0]).stat().st_mtime_ns == done


def test_asked_twice_it_stops_at_once(medsoft, scans, tmp_path, monkeypatch):
    def stopped(self, images):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    words = ["slides", "encode", *sorted(scans.glob("* slide *")), *ENCODER, *TILES, "--out", tmp_path / "work"]
    encoder_call = Encoder.__call__
    calls = []

    def once_built(self, images):
        calls.append(1)
        return encoder_call(self, images) if len(calls) == 1 else stopped(self, images)

    monkeypatch.setattr(Encoder, "__call__", once_built)
    code, _, err = medsoft(*words)
    assert (code, "stopped: 0 of 3 slides" in err) == (130, True), err


def test_tiling_is_stopped_in_order(medsoft, scans, tmp_path, monkeypatch):
    from medsoft.slides.tiling import run as tile_slides

    tile = tile_slides.tile_slide

    def stopped(*about):
        os.kill(os.getpid(), signal.SIGTERM)
        return tile(*about)

    monkeypatch.setattr(tile_slides, "tile_slide", stopped)
    words = ["slides", "tile", *sorted(scans.glob("* slide *")), *TILES, "--workers", 1, "--out", tmp_path / "work"]
    code, _, err = medsoft(*words)
    assert (code, "of 3 slides were done" in err) == (143, True), err


def running(group: int) -> str:
    """Command lines of the processes of a group, without those that have ended."""
    found = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()]
    return "\n".join(args for pgid, state, args in rows if int(pgid) == group and not state.startswith("Z"))


def test_several_processes_are_stopped_in_order(scans, tmp_path):
    slide = sorted(scans.glob("* slide *"))[0]
    (tmp_path / "many").mkdir()
    for number in range(200):
        (tmp_path / "many" / f"{number:03d}.tif").hardlink_to(slide)
    out = tmp_path / "work"
    words = ["slides", "encode", tmp_path / "many", *ENCODER, *TILES, "--jobs", 2, "--out", out]
    child = Forked(*words)
    try:
        wait_until((out / "slides.csv").is_file, child)
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate()
        wait_until(lambda: not running(child.pid))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 143, err
    assert re.search(r"stopped: \d+ of 200 slides were done in this run", err), err
    done = pd.read_csv(out / "slides.csv", dtype=str)
    assert 0 < len(done) < 200
    names = {path.stem for path in (out / "features").iterdir()}  # a name with a dot in front is half-written
    assert set(done["id"]) <= names
    assert not any(name.startswith(".") for name in names)


# Too little memory


def test_half_the_tiles_are_tried_on_a_processor_too(medsoft, scans, tmp_path, monkeypatch):
    encode = Encoder._encode
    monkeypatch.setattr("medsoft.encoders.encoder.CPU_TILES", 8)

    def hungry(self, images, *others):
        if len(images) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
        return encode(self, images, *others)

    monkeypatch.setattr(Encoder, "_encode", hungry)
    slide = sorted(scans.glob("* slide *"))[0]
    log = tmp_path / "log"
    words = ["slides", "encode", slide, *ENCODER, *TILES, "--out", tmp_path / "work", "--log-file", log]
    code, _, err = medsoft(*words)
    assert code == 0, err
    assert err.count("no memory for") == 2  # 8, then 4; not once a batch
    told = [one for one in lines(log.read_text()) if one["event"] == "memory"]
    assert [(one["tiles"], one["going_on_with"]) for one in told] == [(8, 4), (4, 2)]


def test_other_errors_of_an_encoder_are_not_taken_for_want_of_memory(medsoft, scans, tmp_path, monkeypatch):
    assert not errors.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert errors.is_out_of_memory(MemoryError())
    assert errors.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


def test_a_training_says_what_to_change(medsoft, table, tmp_path, monkeypatch):
    def hungry(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Classifier, "logits", hungry)
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    code, _, err = medsoft("fit", *words, f"--out={tmp_path / 'run'}")
    assert code == 1
    assert "Traceback" not in err
    message = err.splitlines()[-1]
    assert message.startswith("medsoft: error: not enough memory. Try")
    assert "data.batch_size 4 with trainer.accumulate_grad_batches 2" in message
    assert "transforms.size" in message


def test_predicting_says_it_too(medsoft, fit, table, tmp_path, monkeypatch):
    fit("--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")

    def hungry(self, batch):
        raise MemoryError

    monkeypatch.setattr(Classifier, "logits", hungry)
    words = [f"--checkpoint={tmp_path / 'run'}", "--trainer.accelerator=cpu", f"--out={tmp_path / 'out'}"]
    code, _, err = medsoft("predict", *words)
    assert (code, "data.batch_size 4 (now 8)" in err) == (1, True), err


def test_one_bag_too_large_does_not_end_the_others(medsoft, scans, tmp_path, monkeypatch):
    from medsoft.inference.slides import model as slide_model

    words = ["slides", "encode", *sorted(scans.glob("* slide *")), *ENCODER, *TILES, "--out", tmp_path / "work"]
    assert medsoft(*words)[0] == 0
    files = sorted((tmp_path / "work" / "features").iterdir())
    write_checkpoint(tmp_path / "m.ckpt", files[0])
    logits = slide_model.read_logits

    def hungry(aggregator, read_chunks):
        if read_chunks.args[0][0].path == files[1]:
            raise RuntimeError("CUDA error: out of memory")
        return logits(aggregator, read_chunks)

    monkeypatch.setattr(slide_model, "read_logits", hungry)
    out = tmp_path / "out"
    code, _, _ = medsoft("slides", "predict", *files, "--checkpoint", tmp_path / "m.ckpt", "--out", out)
    assert code == 3
    failed = pd.read_csv(out / "errors.csv")
    assert failed["id"].tolist() == [files[1].stem]
    assert "not enough memory for its" in failed["reason"][0]
    assert len(pd.read_csv(out / "predictions.csv")) == 2


# Too little disk


def with_free(monkeypatch, free: int) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=free, total=2**40))


def test_features_that_cannot_fit_are_refused_before_work(medsoft, scans, tmp_path, monkeypatch):
    slides = sorted(scans.glob("* slide *"))
    out = ["--out", tmp_path / "work"]
    assert medsoft("slides", "tile", *slides, *TILES, *out)[0] == 0
    with_free(monkeypatch, 100_000)
    code, _, err = medsoft("slides", "encode", *slides, *ENCODER, *TILES, *out)
    assert code == 2
    assert "the features of 3 slides need about" in err
    assert "0.1 MiB are free" in err
    assert not (tmp_path / "work" / "features").exists()


def test_checkpoints_that_cannot_fit_are_refused_before_training(medsoft, table, tmp_path, monkeypatch):
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    with_free(monkeypatch, 100_000)
    code, _, err = medsoft("fit", *words, "--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")
    assert code == 2
    assert "the checkpoints of this model need" in err
    assert "but 0.1 MiB are free" in err
    assert not (tmp_path / "run").exists()


def test_the_estimate_is_near_what_is_written(medsoft, scans, tmp_path):
    slides = [str(path) for path in sorted(scans.glob("* slide *"))]
    settings = TileSettings(1.0, 32, 0, 0.25, TissueSettings())
    folder = SlidesFolder(tmp_path / "work")

    def estimate() -> disk_space.Need:
        return disk_space.estimate(find_slides(SlideInput(slides)), folder, settings, 2 * 256)

    before = estimate()
    assert (before.tiled, before.others) == (0, 3)
    assert medsoft("slides", "tile", *slides, *TILES, "--out", folder.path)[0] == 0
    tiled = estimate()
    assert (tiled.tiled, tiled.others) == (3, 0)
    assert medsoft("slides", "encode", *slides, *ENCODER, *TILES, "--out", folder.path)[0] == 0
    files = list((folder.path / "features").iterdir())
    with open_bag(files[0]) as bag:
        assert bag.num_features == 256
    written = sum(path.stat().st_size for path in files)
    assert tiled.expected == pytest.approx(written, rel=0.05)
    assert before.at_most > written
    assert (estimate().expected, estimate().at_most) == (0, 0)  # nothing is left to write


def test_slides_that_are_not_tiled_yet_are_a_warning(medsoft, scans, tmp_path, monkeypatch):
    with_free(monkeypatch, 20_000)
    slide = sorted(scans.glob("* slide *"))[0]
    code, out, err = medsoft("slides", "encode", slide, *ENCODER, *TILES, "--out", tmp_path / "work")
    assert code == 0, err
    assert "Disk space may run out: 0.0 MiB are free; 1 slides are not tiled yet" in out


# The deep doctor


def test_the_deep_doctor_tries_everything(medsoft):
    code, out, err = medsoft("doctor", "--deep")
    assert code == 0, (out, err)
    for about in ("versions", "memory", "disk here", "codecs", "whole slides", "feature files", "GPU", "mechanisms"):
        assert re.search(rf"^  (ok|warn) +{about}: ", out, flags=re.MULTILINE), (about, out)
    assert "FAIL" not in out


def test_the_deep_doctor_finds_what_is_broken(medsoft, monkeypatch, tmp_path):
    from medsoft.layers.sima import SimaAttention

    monkeypatch.setattr(SimaAttention, "forward", lambda self, x, mask=None, grid=None: x * torch.nan)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "timm" else version(name))
    monkeypatch.setattr(doctor_deep, "LEAST_DISK_GIB", 1e9)
    monkeypatch.setattr(doctor_deep, "codecs", lambda: 1 / 0)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "weights.json").write_text("{}")
    monkeypatch.setenv("MEDSOFT_WEIGHTS", str(tmp_path / "weights"))
    found = {(one.about, one.state): one.text for one in doctor_deep.examine()}
    assert "sima over bags on cpu, sima over images on cpu" in found["mechanisms", "FAIL"]
    assert "timm 0.1 is outside of" in found["versions", "FAIL"]
    assert "which is little" in found["disk here", "warn"]
    assert "weights.json: is damaged: it says nothing of 'format'" in found["weights", "FAIL"]
    assert any(about.endswith("lambda>") and state == "FAIL" for about, state in found)
    code, out, _ = medsoft("doctor", "--deep")
    assert (code, "Missing or broken" in out) == (3, True)


def test_the_plain_doctor_stays_as_it_is(medsoft):
    code, out, _ = medsoft("doctor")
    assert (code, "Tried:" in out) == (0, False)
    assert medsoft("doctor", "--deeper")[0] == 2
