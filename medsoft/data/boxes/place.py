"""Boxes between the grid of the input and that of the prepared picture (``transforms.base.Placement``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medsoft.data.transforms.base import Placement

FloatArray = npt.NDArray[np.float64]
LEAST_SEEN = 0.25
"""Share of a box that must be in the prepared or augmented picture for the box to be learnt from."""


def to_prepared(corners_N4: FloatArray, placement: Placement, size: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Boxes on the grid of the prepared picture, cut off at its edges.

    Args:
        corners_N4: x_min, y_min, x_max, y_max in pixels of the input.
        placement: of the prepared picture in the input.
        size: (height, width) of the prepared picture.

    Returns:
        (N, 4), and (N,) the share of each that the picture shows.
    """
    placed = (corners_N4 - np.tile(placement.corner, 2)) / np.tile(placement.scale, 2)
    return cut_off(placed, size)


def to_input(corners_N4: FloatArray, placement: Placement, size: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Boxes of the prepared picture in pixels of the input, cut off at its edges.

    Args:
        corners_N4: x_min, y_min, x_max, y_max in prepared pixels.
        placement: of the prepared picture in the input.
        size: (height, width) of the input.

    Returns:
        (N, 4), and (N,) the share of each that lies within the input.
    """
    return cut_off(corners_N4 * np.tile(placement.scale, 2) + np.tile(placement.corner, 2), size)


def cut_off(corners_N4: FloatArray, size: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Boxes cut off at the edges of a picture of (height, width), and the share that is left of each."""
    limits = np.array([size[1], size[0]] * 2, np.float64)
    cut = np.clip(corners_N4, 0, limits)
    before, after = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (corners_N4, cut))
    return cut, np.divide(after, before, out=np.zeros(len(cut)), where=before > 0)
