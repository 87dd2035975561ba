"""Tiny slide tables with feature files whose features say the class."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from medsoft.data.features.native import FeatureWriter
from medsoft.data.features.provenance import Provenance

SETTINGS = {"mpp": 0.5, "tile_px": 224, "overlap_px": 0, "min_tissue": 0.25, "tissue": {"method": "saturation"}}
FACTS = Provenance(
    slide="s.svs",
    quick_hash="",
    size_px0=(50_000, 40_000),
    mpp=0.25,
    mpp_origin="openslide.mpp-x",
    tile_settings=SETTINGS,
    encoder="resnet18",
    encoder_sha256="ab" * 32,
)

# A model that learns something in a second.
TINY_BAGS = [
    "--config=histo",
    "--model.aggregator_args={attention: seqnorm, dim: 16, num_heads: 2, depth: 2}",
    "--model.lr=3e-3",
    "--model.warmup_epochs=0",
    "--trainer.accelerator=cpu",
    "--trainer.accumulate_grad_batches=2",
    "--data.classes=[healthy, ill]",
    "--data.patient=patient",
    "--figures=false",
    "--shortcuts=false",  # a fifth of a second a run, which hundreds of tests need not pay
    "--report=false",  # and a second: a test that is about it says so
]


def write_bag(path: Path, features_NF: np.ndarray, facts: Provenance = FACTS, unreadable: tuple[int, ...] = ()) -> Path:
    """One feature file; its slide's content is told from its name."""
    n, width = features_NF.shape
    coords = 448 * np.stack([np.arange(n) % 7, np.arange(n) // 7], axis=1).astype(np.int64)
    status = np.zeros(n, np.uint8)
    status[list(unreadable)] = 1
    facts = replace(facts, slide=f"{path.stem}.svs", quick_hash=facts.quick_hash or f"hash of {path.stem}")
    with FeatureWriter(path, facts, coords, width) as writer:
        writer.write(0, features_NF, status)
    return path


def write_slides(folder: Path, n: int = 24, per_patient: int = 1, num_features: int = 6, seed: int = 0) -> Path:
    """n slides of 3 to 12 tiles, and ``folder/slides.csv``; one tile of an ill slide says so; some are unreadable."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        ill = (i // per_patient) % 2
        features = rng.normal(size=(int(rng.integers(3, 13)), num_features)).astype(np.float32)
        features[1, 0] += 6 * ill
        name = f"slide {i:02d} ä"
        write_bag(folder / "features" / f"{name}.h5", features, unreadable=(2,) if i % 3 == 0 else ())
        label = ("healthy", "ill")[ill]
        rows.append({"path": f"raw/{name}.svs", "label": label, "patient": f"P{i // per_patient:02d}", "grade": ill})
    return write_table(folder / "slides.csv", rows)


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
