"""Resamples images whose pixels are not square, so that a circle is a circle."""

from __future__ import annotations

import numpy as np

SQUARE = 0.01
"""Largest difference of the two sides of a pixel, as a part of them, that counts as none."""

MOST_OBLONG = 10.0
"""Pixels longer than this, as a multiple of their width, are a mistake of the header."""


def square_size(height: int, width: int, row_spacing: float, column_spacing: float) -> tuple[int, int]:
    """Height and width of a picture once its pixels are square; the finer of the two spacings is kept.

    Args:
        height: in pixels.
        width: in pixels.
        row_spacing: between the middles of neighbouring rows, in any unit.
        column_spacing: between those of columns, in the same unit.

    Raises:
        ValueError: a spacing is not above 0 and finite, or one is more than ``MOST_OBLONG`` times the other.
    """
    if not (np.isfinite([row_spacing, column_spacing]).all() and min(row_spacing, column_spacing) > 0):
        raise ValueError("the size of a pixel must be above 0")
    ratio = row_spacing / column_spacing
    if not 1 / MOST_OBLONG <= ratio <= MOST_OBLONG:
        raise ValueError(f"pixels are more than {MOST_OBLONG:g} times as long as wide")
    if abs(ratio - 1) <= SQUARE:
        return height, width
    return (round(height * ratio), width) if ratio > 1 else (height, round(width / ratio))


def to_square_pixels(image: np.ndarray, row_spacing: float, column_spacing: float) -> np.ndarray:
    """Resample a picture along the axis of the coarser spacing, linearly between the middles of pixels.

    Args:
        image: (H, W) or (H, W, C), uint8, uint16 or float32.
        row_spacing: as for ``square_size``.
        column_spacing: as for ``square_size``.

    Returns:
        (H', W') or (H', W', C) of ``square_size``, of the same type; the same array where pixels are square already.

    Raises:
        ValueError: as ``square_size``.
    """
    height, width = square_size(image.shape[0], image.shape[1], row_spacing, column_spacing)
    if (height, width) == image.shape[:2]:
        return image
    import cv2

    resampled: np.ndarray = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_LINEAR)
    return resampled.reshape(height, width, *image.shape[2:])
