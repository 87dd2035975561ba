"""The volume that every reader returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medsoft.data.images.read import CONSTANT, is_constant
from medsoft.errors import ReadError

MAX_VOXELS = 2**29
"""Largest volume by default, all channels together: 2 GiB as float32."""

Box = tuple[int, int, int, int, int, int]
"""x0, y0, z0, x1, y1, z1 in voxels of the volume as read; the ends are not part of it."""

Side = Literal["left", "right", ""]
"""Of the patient; "" where it does not matter."""

Time = Literal["refuse", "phases", "subtractions", "both"]
"""What becomes of several time points."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in the space of the patient.

    Attributes:
        array: (C, X, Y, Z) float32, finite. X, Y and Z are the file's axes, in no fixed direction: ``affine`` says
            which. Of DICOM, X counts columns, Y rows and Z slices.
        affine: (4, 4) float64, from the indices (x, y, z, 1) to mm in RAS+ (to the right, the front and the head), as
            nibabel has it.
        channels: names of the C channels: ``("image",)``, or ``("phase 1", "phase 2 - phase 1", ...)``.
        modality: as DICOM abbreviates it (CT, MR, PT), or None where the file does not say it.
        meta: facts that identify nobody, each only where it is known: ``laterality`` (L, R or B for both),
            ``photometric``, ``units`` (HU), ``phase_s`` (seconds of each time point since the first),
            ``orientation`` ("unknown" where the file does not say how it lies in the patient; its axes are then
            taken for RAS+), ``spacing`` ("unknown" where it is taken for 1 mm), ``forms`` ("differ" where a NIfTI
            file's sform was followed and its qform lies a little elsewhere).
    """

    array: np.ndarray
    affine: np.ndarray
    channels: tuple[str, ...] = ("image",)
    modality: str | None = None
    meta: dict[str, str | tuple[float, ...]] = field(default_factory=dict)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbours along X, Y and Z in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def shape(self) -> tuple[int, int, int]:
        """X, Y and Z."""
        _, x, y, z = self.array.shape
        return x, y, z


def check_size(shape: tuple[int, ...], max_voxels: int) -> None:
    """Refuse what a header states before memory is taken for it.

    Raises:
        ReadError: no voxels, or more than ``max_voxels``.
    """
    voxels = 1
    for side in shape:
        voxels *= int(side)
    if any(side < 1 for side in shape):
        raise ReadError(f"has the shape {shape}: there are no voxels")
    if voxels > max_voxels:
        raise ReadError(f"has {voxels} voxels, more than the limit of {max_voxels} (max_voxels)")


def check_box(box: Box, shape: tuple[int, ...]) -> None:
    """Refuse a box without a voxel of the volume.

    Raises:
        ValueError: it is empty, or lies outside.
    """
    start, end = np.array(box[:3]), np.array(box[3:])
    if (end <= start).any():
        raise ValueError(f"the box {box} is empty: each end must lie beyond its start")
    if (start >= shape).any() or (end <= 0).any():
        raise ValueError(f"the box {box} lies outside of the volume's {' x '.join(map(str, shape))} voxels")


def check_values(array: np.ndarray) -> np.ndarray:
    """The array as float32.

    Raises:
        ReadError: it holds NaN or infinite values, or no real numbers.
    """
    if array.dtype.kind not in "biuf":
        raise ReadError(f"has voxels of type {array.dtype}, not one number each")
    array = array.astype(np.float32, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        raise ReadError(
            f"holds NaN or infinite values ({array.size - int(finite.sum())} voxels): give them a value, such as that "
            "of air, and save it again"
        )
    return array


def check_varies(volume: Volume) -> None:
    """Refuse a volume that shows nothing.

    Raises:
        ReadError: a channel has the same value in every voxel.
    """
    flat = [name for name, values in zip(volume.channels, volume.array, strict=True) if is_constant(values, axes=3)]
    if flat:
        of = "" if len(volume.channels) == 1 else f" of {flat[0]}"
        raise ReadError(f"{CONSTANT} voxel{of}: it shows nothing")


def check_affine(affine: np.ndarray) -> np.ndarray:
    """The affine as float64.

    Raises:
        ReadError: it is not finite, or its axes have no length or lie in one plane.
    """
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ReadError("has an orientation with values that are not numbers")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths <= 0).any():
        raise ReadError("has a spacing of zero between voxels: correct the header")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise ReadError("has axes that lie in a plane: correct the header's orientation")
    return affine


def over_time(phases: np.ndarray, time: Time) -> tuple[np.ndarray, tuple[str, ...]]:
    """Make channels of time points.

    Args:
        phases: (T, X, Y, Z).
        time: "phases" keeps them, "subtractions" gives each later one minus the first, "both" one after the other.

    Returns:
        (C, X, Y, Z) and the channels' names.

    Raises:
        ReadError: there are several and none were announced.
    """
    n = len(phases)
    if n == 1:
        return phases, ("image",)
    if time == "refuse":
        raise ReadError(
            f"holds {n} volumes, one after the other: announce time points (fit: --transforms.dynamic phases, "
            "subtractions or both; data check: --dynamic true), or save the wanted one by itself"
        )
    names = tuple(f"phase {i}" for i in range(1, n + 1))
    differences = tuple(f"{name} - phase 1" for name in names[1:])
    if time == "phases":
        return phases, names
    subtracted = phases[1:] - phases[:1]
    if time == "subtractions":
        return subtracted, differences
    return np.concatenate([phases, subtracted]), names + differences
