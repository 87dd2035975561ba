"""Geometry of volumes: cropping, orientation, spacing and size; each step keeps the affine correct.

A volume is MONAI's ``MetaTensor`` (C, X, Y, Z), float32, whose ``affine`` takes voxel indices to mm, to the right, to
the front and upwards (RAS+). Every function returns a new one; what the model sees can so be put back into the space
that it came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Flip, Orientation, Resize, Spacing, SpatialCrop, SpatialResample
from monai.transforms.utils import generate_spatial_bounding_box
from scipy.ndimage import gaussian_filter

from medsoft.data.volumes.volume import Box, Side, check_box


def located(array_CXYZ: np.ndarray, affine: np.ndarray) -> MetaTensor:
    """An array and its affine as one."""
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array_CXYZ, np.float32)), affine=torch.from_numpy(affine))


def spacing_of(volume: MetaTensor) -> np.ndarray:
    """Distances of neighbouring voxels along X, Y and Z in mm."""
    spacing: np.ndarray = np.linalg.norm(np.asarray(volume.affine, np.float64)[:3, :3], axis=0)
    return spacing


def on_grid_of(volume: MetaTensor, other: MetaTensor) -> MetaTensor:
    """Resample trilinearly to the voxels of another volume; 0 where it has none."""
    same = volume.shape[1:] == other.shape[1:] and np.allclose(volume.affine, other.affine, rtol=0, atol=1e-4)
    if same:
        return volume
    return _resampled(volume, np.asarray(other.affine), other.shape[1:])


def on_grid(volume: MetaTensor, affine: np.ndarray, shape: Sequence[int]) -> MetaTensor:
    """Resample trilinearly to a grid of voxels; 0 outside of the volume."""
    return _resampled(volume, affine, shape)


def _resampled(volume: MetaTensor, affine: np.ndarray, shape: Sequence[int]) -> MetaTensor:
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True, dtype=torch.float64)
    out: MetaTensor = resample(volume, dst_affine=torch.as_tensor(affine, dtype=torch.float64), spatial_size=shape)
    return out


def crop_box(volume: MetaTensor, box: Box, margin_mm: float) -> MetaTensor:
    """Cut out a box and a margin around it, as far as the volume goes.

    Raises:
        ValueError: the box is empty, or lies outside of the volume.
    """
    check_box(box, tuple(volume.shape[1:]))
    start, end = np.array(box[:3]), np.array(box[3:])
    margin = np.round(margin_mm / spacing_of(volume)).astype(int)
    return _cut(volume, start - margin, end + margin)


def crop_foreground(volume: MetaTensor, above: float | None, margin_mm: float) -> MetaTensor:
    """Cut off what is background on all sides.

    Args:
        volume: its first channel decides.
        above: foreground is what is brighter; None: than Otsu's threshold of the values between the 0.5th and the
            99.5th percentile (N. Otsu, IEEE Transactions on Systems, Man, and Cybernetics 9, 1979).
        margin_mm: that stays around it.

    Raises:
        ValueError: nothing is brighter.
    """
    values = np.asarray(volume[0])
    threshold = otsu(values) if above is None else above
    inside = values > threshold
    if not inside.any():
        raise ValueError(f"no foreground: no voxel is above {threshold:g}")
    return _cut_to(volume, inside, margin_mm)


def crop_mask(volume: MetaTensor, mask: MetaTensor, margin_mm: float) -> MetaTensor:
    """Cut off what lies outside of a mask's box and a margin around it, as far as the volume goes.

    Args:
        volume: (C, X, Y, Z).
        mask: (1, X, Y, Z) on the same voxels; what is above 0 counts.
        margin_mm: that stays around it.

    Raises:
        ValueError: the mask is empty.
    """
    inside = np.asarray(mask[0]) > 0
    if not inside.any():
        raise ValueError("the mask is empty on this side: check the mask, and the column with the side")
    return _cut_to(volume, inside, margin_mm)


def otsu(values: np.ndarray) -> float:
    """Otsu's threshold of an array's values."""
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:
        return float(low)
    scaled = np.clip((values - low) * (65535 / (high - low)), 0, 65535).astype(np.uint16)
    threshold, bright = cv2.threshold(scaled.reshape(-1, 1), 0, 65535, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # The best threshold lies between the two means; where none of the values is near it, any other does as well.
    above = bright.ravel() > 0
    if above.any() and not above.all():
        threshold = (scaled.ravel()[above].mean() + scaled.ravel()[~above].mean()) / 2
    return float(low + threshold * (high - low) / 65535)


def oriented(volume: MetaTensor, axes: str) -> MetaTensor:
    """Turn and mirror the array in steps of 90° so that its axes run as named, such as RAS; nothing is resampled."""
    out: MetaTensor = Orientation(axcodes=axes, labels=None)(volume)
    return out


def left_right_axis(axes: str) -> int:
    """Which of the axes runs from side to side."""
    return next(axis for axis, code in enumerate(axes) if code in "LR")


def half(volume: MetaTensor, axes: str, side: Side) -> MetaTensor:
    """Keep the half of an oriented volume on the patient's left or right, cut in the middle of the array."""
    axis = left_right_axis(axes)
    middle = volume.shape[1 + axis] // 2
    upper = (axes[axis] == "R") == (side == "right")
    start, end = np.zeros(3, int), np.array(volume.shape[1:])
    if upper:
        start[axis] = middle
    else:
        end[axis] = volume.shape[1 + axis] - middle
    return _cut(volume, start, end)


