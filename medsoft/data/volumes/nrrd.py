"""NRRD volumes, read by pynrrd."""

from __future__ import annotations

from typing import Any

import numpy as np

from medsoft.data.decode import ReadError
from medsoft.data.volumes.volume import Time, Volume, check_affine, check_size, check_values, over_time

RAS_OF_SPACE = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
"""Signs of x, y and z by the header's ``space``; each may have ``-time`` behind it."""

SPACE_KINDS = ("domain", "space", "???", "none", "")
"""Kinds of an axis in space; any other kind is of time points, colours or vectors."""


def read_nrrd(path: str, *, time: Time = "refuse", max_voxels: int) -> Volume:
    """Read a NRRD file, ``.nrrd`` or ``.nhdr`` with its data beside it.

    Raises:
        ReadError: it is damaged, has colours or vectors in its voxels, time points that were not announced, values
            that are not finite, or a spacing of zero.
    """
    import nrrd

    try:
        header = nrrd.read_header(path)
        shape = tuple(map(int, header["sizes"]))
    except OSError:
        raise
    except Exception as error:  # hostile bytes raise anything
        raise ReadError(f"is a damaged NRRD file ({type(error).__name__})") from None
    if len(shape) not in (3, 4):
        raise ReadError(f"has the shape {shape}, not that of a volume")
    check_size(shape, max_voxels)
    try:
        array, _ = nrrd.read(path, index_order="F")
    except MemoryError:
        raise
    except Exception as error:
        raise ReadError(f"is damaged or cut short ({type(error).__name__})") from None
    affine, known = _affine(header)
    phases = np.moveaxis(array, _axis_of_time(header), 0) if array.ndim == 4 else array[np.newaxis]
    channels, names = over_time(check_values(phases), time)
    return Volume(np.ascontiguousarray(channels), check_affine(affine), names, meta=known)


def _axis_of_time(header: Any) -> int:
    """The one axis of four that is not in space."""
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    directions = header.get("space directions")
    if directions is not None:
        others = [axis for axis, direction in enumerate(directions) if not _is_axis(direction)]
    else:
        others = [axis for axis, kind in enumerate(kinds) if kind not in SPACE_KINDS]
    if len(others) != 1:
        raise ReadError("has four axes and does not say which of them is time (kinds, or space directions: none)")
    kind = kinds[others[0]] if kinds else "list"
    if kind not in ("list", "time", "point", *SPACE_KINDS):
        raise ReadError(f"has an axis of {kind}, not one number a voxel")
    return others[0]


def _affine(header: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """(4, 4) to RAS+ in mm, and what is not known of it."""
    space = str(header.get("space", "")).lower().removesuffix("-time")
    directions = header.get("space directions")
    axes = np.array([direction for direction in directions if _is_axis(direction)]) if directions is not None else None
    affine = np.eye(4)
    if axes is not None and axes.shape != (3, 3):
        raise ReadError("has an orientation (space directions) that is not one of three axes")
    if axes is not None and space in RAS_OF_SPACE:
        signs = np.array(RAS_OF_SPACE[space])
        affine[:3, :3] = signs[:, np.newaxis] * axes.T
        affine[:3, 3] = signs * np.asarray(header.get("space origin", (0.0, 0.0, 0.0)), float)
        return affine, {}
    if axes is not None:
        lengths = np.linalg.norm(axes, axis=1)
    elif "spacings" in header:
        lengths = np.array([value for value in header["spacings"] if not np.isnan(value)], float)
    else:
        return affine, {"orientation": "unknown", "spacing": "unknown"}
    if len(lengths) != 3:
        raise ReadError("does not say the spacing of three axes")
    affine[:3, :3] = np.diag(lengths)
    return affine, {"orientation": "unknown"}


def _is_axis(direction: Any) -> bool:
    return direction is not None and not np.isnan(direction).any()
