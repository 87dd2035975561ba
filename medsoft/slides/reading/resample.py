"""Chooses the level and the box to read for a resolution, and resamples its pixels to a tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from medsoft.errors import SlideError

TOLERANCE = 0.01
"""Resolutions that differ by less are taken as one: pixels that are as good as wanted are not resampled."""

MAX_ENLARGEMENT = 2.0
"""A slide may be this much coarser than wanted; beyond it, most of what an encoder would see were invented."""


@dataclass(frozen=True)
class LevelBox:
    """A square of a level, in its own pixels."""

    level: int
    x_px: int
    y_px: int
    size_px: int


def check_mpp(mpp0: float, mpp: float) -> None:
    """Refuse a resolution that the slide does not have.

    Raises:
        SlideError: level 0 is more than ``MAX_ENLARGEMENT`` times coarser than wanted.
    """
    if mpp0 > mpp * MAX_ENLARGEMENT * (1 + TOLERANCE):
        raise SlideError(
            f"its finest level has {mpp0:.4g} µm/px, too coarse for the wanted {mpp:.4g} µm/px: "
            f"tiles of {mpp0 / MAX_ENLARGEMENT:.4g} µm/px or more could be read from it (--mpp; a trained model keeps "
            "to that of its training)"
        )


def best_level(downsamples: Sequence[float], mpp0: float, mpp: float) -> int:
    """The coarsest level that is not coarser than ``mpp``, but for ``TOLERANCE``; level 0 where all are coarser."""
    fine_enough = [level for level, factor in enumerate(downsamples) if factor * mpp0 <= mpp * (1 + TOLERANCE)]
    return max(fine_enough, key=lambda level: downsamples[level], default=0)


def box_of_tile(
    downsamples: Sequence[float], mpp0: float, x_px0: float, y_px0: float, size_px: int, mpp: float
) -> LevelBox:
    """The box of the best level that becomes a tile.

    Where the level's resolution is the wanted one within ``TOLERANCE``, the box has the tile's own size. Otherwise its
    side is rounded to whole pixels of the level, which from 50 pixels on stays within ``TOLERANCE`` too. Its corner
    lies within half a pixel of the level of the tile's.

    Args:
        downsamples: of the levels.
        mpp0: µm per level-0 pixel.
        x_px0: left side of the tile, level-0 pixels.
        y_px0: upper side.
        size_px: side of the tile in pixels of the wanted resolution.
        mpp: the wanted resolution, µm per pixel.
    """
    level = best_level(downsamples, mpp0, mpp)
    scale = mpp / (mpp0 * downsamples[level])
    size = size_px if abs(scale - 1) <= TOLERANCE else max(1, _round(size_px * scale))
    return LevelBox(level, _round(x_px0 / downsamples[level]), _round(y_px0 / downsamples[level]), size)


def resample(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resample (H, W) or (H, W, 3) uint8 to a size: the mean over each new pixel's area; linear where it enlarges."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _round(value: float) -> int:
    """Halves upwards: Python's rounding to even would put every other tile of a grid a pixel aside."""
    return math.floor(value + 0.5)
