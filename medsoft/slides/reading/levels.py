"""The interface of all slide readers: boxes of pixels from the levels of a pyramid."""

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

    def forget(self) -> None:
        """Give back the memory of what was decoded and kept for the next reads."""
        ...

    def close(self) -> None:
        """Give back the file."""
        ...


class Cropped:
    """A part of other levels, as levels: (x, y, width, height) of level 0, to the nearest pixel of the smaller ones."""

    def __init__(self, levels: Levels, box_px0: tuple[int, int, int, int]) -> None:
        self._levels = levels
        self._corners = [(round(box_px0[0] / by), round(box_px0[1] / by)) for by in levels.downsamples]
        self.downsamples = levels.downsamples
        self.sizes_px = tuple(
            (max(1, min(round(box_px0[2] / by), width - x)), max(1, min(round(box_px0[3] / by), height - y)))
            for by, (x, y), (width, height) in zip(levels.downsamples, self._corners, levels.sizes_px, strict=True)
        )

    def read(self, level: int, x_px: int, y_px: int, width: int, height: int) -> np.ndarray:
        """As of the other levels, from the part's corner."""
        x, y = self._corners[level]
        return self._levels.read(level, x + x_px, y + y_px, width, height)

    def forget(self) -> None:
        """As of the other levels."""
        self._levels.forget()

    def close(self) -> None:
        """Nothing: the other levels stay open."""


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


def paste(tile: np.ndarray, left: int, top: int, box: np.ndarray) -> None:
    """Put what a box sees of a stored tile into it.

    Args:
        tile: (h, w, 3) uint8.
        left: where the tile begins in the box, in pixels; negative where it begins before it.
        top: as ``left``, from above.
        box: (H, W, 3) uint8, written to.
    """
    height, width = box.shape[:2]
    part = tile[max(0, -top) : height - top, max(0, -left) : width - left]
    left, top = max(0, left), max(0, top)
    box[top : top + part.shape[0], left : left + part.shape[1]] = part
