"""Resamples attributions of a prepared volume to the space of the volume as read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates

from medsoft.storage.files import replacing


def into_space(
    contributions_xyz: np.ndarray,
    cell: tuple[float, float, float],
    size: tuple[int, int, int],
    prepared_affine: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """Put contributions where they came from.

    Args:
        contributions_xyz: of cells that lie side by side from the prepared volume's voxel 0 on.
        cell: voxels a cell along each axis.
        size: of the prepared volume.
        prepared_affine: (4, 4) of the prepared volume, whatever steps it went through.
        affine: (4, 4) of the volume as read.
        shape: of the volume as read.

    Returns:
        ``shape`` float32: between the cells' middles trilinearly interpolated, 0 where the model saw nothing. A
        contribution stays the contribution of its cell: values are not divided by the voxels of a cell.
    """
    to_prepared = np.linalg.inv(prepared_affine) @ affine
    out = np.empty(shape, np.float32)
    x, y = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    for z in range(shape[2]):  # slice by slice: coordinates of a whole volume are 24 bytes per voxel
        index = np.stack([x, y, np.full_like(x, z), np.ones_like(x)]).reshape(4, -1)
        prepared = (to_prepared @ index)[:3]
        inside = ((prepared >= -0.5) & (prepared <= np.array(size)[:, None] - 0.5)).all(axis=0)
        places = (prepared + 0.5) / np.array(cell)[:, None] - 0.5
        values = map_coordinates(contributions_xyz, places, order=1, mode="nearest")
        out[:, :, z] = np.where(inside, values, 0).reshape(shape[:2])
    return out


def write_nifti(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Write a volume as ``.nii.gz`` in mm, whole or not at all; the affine is kept exactly as it reads back."""
    import nibabel

    image: Any = nibabel.Nifti1Image
    made = image(array, affine)
    made.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        # The name that is lent ends in .gz alone, by which nibabel would not know the format.
        named = temporary.with_name(temporary.name.removesuffix(".gz").removesuffix(".nii") + ".nii.gz")
        nibabel.save(made, named)
        named.replace(temporary)
