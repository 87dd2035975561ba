"""Feature files of ours with numbers that float16 holds exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medsoft.data.features.native import READ, UNREADABLE, FeatureWriter
from medsoft.data.features.provenance import Provenance

FACTS = Provenance(
    slide="Präparat 7.svs",
    quick_hash="0123456789abcdef" * 2,
    size_px0=(2220, 2967),
    mpp=0.499,
    mpp_origin="openslide.mpp-x",
    tile_settings={
        "mpp": 0.5,
        "tile_px": 224,
        "overlap_px": 32,
        "min_tissue": 0.25,
        "tissue": {"method": "saturation"},
    },
    encoder="resnet18",
    encoder_sha256="ab" * 32,
    encoder_settings={"mean": [0.485, 0.456, 0.406], "input_px": 224},
    precision="float16",
)


N, F = 700, 24


def numbers(n: int = N, f: int = F, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features that float16 holds exactly, and corners beyond 32 bits."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, f)).astype(np.float16).astype(np.float32)
    return features, rng.integers(0, 2**40, (n, 2))


def write(path: Path, features: np.ndarray, coords: np.ndarray, bad=(), dtype="float16", facts=FACTS) -> Path:
    status = np.full(len(features), READ, np.uint8)
    status[list(bad)] = UNREADABLE
    with FeatureWriter(path, facts, coords, features.shape[1], dtype) as writer:
        for start in range(0, len(features), 100):
            writer.write(start, features[start : start + 100], status[start : start + 100])
    return path
