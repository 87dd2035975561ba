#!/usr/bin/env python
"""What a stain augmentation changes when it is told to change nothing: the table of docs/experiments/tissue.md.

    python scripts/stain_jitter.py FOLDER [FOLDER …]      20 tiles of each folder, at 224 pixels

Every augmentation gets factor 1 and shift 0; printed are the mean change in grey levels and the fastest of 30 calls.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import albumentations
import numpy as np

from medsoft.data.images.read import read_image
from medsoft.data.transforms.augment import StainJitter

UNCHANGED = {"intensity_scale_range": (1, 1), "intensity_shift_range": (0, 0), "p": 1}
AUGMENTATIONS = {
    "HEStain, its preset matrices": albumentations.HEStain(method="random_preset", **UNCHANGED),
    "HEStain, Macenko": albumentations.HEStain(method="macenko", **UNCHANGED),
    "HEStain, Vahadane": albumentations.HEStain(method="vahadane", **UNCHANGED),
    "StainJitter": StainJitter(0.0),
}

for folder in map(Path, sys.argv[1:]):
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".png", ".jpg", ".tif"))
    resize = albumentations.Resize(224, 224)
    spread = files[:: max(len(files) // 20, 1)][:20]
    tiles = [resize(image=np.asarray(read_image(file)))["image"] for file in spread]
    for name, augmentation in AUGMENTATIONS.items():
        changes = [np.abs(augmentation(image=t)["image"].astype(float) - t).mean() for t in tiles]
        seconds = []
        for _ in range(30):
            started = time.perf_counter()
            augmentation(image=tiles[0])
            seconds.append(time.perf_counter() - started)
        print(f"{folder.name}  {name}: changed by {np.mean(changes):.1f}, {1000 * min(seconds):.2f} ms a tile")
