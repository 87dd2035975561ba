"""Tables of tiny images or volumes, with their feature files as ``medsoft encode`` writes them.

The first feature of every token, and of the pooled vector, is larger where the label is ``ill``.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from medsoft.data.features.native import ImageFeatureWriter
from medsoft.data.features.provenance import ImageProvenance
from medsoft.data.sample_hash import sample_hash

OF_IMAGES = ImageProvenance(
    name="a.png",
    quick_hash="ab" * 16,
    size=(128, 96),
    unit="px",
    cell=(32.0, 32.0),
    preparation={"transforms": "plain", "size": [96, 128], "steps": [], "tokens": True},
    encoder="efficientnet-lite0",
    encoder_sha256="cd" * 32,
    encoder_settings={"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_px": 224},
    precision="float32",
)
OF_VOLUMES = replace(
    OF_IMAGES,
    name="a.nii.gz",
    size=(64, 64, 8),
    unit="mm",
    cell=(32.0, 32.0, 5.0),
    preparation={"transforms": "volume", "size": [64, 64, 8], "steps": [], "tokens": True},
    affine=tuple(np.eye(4).ravel().tolist()),
)
WIDTH, POOLED = 6, 5
"""Features of a token, and of a pooled vector: not the same, as in encoders with a class token and a head."""


def write_image_features(
    path: Path,
    facts: ImageProvenance = OF_IMAGES,
    tokens: tuple[int, ...] = (3, 4),
    views: int = 0,
    ill: bool = False,
    seed: int = 0,
    dtype: str = "float16",
) -> Path:
    """One feature file.

    Args:
        path: of the file.
        facts: as they are to be, but for the views.
        tokens: cells along (y, x), or (z, y, x); () for the pooled vector alone.
        views: augmented views besides.
        ill: whether the features say so.
        seed: of the features.
        dtype: of the tokens.
    """
    rng = np.random.default_rng(seed)
    if views:
        facts = replace(facts, views={"number": views, "seed": 0, "augmentation": {"flips": "both"}})
    N, coords = int(np.prod(tokens)), None
    if tokens:
        cells = np.stack([axis.ravel() for axis in np.indices(tokens)[::-1]], axis=1)  # x, y (, z)
        coords = (cells * np.array(facts.cell)).astype(np.float32)
    else:
        facts = replace(facts, cell=(), preparation={**facts.preparation, "tokens": False})
    width = WIDTH if tokens else POOLED
    with ImageFeatureWriter(path, facts, coords, width, POOLED, dtype) as writer:
        for view in (None, *range(views)):
            features, pooled = rng.normal(size=(N, width)), rng.normal(size=POOLED)
            features[:, 0] += 3 * ill
            pooled[0] += 3 * ill
            writer.write(features if tokens else None, pooled, view)
    return path


def write_encoded_images(folder: Path, n: int = 24, per_patient: int = 1, views: int = 0, tokens: bool = True) -> Path:
    """``folder/images.csv`` (path, label, patient, grade), its images, and ``folder/encoded/features/<id>.h5``."""
    return _write(folder, n, per_patient, views, (3, 4) if tokens else (), "images", OF_IMAGES)


def write_encoded_volumes(folder: Path, n: int = 24, per_patient: int = 1, views: int = 0, tokens: bool = True) -> Path:
    """``folder/volumes.csv``, its volumes (NIfTI, 8 x 8 x 4 voxels), and ``folder/encoded/features/<id>.h5``."""
    return _write(folder, n, per_patient, views, (8, 2, 2) if tokens else (), "volumes", OF_VOLUMES)


def _write(
    folder: Path, n: int, per_patient: int, views: int, tokens: tuple[int, ...], what: str, facts: ImageProvenance
) -> Path:
    (folder / what).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    rows = []
    for i in range(n):
        ill = bool((i // per_patient) % 2)
        name = f"{what[:-1]} {i:02d} ä"
        if what == "images":
            path = folder / what / f"{name}.png"
            Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)
        else:
            import nibabel as nib

            path = folder / what / f"{name}.nii.gz"
            nib.save(nib.Nifti1Image(rng.normal(size=(8, 8, 4)).astype(np.float32), np.diag([1.0, 1, 5, 1])), path)
        own = replace(facts, name=path.name, quick_hash=sample_hash(path))
        write_image_features(folder / "encoded" / "features" / f"{name}.h5", own, tokens, views, ill, seed=i)
        label = "ill" if ill else "healthy"
        patient = f"P{i // per_patient:02d}"
        rows.append({"path": f"{what}/{path.name}", "label": label, "patient": patient, "grade": int(ill)})
    table = folder / f"{what}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table
