"""NRRD volumes: pynrrd reads the header, ``nrrd_data`` the numbers."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np

from medsoft.data.formats.unpacked import unpacked
from medsoft.data.lengths import mm_of
from medsoft.data.volumes.nrrd_data import read_data
from medsoft.data.volumes.volume import Time, Volume, check_affine, check_size, check_values, over_time
from medsoft.errors import ReadError
from medsoft.storage.files import open_regular_file

RAS_OF_SPACE = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
"""Signs of x, y and z by the header's ``space``; each may have ``-time`` behind it."""

SPACE_KINDS = ("domain", "space", "???", "none", "")
"""Kinds of an axis in space; any other kind is of time points, colours or vectors."""

MAX_HEADER_BYTES = 2**20


def read_nrrd(path: str, *, time: Time = "refuse", max_voxels: int) -> Volume:
    """Read a NRRD file, ``.nrrd`` or ``.nhdr`` with its data in a file of the same folder.

    Lengths are in mm unless the header states their unit, by which they are converted.

    Raises:
        ReadError: it is damaged, has colours or vectors in its voxels, time points that were not announced, values
            that are not finite, a spacing of zero, a unit that is no length, or data outside of its folder.
        OSError: it cannot be opened.
    """
    with open_regular_file(path) as file:
        packed_bytes = os.fstat(file.fileno()).st_size
        if not packed_bytes:
            raise ReadError("is empty (0 bytes)")
        with unpacked(file) as stream:
            header = _header(stream)
            shape = tuple(map(int, header["sizes"]))
            if len(shape) not in (3, 4):
                raise ReadError(f"has the shape {shape}, not that of a volume")
            check_size(shape, max_voxels)
            affine, known = _affine(header)
            affine = check_affine(affine)
            time_axis = _axis_of_time(header) if len(shape) == 4 else None
            array = read_data(header, shape, stream, packed_bytes, Path(path))
    phases = array[np.newaxis] if time_axis is None else np.moveaxis(array, time_axis, 0)
    channels, names = over_time(check_values(phases), time)
    return Volume(np.ascontiguousarray(channels), affine, names, meta=known)


def _header(stream: IO[bytes]) -> Any:
    """The fields; the stream is left behind the empty line that ends them."""
    import nrrd

    lines, size = [], 0
    while line := stream.readline(MAX_HEADER_BYTES):
        size += len(line)
        if size > MAX_HEADER_BYTES:
            raise ReadError("is a damaged NRRD file, or none (its header has no end)")
        lines.append(_with_plain_units(line))
        if not line.strip():
            break
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header: Any = nrrd.read_header(io.BytesIO(b"".join(lines)))
        header["sizes"] = _whole_numbers(next(line for line in lines if line.lower().startswith(b"sizes:")))
        if len(header["sizes"]) != int(header["dimension"]):
            raise ReadError("is a damaged NRRD file (dimension and sizes differ)")
    except ReadError:
        raise
    except Exception as error:  # hostile bytes raise anything
        raise ReadError(f"is a damaged NRRD file ({type(error).__name__})") from None
    return header


def _with_plain_units(line: bytes) -> bytes:
    """A line of units with u for µ, which pynrrd drops as it is not ASCII: µm would become m."""
    if not line.lower().startswith((b"units:", b"space units:")):
        return line
    for micro in (b"\xc2\xb5", b"\xce\xbc", b"\xb5"):  # UTF-8 (the sign, and the Greek letter), Latin-1
        line = line.replace(micro, b"u")
    if not line.isascii():
        raise ReadError("states its spacing in an unknown unit of length: correct the header")
    return line


def _whole_numbers(line: bytes) -> list[int]:
    """The sizes as they stand there; pynrrd cuts off fractions, and what is too large becomes negative."""
    words = line.partition(b":")[2].split()
    if not words or not all(word.isdigit() for word in words):
        raise ReadError("is a damaged NRRD file (sizes that are not whole numbers)")
    return [int(word) for word in words]


def _axis_of_time(header: Any) -> int:
    """The one axis of four that is not in space."""
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    directions = header.get("space directions")
    if directions is not None:
        others = [axis for axis, direction in enumerate(directions) if not _is_axis(direction)]
    else:
        others = [axis for axis, kind in enumerate(kinds) if kind not in SPACE_KINDS]
    if len(others) != 1 or (kinds and len(kinds) != 4):
        raise ReadError("has four axes and does not say which of them is time (kinds, or space directions: none)")
    kind = kinds[others[0]] if kinds else "list"
    if kind not in ("list", "time", "point", *SPACE_KINDS):
        raise ReadError(f"has an axis of {kind}, not one number per voxel")
    return others[0]


def _affine(header: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """(4, 4) to RAS+ in mm, and what is not known of it."""
    try:
        return _stated_affine(header)
    except ReadError:
        raise
    except Exception as error:  # fields of wrong lengths and types
        raise ReadError(f"has a damaged orientation ({type(error).__name__})") from None


def _stated_affine(header: Any) -> tuple[np.ndarray, dict[str, Any]]:
    space = str(header.get("space", "")).lower().removesuffix("-time")
    directions = header.get("space directions")
    axes = np.array([direction for direction in directions if _is_axis(direction)]) if directions is not None else None
    affine = np.eye(4)
    if axes is not None and axes.shape != (3, 3):
        raise ReadError("has an orientation (space directions) that is not one of three axes")
    if axes is not None and space in RAS_OF_SPACE:
        signs, mm = np.array(RAS_OF_SPACE[space]), _mm_of_space(header)
        affine[:3, :3] = (signs * mm)[:, np.newaxis] * axes.T
        affine[:3, 3] = signs * mm * np.asarray(header.get("space origin", (0.0, 0.0, 0.0)), float)
        return affine, {}
    if axes is not None:
        lengths = np.linalg.norm(_mm_of_space(header) * axes, axis=1)
    elif "spacings" in header:
        lengths = _spacings(header)
    elif "axis mins" in header or "axis maxs" in header:
        raise ReadError("states its spacing by the ends of its axes (axis mins, axis maxs): save it with spacings")
    else:
        return affine, {"orientation": "unknown", "spacing": "unknown"}
    if len(lengths) != 3:
        raise ReadError("does not say the spacing of three axes")
    if (lengths < 0).any():
        raise ReadError("has a negative spacing between voxels: correct the header")
    affine[:3, :3] = np.diag(lengths)
    return affine, {"orientation": "unknown"}


def _mm_of_space(header: Any) -> np.ndarray:
    """Millimetres a unit along each axis of the space."""
    units = [str(unit) for unit in header.get("space units", [])]
    return np.array([_mm(unit) for unit in units[:3]] if len(units) in (3, 4) else [1.0] * 3)


def _spacings(header: Any) -> np.ndarray:
    """Distances in mm along the axes that have one."""
    values = np.asarray(header["spacings"], float)
    units = [str(unit) for unit in header.get("units", [])]
    mm = [_mm(unit) if not np.isnan(value) else 1.0 for unit, value in zip(units, values, strict=False)]
    scaled = values * (mm if len(mm) == len(values) else 1.0)
    return scaled[~np.isnan(scaled)]


def _mm(unit: str) -> float:
    """As ``mm_of``; what states no unit is in mm, as programs take it."""
    if unit.strip().strip('"').lower() in ("", "???", "none"):
        return 1.0
    found = mm_of(unit.strip('"'))
    if found is None:
        raise ReadError(f"states its spacing in {unit!r}, which is not a known unit of length: correct the header")
    return found


def _is_axis(direction: Any) -> bool:
    return direction is not None and not np.isnan(direction).any()
