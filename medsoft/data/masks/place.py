"""Masks between the grid of the input and that of the prepared picture (``transforms.base.Placement``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medsoft.data.masks.read import IGNORED, Mask
from medsoft.data.transforms.base import Placement


def to_prepared(mask_HW: Mask, placement: Placement, size: tuple[int, int]) -> Mask:
    """A mask on the grid of the prepared picture: that of the nearest pixel, ``IGNORED`` beyond the input.

    Args:
        mask_HW: (H, W) on the grid of the input.
        placement: of the prepared picture in the input.
        size: (height, width) of the prepared picture.
    """
    rows, in_rows = _nearest(placement.corner[1], placement.scale[1], size[0], mask_HW.shape[0])
    columns, in_columns = _nearest(placement.corner[0], placement.scale[0], size[1], mask_HW.shape[1])
    placed = mask_HW[np.ix_(rows, columns)]
    placed[~(in_rows[:, None] & in_columns[None, :])] = IGNORED
    return placed


def _nearest(corner: float, scale: float, n: int, limit: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    at = np.floor(corner + scale * (np.arange(n) + 0.5)).astype(np.intp)
    return at.clip(0, limit - 1), (at >= 0) & (at < limit)


def to_input(
    p_Chw: npt.NDArray[np.float32], placement: Placement, size: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Values of the prepared picture on the grid of the input, interpolated linearly.

    Args:
        p_Chw: (C, height, width) of the prepared picture.
        placement: of the prepared picture in the input.
        size: (H, W) of the input.

    Returns:
        (C, H, W), and (H, W) which pixels the prepared picture shows.
    """
    import cv2

    rows = (np.arange(size[0]) + 0.5 - placement.corner[1]) / placement.scale[1] - 0.5
    columns = (np.arange(size[1]) + 0.5 - placement.corner[0]) / placement.scale[0] - 0.5
    height, width = p_Chw.shape[1:]
    shown = np.ix_((rows >= -0.5) & (rows <= height - 0.5), (columns >= -0.5) & (columns <= width - 0.5))
    seen = np.zeros(size, dtype=bool)
    seen[shown] = True
    x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    border = cv2.BORDER_REPLICATE
    return np.stack([cv2.remap(one, x, y, cv2.INTER_LINEAR, borderMode=border) for one in p_Chw]), seen
