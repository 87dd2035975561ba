"""Tiny volumes as NIfTI, in any orientation, with their table."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

TINY_VOLUME = [
    "--transforms.size=16",
    "--transforms.intensity=zscore",
    "--model.backbone_args={patch_size: 8, depth: 2, embed_dim: 32, num_heads: 2}",
    "--model.warmup_epochs=0",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--figures=false",
    "--shortcuts=false",  # a fifth of a second a run, which hundreds of tests need not pay
    "--report=false",  # and a second: a test that is about it says so
]


def oblique(
    spacing: tuple[float, float, float], degrees: float = 20.0, origin: tuple[float, ...] = (5, -7, 11)
) -> np.ndarray:
    """An affine whose axes are turned about two axes of the body."""
    a, b = np.deg2rad(degrees), np.deg2rad(degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def varied(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers from 1 to 7, which differ: a volume of one number is no sample."""
    return (np.arange(np.prod(shape)) % 7 + 1.0).reshape(shape)


def save(array: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine), path)
    return path


def write_volumes(folder: Path, n: int, phases: int = 1) -> Path:
    """Noise with a bright ball whose size says the class; ``phases`` columns, the ball in the later ones alone."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*(np.arange(side) for side in (18, 20, 16)), indexing="ij"))
    distance = np.sqrt(((places - np.array([9, 10, 8])[:, None, None, None]) ** 2).sum(axis=0))
    rows = []
    for index in range(n):
        radius = 2.5 if index % 2 == 0 else 5.5
        row: dict[str, object] = {"patient": f"P{index // 2}", "laterality": ("left", "right")[index // 2 % 2]}
        for phase in range(phases):
            ball = 3.0 * (distance < radius) * (phase > 0 or phases == 1)
            name = f"volumes/case{index:02d}_{phase}.nii.gz"
            save(10 + rng.normal(0, 1, distance.shape) + ball, oblique((1, 1.2, 2)), folder / name)
            row["path" if phases == 1 else f"path_{phase}"] = name
        rows.append(row | {"label": "small" if radius < 4 else "large", "ball_mm3": round(4.2 * radius**3, 1)})
    table = folder / "volumes.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return table
