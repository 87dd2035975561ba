"""Tiny volumes with masks: a bright ball with a brighter core, on oblique grids."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from tests.builders.volumes import oblique, save

SPACING = (1.0, 1.25, 2.0)
SHAPE = (18, 16, 12)


def ball_and_core(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A volume (X, Y, Z) and its labels: 0, 1 (ball) and 2 (core)."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) * np.reshape(SPACING, (3, 1, 1, 1))
    middle = np.array(shape) * SPACING / 2 + rng.uniform(-2, 2, 3)
    away = np.sqrt(((places - middle[:, None, None, None]) ** 2).sum(axis=0))
    labels = (away < rng.uniform(6, 7.5)).astype(np.uint8) + (away < 4)
    return rng.normal(10 + 8.0 * labels, 1.0, shape), labels.astype(np.uint8)


def save_labels(labels: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels, affine), path)
    return path


def write_volume_masks(folder: Path, n: int, empty: tuple[int, ...] = ()) -> Path:
    """Volumes and masks, two of each patient; returns the sample table."""
    rows = []
    for number in range(n):
        volume, labels = ball_and_core(number)
        labels[:] = 0 if number in empty else labels
        affine, name = oblique(SPACING, degrees=10.0 * (number % 3)), f"v{number:02d}.nii.gz"
        save(volume, affine, folder / "volumes" / name)
        save_labels(labels, affine, folder / "masks" / name)
        rows.append({"file": f"volumes/{name}", "mask": f"masks/{name}", "patient": f"P{number // 2}"})
    table = folder / "table.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return table
