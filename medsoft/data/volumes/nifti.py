"""NIfTI volumes: nibabel reads the header; the data is read here, to its end, where gzip has its checksum."""

from __future__ import annotations

import logging
import math
import os
import warnings
from typing import Any, Literal

import numpy as np

from medsoft.data.formats.unpacked import check_end, read_exactly, skip, unpacked
from medsoft.data.lengths import mm_of
from medsoft.data.volumes.nifti_forms import affine_of
from medsoft.data.volumes.volume import Time, Volume, check_affine, check_size, check_values, over_time
from medsoft.errors import ReadError
from medsoft.storage.files import open_regular_file

logging.getLogger("nibabel").addHandler(logging.NullHandler())

Form = Literal["", "sform", "qform"]
"""Which of a file's two orientations is taken; "" where they must agree."""

_PIECE = 2**22


def read_nifti(path: str, *, time: Time = "refuse", max_voxels: int, form: Form = "") -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file, compressed with gzip or not, whatever its name; its slope and intercept apply.

    Raises:
        ReadError: it is damaged, cut short or longer than its header states, has more than one number per voxel, time
            points that were not announced, values that are not finite, a spacing of zero or below, a unit of length
            that does not exist, or two orientations that contradict each other (see ``affine_of``).
        OSError: it cannot be opened.
    """
    with open_regular_file(path) as file:
        packed_bytes = os.fstat(file.fileno()).st_size
        if not packed_bytes:
            raise ReadError("is empty (0 bytes)")
        with unpacked(file) as stream:
            header, length = _header(stream)
            shape = _shape(header)
            check_size(shape, max_voxels)
            affine, meta = affine_of(header, form)
            affine = np.diag([_mm(header)] * 3 + [1.0]) @ check_affine(affine)
            kind = header.get_data_dtype()
            skip(stream, _offset(header, length) - length, packed_bytes)
            data = read_exactly(stream, math.prod(shape) * kind.itemsize, packed_bytes)
            check_end(stream)
    stored = np.frombuffer(data, kind).reshape(shape, order="F")
    array = _scaled(stored, header)
    phases = array[np.newaxis] if array.ndim == 3 else np.moveaxis(array, -1, 0)
    channels, names = over_time(check_values(phases), time)
    return Volume(np.ascontiguousarray(channels), affine, names, meta=meta)


def _header(stream: Any) -> tuple[Any, int]:
    """The header and its length in bytes."""
    import nibabel

    kinds: Any = nibabel  # its classes are not typed
    head = stream.read(348)
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    if 540 in sizes:
        head += stream.read(540 - len(head))
    magic, of = (head[4:8], kinds.Nifti2Header) if 540 in sizes else (head[344:348], kinds.Nifti1Header)
    if not sizes & {348, 540} or len(head) not in sizes:
        raise ReadError("is a damaged NIfTI file, or none (it does not begin as one)")
    if magic not in (b"n+1\0", b"n+2\0"):
        pair = magic in (b"ni1\0", b"ni2\0")
        raise ReadError(
            "is the header of a pair of NIfTI files (.hdr and .img), which are not read: save it as .nii"
            if pair
            else "is an ANALYZE file, or a damaged NIfTI file (its header does not say NIfTI): save it as NIfTI"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            of(head)  # nibabel's own checks
            return of(head, check=False), len(head)  # in which it does not put right what is wrong
    except Exception as error:  # hostile bytes raise anything
        raise ReadError(f"is a damaged NIfTI file ({type(error).__name__})") from None


def _shape(header: Any) -> tuple[int, ...]:
    """(X, Y, Z), or (X, Y, Z, T) of several time points."""
    n, *sides = map(int, header["dim"])
    if not 1 <= n <= 7 or min(sides[:n]) < 1:
        raise ReadError(f"is a damaged NIfTI file (dimensions {[n, *sides]})")
    shape = tuple(sides[:n])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    try:
        kind = header.get_data_dtype()
    except Exception:  # a code that does not exist
        raise ReadError("is a damaged NIfTI file (its type of number does not exist)") from None
    if len(shape) not in (3, 4) or kind.kind not in "iuf":
        raise ReadError(f"has the shape {tuple(sides[:n])} of {kind}: a volume has one number per voxel")
    return shape


def _offset(header: Any, length: int) -> int:
    offset = float(header["vox_offset"])
    if not length <= offset < 2**53 or offset % 1:
        raise ReadError(f"is a damaged NIfTI file (its data begins at byte {offset:g})")
    return int(offset)


def _mm(header: Any) -> float:
    """Millimetres a unit of the header. The standard has no default; programs take what states none to be in mm."""
    code = int(header["xyzt_units"]) & 7
    name = {0: "mm", 1: "m", 2: "mm", 3: "µm"}.get(code, "")
    found = mm_of(name)
    if found is None:
        raise ReadError(f"states a unit of length that does not exist (xyzt_units {code}): correct the header")
    return found


def _scaled(stored: np.ndarray, header: Any) -> np.ndarray:
    """float32, with slope and intercept in double precision as those of DICOM; a slope of 0 means none, by standard."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):  # nibabel writes NaN for none
        return stored.astype(np.float32)
    if not np.isfinite([slope, intercept]).all():
        raise ReadError("has a slope or intercept (scl_slope, scl_inter) that is not a number: correct the header")
    if (slope, intercept) == (1, 0):
        return stored.astype(np.float32)
    scaled = np.empty(stored.size, np.float32)
    flat = stored.reshape(-1, order="F")
    for start in range(0, flat.size, _PIECE):  # piece by piece, as doubles take twice the memory
        with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinite
            scaled[start : start + _PIECE] = flat[start : start + _PIECE].astype(np.float64) * slope + intercept
    return scaled.reshape(stored.shape, order="F")
