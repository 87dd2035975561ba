"""What a mask leaves of its image: a rectangle around it, or its pixels alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Box(NamedTuple):
    """Pixels x0 to x1 and y0 to y1 of an image, the ends not included."""

    x0: int
    y0: int
    x1: int
    y1: int


def box_around(inside_HW: npt.NDArray[np.bool_], margin: float = 0.0, square: bool = False) -> Box | None:
    """The rectangle around what is inside, with a margin, cut off at the edges of the image.

    Args:
        inside_HW: (H, W).
        margin: added on each side, as a fraction of the longer side of the rectangle.
        square: make the shorter side as long as the longer one, where the image is large enough.

    Returns:
        None where nothing is inside.
    """
    rows, columns = (np.flatnonzero(inside_HW.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    more = round(margin * longer)
    least = longer + 2 * more if square else 0
    y0, y1 = _span(int(rows[0]), int(rows[-1]) + 1, more, least, inside_HW.shape[0])
    x0, x1 = _span(int(columns[0]), int(columns[-1]) + 1, more, least, inside_HW.shape[1])
    return Box(x0, y0, x1, y1)


def _span(start: int, end: int, more: int, least: int, limit: int) -> tuple[int, int]:
    """One side: with the margin, at least so long, moved rather than cut where it would leave the image."""
    start, end = start - more, end + more
    lacking = max(0, least - (end - start))
    start, end = start - math.floor(lacking / 2), end + math.ceil(lacking / 2)
    if least:
        moved = max(0, -start) - max(0, end - limit)
        start, end = start + moved, end + moved
    return max(0, start), min(limit, end)


def cropped(image_HWC: np.ndarray, inside_HW: npt.NDArray[np.bool_], box: Box, black: bool = False) -> np.ndarray:
    """The rectangle of an image; with ``black``, 0 outside of the mask."""
    rows, columns = slice(box.y0, box.y1), slice(box.x0, box.x1)
    part: np.ndarray = image_HWC[rows, columns]
    return np.where(inside_HW[rows, columns, None], part, 0).astype(part.dtype) if black else part
