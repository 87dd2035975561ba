"""Tiny sets of images, and command lines run in this process (importing torch anew for each would take minutes)."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"

# A model that learns something in a second.
TINY = [
    "--transforms.size=32",
    "--model.backbone_args={patch_size: 8, depth: 2, embed_dim: 32, num_heads: 2}",
    "--data.batch_size=8",
    "--model.warmup_epochs=0",
    "--trainer.accelerator=cpu",
    "--pictures=false",
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shared_data() -> Path:
    """Real images, where the machine has them."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is not on this machine (../shared/data)")
    return SHARED_DATA


def write_images(folder: Path, n: int, classes: tuple[str, ...] = ("dark", "light"), per_patient: int = 1) -> Path:
    """Noise whose brightness says its class, two images a patient if asked; returns the sample table."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(n):
        k = (i // per_patient) % len(classes)
        level = 60 + 130 * k / max(1, len(classes) - 1)
        pixels = np.clip(rng.normal(level, 40, (40, 48, 3)), 0, 255).astype(np.uint8)
        name = f"images/im{i:03d}.png"
        Image.fromarray(pixels).save(folder / name)
        rows.append({"path": name, "label": classes[k], "patient": f"P{i // per_patient:03d}", "grade": k})
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """40 images of two classes, two a patient."""
    return write_images(tmp_path_factory.mktemp("binary"), 40, per_patient=2)


@pytest.fixture
def medsoft(capfd):
    """Run a command line in this process; gives (exit code, standard output, standard error)."""
    from medsoft.cli import main

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
