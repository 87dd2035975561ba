"""Areas within outlines become the pixels of a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import shapely

MOST_POINTS = 2**20
"""Pixels that are looked at together."""


def draw_areas(areas: Iterable[tuple[int, shapely.Geometry]], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A mask in which a pixel belongs to an area where its centre lies within it.

    Args:
        areas: values from 1 to 255 with polygons in pixels, (0, 0) the upper left corner of the image; later ones cover
            earlier ones.
        size: (H, W).

    Returns:
        (H, W), 0 where there is none.
    """
    import shapely

    mask = np.zeros(size, np.uint8)
    for value, area in areas:
        shapely.prepare(area)
        low_x, low_y, high_x, high_y = area.bounds
        columns = np.arange(max(0, int(low_x)), min(size[1], int(np.ceil(high_x))))
        rows = np.arange(max(0, int(low_y)), min(size[0], int(np.ceil(high_y))))
        step = max(1, MOST_POINTS // max(1, len(columns)))
        for start in range(0, len(rows) if len(columns) else 0, step):
            some = rows[start : start + step]
            inside = shapely.contains_xy(area, columns[None, :] + 0.5, some[:, None] + 0.5)
            part = mask[some[0] : some[-1] + 1, columns[0] : columns[-1] + 1]
            part[inside] = value
    return mask
