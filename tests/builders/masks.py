"""Tiny sets of images with masks: bright discs, within them brighter cups."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def disc_and_cup(seed: int, height: int = 60, width: int = 72) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) image and (H, W) mask of 0, 1 (disc) and 2 (cup)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    radius = rng.uniform(12, 18)
    away = np.hypot(y - rng.uniform(24, height - 24), x - rng.uniform(24, width - 24))
    mask = (away < radius).astype(np.uint8) + (away < radius / 2)
    image = np.clip(rng.normal(60 + 60 * mask[..., None], 12, (height, width, 3)), 0, 255)
    return image.astype(np.uint8), mask.astype(np.uint8)


def write_masks(folder: Path, n: int, scale: int = 1, empty: tuple[int, ...] = ()) -> Path:
    """Images of discs with their masks, two of each patient; returns the sample table.

    Args:
        folder: made, with ``images`` and ``masks``.
        n: images.
        scale: what the masks' values are multiplied by.
        empty: numbers of images that show nothing.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows = []
    for number in range(n):
        image, mask = disc_and_cup(number)
        if number in empty:
            mask[:] = 0
        files = f"images/im{number:02d}.png", f"masks/im{number:02d}.png"
        Image.fromarray(image).save(folder / files[0])
        Image.fromarray(mask * np.uint8(scale)).save(folder / files[1])
        rows.append({"file": files[0], "mask": files[1], "patient": f"P{number // 2}"})
    table = folder / "masks.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table
