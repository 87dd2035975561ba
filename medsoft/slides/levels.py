"""What every way of reading a slide offers: boxes of pixels from the levels of a pyramid."""

from __future__ import annotations

from typing import Protocol

import numpy as np

WHITE = 255


class Levels(Protocol):
    """The levels of an open slide, finest first. Reads are safe from several threads at once.

    Attributes:
        sizes_px: (width, height) of each level in its own pixels.
        downsamples: level-0 pixels a pixel of each level, along a side; the first is 1.
    """

    sizes_px: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]

    def read(self, level: int, x_px: int, y_px: int, width: int, height: int) -> np.ndarray:
        """Read a box, in pixels of the level, that lies wholly inside it.

        Returns:
            (height, width, 3) uint8 RGB.

        Raises:
            TileError: a part of the box cannot be read.
            SlideError: nothing can be read any more: the file has gone.
        """
        ...

    def close(self) -> None:
        """Give back the file."""
        ...


def read_padded(levels: Levels, level: int, x_px: int, y_px: int, width: int, height: int) -> np.ndarray:
    """Read a box that may reach beyond the level, or lie outside it; what is outside is white.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        TileError: a part of the box cannot be read.
    """
    level_width, level_height = levels.sizes_px[level]
    left, top = max(0, x_px), max(0, y_px)
    right, bottom = min(level_width, x_px + width), min(level_height, y_px + height)
    if (right - left, bottom - top) == (width, height):
        return levels.read(level, x_px, y_px, width, height)
    box = np.full((height, width, 3), WHITE, np.uint8)
    if left < right and top < bottom:
        inside = levels.read(level, left, top, right - left, bottom - top)
        box[top - y_px : bottom - y_px, left - x_px : right - x_px] = inside
    return box
