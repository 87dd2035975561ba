"""A tiny trained run, shared by the tests of a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.images import TINY, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("Jane Doe"), 48, per_patient=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory, images) -> Path:
    """A trained run on images."""
    from medsoft.cli.main import main

    out = tmp_path_factory.mktemp("fit") / "run"
    words = [f"--data.table={images}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    words += ["--name=brightness", "--trainer.max_epochs=2", "--report=true", f"--out={out}"]  # it locks thresholds
    assert main(["fit", *words]) == 0
    return out
