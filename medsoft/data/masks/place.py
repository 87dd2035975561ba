"""Masks between the grid of the input and that of the prepared picture (``transforms.base.Placement``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medsoft.data.masks.read import BACKGROUND, IGNORED, Mask
from medsoft.data.transforms.base import Placement


def to_prepared(mask_HW: Mask, placement: Placement, size: tuple[int, int]) -> Mask:
    """A mask on the grid of the prepared picture: that of the nearest pixel, ``IGNORED`` beyond the input.

    Args:
        mask_HW: (H, W) on the grid of the input.
        placement: of the prepared picture in the input.
        size: (height, width) of the prepared picture.
    """
    rows, in_rows = nearest(placement.corner[1], placement.scale[1], size[0], mask_HW.shape[0])
    columns, in_columns = nearest(placement.corner[0], placement.scale[0], size[1], mask_HW.shape[1])
    placed = mask_HW[np.ix_(rows, columns)]
    placed[~(in_rows[:, None] & in_columns[None, :])] = IGNORED
    return placed


def nearest(corner: float, scale: float, n: int, limit: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Along one axis: the pixel of the input that each prepared one lies on, and whether there is one.

    Args:
        corner: where the first prepared pixel begins, in pixels of the input.
        scale: pixels of the input a prepared one; negative where the axis runs backwards.
        n: prepared pixels.
        limit: pixels of the input.
    """
    # Rounded, as affines of volumes are the products of inverses: half way between two is the same everywhere.
    at = np.floor((corner + scale * (np.arange(n) + 0.5)).round(6)).astype(np.intp)
    return at.clip(0, limit - 1), (at >= 0) & (at < limit)


def prepared_places(
    corner: float, scale: float, n: int, limit: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Along one axis: where each pixel of the input lies among the centres of the prepared ones, and whether within.

    Args:
        corner: as for ``nearest``.
        scale: as for ``nearest``.
        n: pixels of the input.
        limit: prepared pixels.
    """
    at = np.asarray(((np.arange(n) + 0.5 - corner) / scale - 0.5).round(6), np.float64)
    return at, (at >= -0.5) & (at <= limit - 0.5)


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

    height, width = p_Chw.shape[1:]
    rows, in_rows = prepared_places(placement.corner[1], placement.scale[1], size[0], height)
    columns, in_columns = prepared_places(placement.corner[0], placement.scale[0], size[1], width)
    seen = in_rows[:, None] & in_columns[None, :]
    x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    border = cv2.BORDER_REPLICATE
    return np.stack([cv2.remap(one, x, y, cv2.INTER_LINEAR, borderMode=border) for one in p_Chw]), seen


def choose_part(mask: Mask, size: Sequence[int], foreground: float, rng: np.random.Generator) -> tuple[slice, ...]:
    """A random part of an image; centred on a pixel of a class, where there is one, as often as asked.

    Args:
        mask: of the image, of any dimensions, no smaller than the part.
        size: of the part.
        foreground: share of parts that are centred so.
        rng: decides.
    """
    room = [side - part for side, part in zip(mask.shape, size, strict=True)]
    start = [int(rng.integers(more + 1)) for more in room]
    found = np.flatnonzero(mask > BACKGROUND) if rng.random() < foreground else np.zeros(0, np.intp)
    if len(found):
        centre = np.unravel_index(int(rng.choice(found)), mask.shape)
        start = [int(np.clip(at - part // 2, 0, more)) for at, part, more in zip(centre, size, room, strict=True)]
    return tuple(slice(first, first + part) for first, part in zip(start, size, strict=True))