def mirrored(volume: MetaTensor, axes: str) -> MetaTensor:
    """Left and right exchanged; the affine still says where each voxel came from."""
    out: MetaTensor = Flip(spatial_axis=left_right_axis(axes))(volume)
    return out


def to_spacing(volume: MetaTensor, spacing_mm: Sequence[float]) -> MetaTensor:
    """Resample trilinearly to distances of voxels, smoothed first along axes that become coarser."""
    factors = np.asarray(spacing_mm) / spacing_of(volume)
    if np.allclose(factors, 1, rtol=1e-4):
        return volume
    if (factors > 1).any():
        sigma = np.maximum((factors - 1) / 2, 0)  # as in scikit-image's and MONAI's resizing
        smooth = gaussian_filter(volume.as_tensor().numpy(), (0, *sigma), mode="nearest")  # MONAI's darkens the faces
        volume = MetaTensor(torch.from_numpy(smooth), affine=volume.affine)
    resample = Spacing(pixdim=list(spacing_mm), mode="bilinear", padding_mode="border", align_corners=False, dtype=None)
    out: MetaTensor = resample(volume)
    return out


def stretched(volume: MetaTensor, size: Sequence[int]) -> MetaTensor:
    """Resize every axis to a number of voxels; the aspect is not kept."""
    if tuple(volume.shape[1:]) == tuple(size):
        return volume
    out: MetaTensor = Resize(spatial_size=size, mode="trilinear", anti_aliasing=True, dtype=torch.float32)(volume)
    return out


def padded(volume: MetaTensor, size: Sequence[int], fill_C: torch.Tensor) -> MetaTensor:
    """Cut each axis to a number of voxels about its middle, or pad both sides with a value for each channel."""
    shape, wanted = np.array(volume.shape[1:]), np.array(size)
    start = np.floor_divide(shape - wanted, 2)
    out = fill_C[:, None, None, None].expand(-1, *size).clone()
    from_, to = np.maximum(start, 0), np.minimum(start + wanted, shape)
    source = [slice(int(a), int(b)) for a, b in zip(from_, to, strict=True)]
    place = [slice(int(a), int(b)) for a, b in zip(from_ - start, to - start, strict=True)]
    out[(slice(None), *place)] = volume.as_tensor()[(slice(None), *source)]
    return MetaTensor(out, affine=moved(np.asarray(volume.affine, np.float64), start))


def moved(affine: np.ndarray, start: np.ndarray) -> torch.Tensor:
    """The affine of an array that begins at voxel ``start`` of another one, which may lie before its first."""
    shift = np.eye(4)
    shift[:3, 3] = start
    return torch.from_numpy(affine @ shift)


def _cut(volume: MetaTensor, start: np.ndarray, end: np.ndarray) -> MetaTensor:
    start, end = np.maximum(start, 0), np.minimum(end, volume.shape[1:])
    out: MetaTensor = SpatialCrop(roi_start=start.tolist(), roi_end=end.tolist())(volume)
    return out


def _cut_to(volume: MetaTensor, inside_XYZ: np.ndarray, margin_mm: float) -> MetaTensor:
    """The box of what is inside, and a margin."""
    start, end = generate_spatial_bounding_box(inside_XYZ[np.newaxis])
    margin = np.round(margin_mm / spacing_of(volume)).astype(int)
    return _cut(volume, np.array(start) - margin, np.array(end) + margin)
