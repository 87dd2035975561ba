"""Masks of volumes: the voxels that belong to an organ or a lesion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medsoft.data.volumes.read import read_volume
from medsoft.data.volumes.volume import MAX_VOXELS, Volume
from medsoft.errors import ReadError

SAME_PLACE = 0.1
"""Largest distance between the corners of a volume and of its mask, in voxels of the volume."""


def read_mask(
    path: str, volume: Volume, values: Sequence[int] | None = None, *, max_voxels: int = MAX_VOXELS
) -> np.ndarray:
    """Read a mask that lies on the voxels of a volume.

    Its axes may run in other directions than the volume's, as after a conversion from DICOM: it is turned in steps of
    90°. Nothing is resampled.

    Args:
        path: as for ``read_volume``, usually NIfTI or NRRD.
        volume: whose mask it is.
        values: numbers in the file that count; None for all above 0.
        max_voxels: as for ``read_volume``.

    Returns:
        (X, Y, Z) bool, on the volume's axes; at least one is true.

    Raises:
        ReadError: it cannot be read, lies on other voxels than the volume, holds other than whole numbers, or is
            empty. The reason is told of the volume ("has a mask that ..."), without a path.
    """
    labels, _ = read_label_map(path, volume, max_voxels=max_voxels)
    inside: np.ndarray = labels > 0 if values is None else np.isin(labels, values)
    if not inside.any():
        wanted = "above 0" if values is None else " or ".join(map(str, values))
        raise ReadError(f"has an empty mask: no voxel is {wanted}")
    return inside


def read_label_map(
    path: str, volume: Volume, *, resample: bool = False, max_voxels: int = MAX_VOXELS
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the labels of a volume's voxels.

    Args:
        path: as for ``read_volume``, usually NIfTI or NRRD.
        volume: whose labels they are.
        resample: whether labels on another grid are taken too: each voxel gets the label of the voxel that is nearest.
        max_voxels: as for ``read_volume``.

    Returns:
        (X, Y, Z) int32 on the volume's axes; and (X, Y, Z) bool, where the mask says something: None for everywhere.

    Raises:
        ReadError: as ``read_mask``, but for an empty mask; or nothing of a resampled one lies within the volume.
    """
    try:
        mask = read_volume(path, time="phases", max_voxels=max_voxels)
    except ReadError as error:
        raise ReadError(f"has a mask that {error.reason}") from None
    if len(mask.array) != 1:
        raise ReadError(
            f"has a mask that holds {len(mask.array)} volumes, one after the other (4D): a mask has one label "
            "per voxel; save one volume of labels"
        )
    if (mask.array % 1 != 0).any():
        raise ReadError(
            "has a mask that holds other than whole numbers: an image, or probabilities without a threshold"
        )
    turned, affine = _turned(mask, volume)
    if turned.shape == volume.shape and _apart(affine, volume) <= SAME_PLACE:
        return turned.astype(np.int32), None
    if not resample:
        raise ReadError(
            f"has a mask on another grid: {_grid(turned.shape, affine)}, where the volume has "
            f"{_grid(volume.shape, volume.affine)}; save the mask on the volume's grid, or for a segmentation say "
            "data.resample_masks true (nearest neighbour)"
        )
    return _nearest(turned.astype(np.int32), affine, volume)


def _nearest(labels: np.ndarray, affine: np.ndarray, volume: Volume) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels of the nearest voxels, and where there is one."""
    from scipy.ndimage import affine_transform

    to_mask = np.linalg.inv(affine) @ volume.affine
    to_mask = to_mask.round(9)  # so that voxels half way between two are not divided by the last bit
    outside = int(labels.min()) - 1
    placed: np.ndarray = affine_transform(
        labels, to_mask, output_shape=volume.shape, order=0, mode="grid-constant", cval=outside
    )
    known = placed != outside
    if not known.any():
        raise ReadError("has a mask that lies elsewhere: none of it is within the volume")
    placed[~known] = 0
    return placed, None if known.all() else known


def _turned(mask: Volume, volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The mask's array (X, Y, Z) and affine with its axes in the directions of the volume's."""
    import nibabel

    turns: Any = nibabel.orientations
    turn = turns.ornt_transform(turns.io_orientation(mask.affine), turns.io_orientation(volume.affine))
    array: np.ndarray = turns.apply_orientation(mask.array[0], turn)
    return array, mask.affine @ turns.inv_ornt_aff(turn, mask.shape)


def _apart(affine: np.ndarray, volume: Volume) -> float:
    """Largest distance between the volume's corners and those that another affine gives, in voxels."""
    ends = [(0, side - 1) for side in volume.shape]
    corners = np.stack([*(axis.ravel() for axis in np.meshgrid(*ends)), np.ones(8)])
    there = np.linalg.inv(volume.affine) @ affine @ corners
    return float(np.abs(there - corners).max())


def _grid(shape: tuple[int, ...], affine: np.ndarray) -> str:
    spacing = " x ".join(f"{mm:.4g}" for mm in np.linalg.norm(affine[:3, :3], axis=0))
    origin = ", ".join(f"{mm:.4g}" for mm in affine[:3, 3])
    return f"{' x '.join(map(str, shape))} voxels of {spacing} mm from ({origin})"
