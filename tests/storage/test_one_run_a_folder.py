"""Two runs in one folder: the second is refused, whichever verb; the lock dies with its process."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from medsoft.errors import InputError
from medsoft.storage.files import (
    LOCK,
    MODE,
    apply_file_mode,
    hold_folder,
    holding,
    is_empty,
    release_folders,
    replacing,
)
from tests.builders.images import TINY

HOLD = """
import sys, time
from pathlib import Path
from medsoft.storage.files import hold_folder
hold_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def other():
    """Another process that holds a folder; ends when told."""
    running = []

    def start(folder: Path) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(autouse=True)
def _nothing_is_held():
    yield
    release_folders()


def test_a_folder_that_is_held_is_refused_until_its_process_dies(tmp_path, other):
    process = other(tmp_path / "out")
    with pytest.raises(InputError, match="another run of medsoft is at work in this folder"):
        hold_folder(tmp_path / "out")
    assert is_empty(tmp_path / "out")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    hold_folder(tmp_path / "out")
    hold_folder(tmp_path / "out")
    release_folders()
    assert not (tmp_path / "out" / LOCK).exists()


def test_a_block_lets_go_of_a_folder_but_not_of_one_that_was_held_before(tmp_path):
    with holding(tmp_path / "a"):
        assert (tmp_path / "a" / LOCK).exists()
    assert not (tmp_path / "a" / LOCK).exists()
    hold_folder(tmp_path / "b")
    with holding(tmp_path / "b"):
        pass
    assert (tmp_path / "b" / LOCK).exists()


def test_every_verb_that_writes_results_keeps_out_of_a_folder_at_work(tmp_path, medsoft, fit, table, other):
    fit("--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")
    out = tmp_path / "taken"
    process = other(out)
    data = [f"--data.table={table}", "--data.classes=[dark, light]", *TINY, "--trainer.max_epochs=1"]
    predictions = tmp_path / "run" / "predictions.csv"
    shutil.copy(predictions, tmp_path / "again.csv")
    calls = {
        "fit": ["fit", *data],
        "validate": ["validate", f"--checkpoint={tmp_path / 'run'}"],
        "test": ["test", f"--checkpoint={tmp_path / 'run'}"],
        "predict": ["predict", f"--checkpoint={tmp_path / 'run'}"],
        "evaluate": ["evaluate", predictions, "--draws=20", "--figures=false"],
        "compare": ["compare", predictions, tmp_path / "again.csv", "--draws=20", "--figures=false"],
    }
    for verb, words in calls.items():
        code, said, err = medsoft(*words, f"--out={out}")
        assert code == 2, (verb, said, err)
        assert "another run of medsoft is at work in this folder" in err, verb
        assert sorted(path.name for path in out.iterdir()) == [LOCK], verb
    process.kill()
    process.wait()
    resumed = other(tmp_path / "run")
    code, _, err = medsoft("fit", f"--resume={tmp_path / 'run'}", "--trainer.max_epochs=2")
    assert code == 2
    assert "another run of medsoft is at work" in err
    resumed.kill()
    resumed.wait()


def test_a_run_that_began_in_the_folder_meanwhile_is_not_mixed_with(tmp_path, medsoft, table, monkeypatch):
    """Between the choice of the folder and its making, another run was faster, and has ended."""
    from medsoft.runs.run_folder import RunFolder

    original = RunFolder.begin

    def late(self, *arguments, **options):
        self.path.mkdir(parents=True)
        (self.path / "config.yaml").write_text("of another run")
        original(self, *arguments, **options)

    monkeypatch.setattr(RunFolder, "begin", late)
    data = [f"--data.table={table}", "--data.classes=[dark, light]", *TINY, "--trainer.max_epochs=1"]
    code, _, err = medsoft("fit", *data, f"--out={tmp_path / 'out'}")
    assert code == 2
    assert "another run has begun in this folder" in err
    assert (tmp_path / "out" / "config.yaml").read_text() == "of another run"


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    from medsoft.cli.slides.export import find_features

    (tmp_path / "f" / "inside").mkdir(parents=True)
    (tmp_path / "f" / "a.h5").touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("inside"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"inside: cannot be opened: Permission denied"):
        find_features([str(tmp_path / "f")])


@pytest.mark.parametrize(
    ("mode", "file", "folder"), [("0600", 0o600, 0o700), ("640", 0o640, 0o750), ("0660", 0o660, 0o770)]
)
def test_the_mode_of_files_follows_the_variable(tmp_path, monkeypatch, mode, file, folder):
    monkeypatch.setenv(MODE, mode)
    before = os.umask(0o022)
    try:
        apply_file_mode()
        with replacing(tmp_path / "new" / "a.csv") as temporary:
            temporary.write_text("a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "a.csv").stat().st_mode) == file
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == folder


@pytest.mark.parametrize("mode", ["rw", "0999", "0400", "0777", "-1", "0"])
def test_what_is_no_mode_of_files_is_refused(medsoft, monkeypatch, mode):
    monkeypatch.setenv(MODE, mode)
    code, _, err = medsoft("weights", "list")
    assert code == 2
    assert f"{MODE}={mode}: must be the octal mode" in err


def test_all_files_of_a_run_have_the_mode(tmp_path, fit, monkeypatch):
    monkeypatch.setenv(MODE, "0600")
    before = os.umask(0o022)
    try:
        fit("--trainer.max_epochs=1", f"--out={tmp_path / 'run'}")
    finally:
        os.umask(before)
    for path in (tmp_path / "run").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
