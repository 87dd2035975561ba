"""Masks between the grid of a volume as read and that of the prepared one, whose axes run along the same lines.

A prepared volume is turned in steps of 90°, mirrored, cut, padded and resampled, never rotated: each of its axes lies
along one of the input's, and all is done axis by axis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medsoft.data.masks.place import nearest, prepared_places
from medsoft.data.masks.read import BACKGROUND, IGNORED, Mask

ALONG = 1e-3
"""How far a direction may be from an axis."""
SLAB = 2**22
"""Numbers that are interpolated together, about."""


class VolumePlacement(NamedTuple):
    """Where a prepared volume lies in the one that was read.

    Attributes:
        axes: of each prepared axis, the axis of the input that it runs along.
        corner: where its first voxel begins on that axis, in voxels of the input.
        scale: voxels of the input a prepared one; negative where it runs backwards.
    """

    axes: tuple[int, int, int]
    corner: tuple[float, float, float]
    scale: tuple[float, float, float]


def placement_of(prepared: npt.NDArray[np.float64], read: npt.NDArray[np.float64]) -> VolumePlacement:
    """The placement that two affines say, both (4, 4), from voxels to mm.

    Raises:
        ValueError: their axes do not run along the same lines.
    """
    to_read = np.linalg.inv(read) @ prepared
    turn = to_read[:3, :3]
    axes = np.abs(turn).argmax(axis=0)
    scale = turn[axes, range(3)]
    if sorted(axes) != [0, 1, 2] or (np.abs(turn).sum(axis=0) - np.abs(scale) > ALONG * np.abs(scale)).any():
        raise ValueError("the prepared volume is rotated against the one that was read")
    corner = to_read[axes, 3] + 0.5 - 0.5 * scale
    return VolumePlacement(*(tuple(one.tolist()) for one in (axes, corner, scale)))


def to_prepared_volume(mask_XYZ: Mask, placement: VolumePlacement, size: tuple[int, ...]) -> Mask:
    """A mask on the grid of the prepared volume: that of the nearest voxel, ``IGNORED`` beyond the input.

    Args:
        mask_XYZ: (X, Y, Z) on the grid of the input.
        placement: of the prepared volume.
        size: of the prepared volume.
    """
    turned = mask_XYZ.transpose(placement.axes)
    found = [
        nearest(placement.corner[axis], placement.scale[axis], size[axis], turned.shape[axis]) for axis in range(3)
    ]
    placed: Mask = turned[np.ix_(*(at for at, _ in found))]
    for axis, (_, inside) in enumerate(found):
        placed[(slice(None),) * axis + (~inside,)] = IGNORED
    return placed


def most_probable(p_Kxyz: npt.NDArray[np.float32], placement: VolumePlacement, size: tuple[int, ...]) -> Mask:
    """The most probable class of each voxel of the input; background where the prepared volume does not reach.

    Probabilities are interpolated linearly.

    Args:
        p_Kxyz: (K, x, y, z) on the grid of the prepared volume.
        placement: of that.
        size: (X, Y, Z) of the input.

    Returns:
        (X, Y, Z) uint8, see ``medsoft.data.masks.read``.
    """
    sides = [size[axis] for axis in placement.axes]
    found = [
        prepared_places(placement.corner[axis], placement.scale[axis], sides[axis], p_Kxyz.shape[1 + axis])
        for axis in range(3)
    ]
    mask = np.empty(sides, np.uint8)
    step = max(1, SLAB // max(1, len(p_Kxyz) * sides[1] * sides[2]))
    for start in range(0, sides[0], step):
        part = slice(start, start + step)
        p = p_Kxyz
        for axis, at in enumerate((found[0][0][part], found[1][0], found[2][0])):
            p = _interpolated(p, at, 1 + axis)
        mask[part] = p.argmax(axis=0).astype(np.uint8) + np.uint8(BACKGROUND)
    for axis, (_, seen) in enumerate(found):
        mask[(slice(None),) * axis + (~seen,)] = BACKGROUND
    back: Mask = np.ascontiguousarray(mask.transpose(np.argsort(placement.axes)))
    return back


def _interpolated(values: npt.NDArray[np.float32], at: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float32]:
    """Values at places between the centres along an axis; the outermost ones go on beyond them."""
    last = values.shape[axis] - 1
    at = at.clip(0, last)
    low = np.floor(at).astype(np.intp)
    between = (at - low).astype(np.float32)
    lower = values.take(low, axis=axis)
    if not between.any():
        return lower
    weight = between.reshape([-1 if one == axis else 1 for one in range(values.ndim)])
    upper = values.take((low + 1).clip(max=last), axis=axis)
    mixed: npt.NDArray[np.float32] = lower + weight * (upper - lower)
    return mixed
