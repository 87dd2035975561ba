"""Tiny sets of images, and command lines run in this process (importing torch anew for each would take minutes)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.builders.images import SHARED_DATA, TINY, write_images


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # On a busy machine any step may be a long one, whose line would stand among what a test compares.
    monkeypatch.setattr("medsoft.system.progress.FIRST_SECONDS", 3600.0)


@pytest.fixture
def shared_data() -> Path:
    """Real images, where the machine has them."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is not on this machine (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """40 images of two classes, two a patient."""
    return write_images(tmp_path_factory.mktemp("binary"), 40, per_patient=2)


@pytest.fixture
def medsoft(capfd):
    """Run a command line in this process; gives (exit code, standard output, standard error)."""
    from medsoft.cli.main import main

    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def fit(medsoft, table):
    """``medsoft fit`` of a tiny model on the tiny table, into ``out``."""

    def run(*words: object, on: Path = table, label: str = "label", code: int = 0) -> tuple[str, str]:
        labels = ["--data.classes=[dark, light]"] if label == "label" and on == table else []
        got, out, err = medsoft(
            "fit", f"--data.table={on}", f"--data.label={label}", *labels, "--data.patient=patient", *TINY, *words
        )
        assert got == code, (got, out[-2000:], err[-2000:])
        return out, err

    return run


os.environ.setdefault("OMP_NUM_THREADS", "1")
