"""Compares the direct reader with OpenSlide on a few tiles of every level, including edges."""

from __future__ import annotations

import numpy as np

from medsoft.errors import TileError
from medsoft.slides.reading.direct.levels import DirectLevels, TiledLevel
from medsoft.slides.reading.openslide_reader import OpenSlideLevels

MARGIN_PX = 2
ROUNDING = 2
"""Grey levels between OpenSlide's interpolation and ours, where a read begins between two pixels of a level."""


def difference(direct: DirectLevels, truth: OpenSlideLevels) -> str | None:
    """Compare tiles of every level.

    Returns:
        What is wrong with the tiles, as the end of a sentence; None where they are the same.
    """
    for level, tiled in enumerate(direct.tiled):
        compared = [_same(direct, truth, level, index) for index in sites(tiled)]
        if False in compared:
            return f"differ from what OpenSlide reads (level {level})"
        if True not in compared:
            return f"cannot be compared with OpenSlide's (level {level}: all that were tried are missing or damaged)"
    return None


def sites(tiled: TiledLevel) -> list[int]:
    """The tiles to compare: the corners, the one in the middle, and the one with the most bytes, which has tissue."""
    right, bottom = tiled.columns - 1, (tiled.rows - 1) * tiled.columns
    middle = tiled.rows // 2 * tiled.columns + tiled.columns // 2
    fullest = int(np.argmax(tiled.byte_counts))
    return sorted({0, right, bottom, bottom + right, middle, fullest})


def _same(direct: DirectLevels, truth: OpenSlideLevels, level: int, index: int) -> bool | None:
    """Whether a tile is the same both ways; None where it is OpenSlide's to read, being missing or damaged."""
    x, y, width, height = direct.tiled[level].tile_box(index)
    tile = direct.decode_tile(level, index)
    if tile is None:
        return None
    mine = tile[:height, :width]
    try:
        theirs = truth.read(level, x, y, width, height)
    except TileError:
        return False
    offset_x, offset_y = truth.offset_px(level, x), truth.offset_px(level, y)
    if offset_x == offset_y == 0:
        return bool(np.array_equal(mine, theirs))
    # OpenSlide interpolates between pixels there, and blends neighbouring tiles along the edges.
    shifted = _shifted(_shifted(mine.astype(np.float32), offset_x, axis=1), offset_y, axis=0)
    inner = (slice(MARGIN_PX, -MARGIN_PX), slice(MARGIN_PX, -MARGIN_PX))
    return bool((np.abs(shifted - theirs)[inner] <= ROUNDING).all())


def _shifted(image: np.ndarray, offset_px: float, axis: int) -> np.ndarray:
    """An image as seen from a start that lies ``offset_px`` (less than 1) further along an axis; edges are wrong."""
    neighbour = np.roll(image, -1 if offset_px > 0 else 1, axis)
    return image * (1 - abs(offset_px)) + neighbour * abs(offset_px)
