"""The geometry of tiles: pure functions from sizes in µm and pixels to level-0 coordinates.

A tile and the distance between two tiles are rarely whole numbers of level-0 pixels. Position k is therefore
``round(k · step)`` of the exact step, so that no tile is more than half a pixel away from its true place, however
many tiles lie before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np


def positions_px0(length_px0: int, tile_px0: float, step_px0: float) -> np.ndarray:
    """Where tiles begin along one axis of ``length_px0`` pixels, the first at 0.

    Every tile lies inside, as whole pixels: ``position + round(tile_px0) <= length_px0``.

    Args:
        length_px0: what is to be covered.
        tile_px0: side of a tile.
        step_px0: distance of two tiles; at least one pixel, or tiles would coincide.

    Returns:
        (n,) int64, rising; empty where not even one tile fits.

    Raises:
        ValueError: a size is not positive, or the step less than a pixel.
    """
    if not (tile_px0 > 0 and 1 <= step_px0 < math.inf and length_px0 >= 0):
        raise ValueError(f"length {length_px0}, tile {tile_px0} and step {step_px0} px give no grid")
    room_px0 = length_px0 - whole_px0(tile_px0)
    if room_px0 < 0:
        return np.empty(0, np.int64)
    # One more than can fit, as rounding may move the last one either way.
    steps = np.arange(int(room_px0 / step_px0) + 2)
    starts = np.floor(steps * step_px0 + 0.5).astype(np.int64)
    inside: np.ndarray = starts[starts <= room_px0]
    return inside


def whole_px0(size_px0: float) -> int:
    """A size in whole pixels: at least one."""
    return max(1, math.floor(size_px0 + 0.5))


def grid_px0(bounds_px0: tuple[int, int, int, int], tile_px0: float, step_px0: float) -> np.ndarray:
    """Top-left corners of all tiles that lie inside the bounds.

    Args:
        bounds_px0: (x, y, width, height); the first tile lies at (x, y).
        tile_px0: side of a tile.
        step_px0: distance of two tiles.

    Returns:
        (N, 2) int64, (x, y), row by row from the top and each row from the left.

    Raises:
        ValueError: a size is not positive, or the step less than a pixel.
    """
    left, top, width, height = bounds_px0
    x = left + positions_px0(width, tile_px0, step_px0)
    y = top + positions_px0(height, tile_px0, step_px0)
    return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)


def mask_fraction(
    mask_HW: np.ndarray, size_px0: tuple[int, int], coords_N2_px0: np.ndarray, tile_px0: float
) -> np.ndarray:
    """Which fraction of each tile the mask covers, counted in whole pixels of the mask.

    A pixel of the mask belongs to a tile if its centre does. A tile so small that it holds no centre takes the value
    of the pixel in its middle.

    Args:
        mask_HW: bool, the whole slide; fewer than 2³¹ pixels.
        size_px0: (width, height) of the slide.
        coords_N2_px0: top-left corners (x, y).
        tile_px0: side of a tile.

    Returns:
        (N,) float32 from 0 to 1.
    """
    parts_N1 = part_of_values(_Picture(mask_HW.view(np.uint8)), (1,), size_px0, coords_N2_px0, tile_px0)
    return parts_N1[:, 0]


class Blocks(Protocol):
    """A map of values, of which a part at a time is in memory."""

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""

    def block(self, left: int, top: int, width: int, height: int, /) -> np.ndarray:
        """(height, width) uint8, a part that lies wholly inside."""


class _Picture:
    """An array as ``Blocks``."""

    def __init__(self, values_HW: np.ndarray) -> None:
        self._values_HW = values_HW
        self.size_px = (values_HW.shape[1], values_HW.shape[0])

    def block(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        return self._values_HW[top : top + height, left : left + width]


def part_of_values(
    values: Blocks,
    which: Sequence[int],
    size_px0: tuple[float, float],
    coords_N2_px0: np.ndarray,
    tile_px0: float,
) -> np.ndarray:
    """Which part of each tile has each of some values, counted in whole pixels as in ``mask_fraction``.

    Args:
        values: a map that begins where the coordinates do.
        which: the values, V of them.
        size_px0: (width, height) of the map in level-0 pixels.
        coords_N2_px0: top-left corners (x, y).
        tile_px0: side of a tile.

    Returns:
        (N, V) float32 from 0 to 1.
    """
    width, height = values.size_px
    if not len(coords_N2_px0):
        return np.empty((0, len(which)), np.float32)
    x0, x1 = _pixels_inside(coords_N2_px0[:, 0], tile_px0, width / size_px0[0], width)
    y0, y1 = _pixels_inside(coords_N2_px0[:, 1], tile_px0, height / size_px0[1], height)
    # Row of tiles by row of tiles: sums over the whole map, which are looked up fastest, take 4 bytes for each pixel.
    rows, row_N = np.unique(np.stack([y0, y1]), axis=1, return_inverse=True)
    row_N = row_N.ravel()
    inside_NV = np.empty((len(coords_N2_px0), len(which)), np.int64)
    order = np.argsort(row_N, kind="stable")
    for (top, bottom), members in zip(rows.T, np.split(order, np.flatnonzero(np.diff(row_N[order])) + 1), strict=True):
        band = values.block(0, int(top), width, int(bottom - top))
        for index, value in enumerate(which):
            # left[j]: number of such pixels left of column j, in integers and thus exact.
            counted = (band == value).view(np.uint8)
            column_sums = cv2.reduce(counted, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
            left = np.concatenate([[0], np.cumsum(column_sums.ravel())])
            inside_NV[members, index] = left[x1[members]] - left[x0[members]]
    fraction_NV: np.ndarray = inside_NV / ((x1 - x0) * (y1 - y0))[:, None]
    return fraction_NV.astype(np.float32)


def _pixels_inside(starts_px0: np.ndarray, tile_px0: float, scale: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last mask pixel of each tile along one axis; never none."""
    first = np.ceil(starts_px0 * scale - 0.5).astype(np.int64)
    stop = np.ceil((starts_px0 + tile_px0) * scale - 0.5).astype(np.int64)
    middle = np.floor((starts_px0 + tile_px0 / 2) * scale).astype(np.int64)
    first, stop = np.where(stop > first, first, middle), np.where(stop > first, stop, middle + 1)
    first = np.clip(first, 0, length - 1)
    return first, np.clip(stop, first + 1, length)
