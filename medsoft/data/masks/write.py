"""Writes predicted masks, and images that were cut to masks."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medsoft.storage.files import replacing


def write_mask(path: Path, values_HW: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write a mask as a grey PNG of 8 or 16 bits; the folder is made.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(values_HW).save(temporary, format="PNG")


def write_picture(path: Path, image_HWC: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write an image as a PNG of 8 or 16 bits a channel, without loss; the folder is made.

    Args:
        path: ends in ``.png``.
        image_HWC: (H, W, 1) or (H, W, 3).

    Raises:
        OSError: it cannot be written.
    """
    import cv2  # Pillow writes no colour of 16 bits

    path.parent.mkdir(parents=True, exist_ok=True)
    bgr: npt.NDArray[np.integer] = np.ascontiguousarray(image_HWC[..., ::-1])
    _, encoded = cv2.imencode(".png", bgr)
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


ORTHOGONAL = 1e-4
"""How far from a right angle the axes of a grid may be that a quaternion can describe."""


def write_volume_mask(
    path: Path, values_XYZ: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], affine: npt.NDArray[np.float64]
) -> None:
    """Write a mask of a volume as NIfTI-1, compressed, of 8 or 16 bits; the folder is made.

    Args:
        path: ends in ``.nii.gz``.
        values_XYZ: (X, Y, Z).
        affine: (4, 4), from voxels to mm, RAS+. It is written as sform, and as qform where its axes are perpendicular.

    Raises:
        OSError: it cannot be written.
    """
    import nibabel

    kinds: Any = nibabel
    image = kinds.Nifti1Image(values_XYZ, affine, dtype=values_XYZ.dtype)
    image.header.set_xyzt_units("mm")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner" if np.abs(axes.T @ axes - np.eye(3)).max() < ORTHOGONAL else "unknown")
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), 6, mtime=0))
