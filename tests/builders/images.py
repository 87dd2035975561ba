"""Tiny sets of images with their tables, and a model that learns something in a second."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"


# A model that learns something in a second.
TINY = [
    "--transforms.size=32",
    "--model.backbone_args={patch_size: 8, depth: 2, embed_dim: 32, num_heads: 2}",
    "--data.batch_size=8",
    "--model.warmup_epochs=0",
    "--trainer.accelerator=cpu",
    "--figures=false",
    "--shortcuts=false",  # a fifth of a second a run, which hundreds of tests need not pay
    "--report=false",  # and a second: a test that is about it says so
]


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


def without_progress(text: str) -> str:
    """What a process has said, without the lines of steps that took it long."""
    return re.sub(r"^.+: (\d+ \w+ so far|\d+ of \d+(, about .+ left)?)\n", "", text, flags=re.MULTILINE)


def without_knowledge(run: Path, copy: Path) -> Path:
    """A copy of a run whose head says next to nothing of any sample."""
    import torch

    from medsoft.runs.run_folder import RunFolder

    shutil.copytree(run, copy)
    RunFolder(copy).detector.unlink()
    file = copy / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    for name, value in checkpoint["state_dict"].items():
        if name.endswith("head.weight"):
            value.mul_(1e-9)
    torch.save(checkpoint, file)
    return copy
