"""Reads a whole slide as one small image, in strips, so that memory does not depend on the size of the slide."""

from __future__ import annotations

import math

import numpy as np

from medsoft.errors import TileError
from medsoft.slides.reading.levels import WHITE, Levels
from medsoft.slides.reading.resample import resample

STRIP_PIXELS = 2**23
"""Pixels of a level in memory at once (24 MiB)."""

CELL_PX, GAP_PX = 1024, 128
"""Strips are read in cells; one that cannot be read is tried again in small cells, to lose as little as possible."""


def overview_size(size_px0: tuple[int, int], mpp0: float, mpp: float) -> tuple[int, int]:
    """(width, height) of a slide of ``size_px0`` and ``mpp0`` at ``mpp`` µm per pixel, at least 1 px each."""
    width, height = (max(1, math.floor(side * mpp0 / mpp + 0.5)) for side in size_px0)
    return width, height


def read_overview(levels: Levels, level: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Resample a whole level to a size.

    Returns:
        (height, width, 3) uint8 RGB, white where the level could not be read; (height, width) bool, True there.
    """
    level_width, level_height = levels.sizes_px[level]
    scale = level_height / height
    picture = np.empty((height, width, 3), np.uint8)
    gaps = np.zeros((height, width), bool)
    rows = max(1, int(STRIP_PIXELS / (scale * level_width)))
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        first = min(math.floor(top * scale + 0.5), level_height - 1)
        last = max(first + 1, math.floor(bottom * scale + 0.5))
        strip, missing = _read_strip(levels, level, first, last - first)
        picture[top:bottom] = resample(strip, width, bottom - top)
        if missing.any():
            gaps[top:bottom] = resample(missing, width, bottom - top) > 0
    return picture, gaps


def _read_strip(levels: Levels, level: int, y_px: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a level: (height, width, 3) pixels, and (height, width) uint8, 255 where they could not be read."""
    width = levels.sizes_px[level][0]
    strip = np.full((height, width, 3), WHITE, np.uint8)
    missing = np.zeros((height, width), np.uint8)

    def fill(x: int, y: int, right: int, bottom: int, cell: int) -> None:
        for top in range(y, bottom, cell):
            for left in range(x, right, cell):
                end_x, end_y = min(right, left + cell), min(bottom, top + cell)
                try:
                    part = levels.read(level, left, y_px + top, end_x - left, end_y - top)
                except TileError:
                    if cell > GAP_PX:
                        fill(left, top, end_x, end_y, GAP_PX)
                    else:
                        missing[top:end_y, left:end_x] = 255
                else:
                    strip[top:end_y, left:end_x] = part

    fill(0, 0, width, height, CELL_PX)
    return strip, missing
