"""HDF5 files read with care: what is wrong with one is said in a line, and nothing is taken for data that is none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from medsoft.data.bags.bag import Rows
from medsoft.data.bags.errors import BagError

MAX_TILES = 100_000_000
"""A bag that claims more is a damaged or hostile file: the largest slides have some 400,000."""
CACHE_BYTES = 16 * 2**20


@contextmanager
def said_plainly(doing: str = "") -> Iterator[None]:
    """HDF5's errors as a BagError; those of the operating system in its own words.

    Args:
        doing: what could not be done, for errors without a plainer name: "rows 0 to 255 cannot be read".
    """
    try:
        yield
    except BagError:
        raise
    except Exception as error:  # HDF5 answers damaged bytes with every kind of exception
        raise BagError(_plain(error, doing)) from error


def _plain(error: Exception, doing: str) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno:
        return f"cannot be opened: {error.strerror}" if not doing else f"{doing}: {error.strerror}"
    if cut := re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", message):
        return f"is cut short: {int(cut[1]):,} of {int(cut[2]):,} bytes are there"
    if "file signature not found" in message:
        return "is not an HDF5 file"
    if "checksum" in message or "filter returned failure" in message:
        return f"is damaged: {doing or 'it cannot be opened'} (the bytes are not those that were written)"
    return f"is damaged: {doing or 'it cannot be opened'} ({message})"


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises:
        BagError: it is missing, empty, cut short, damaged, or not HDF5.
    """
    with said_plainly():
        if path.stat().st_size == 0:
            raise BagError("is empty (0 bytes)")
        # Without HDF5's own locks, which fail on read-only folders: finished files do not change.
        return h5py.File(path, "r", locking=False, rdcc_nbytes=CACHE_BYTES)


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset all of whose values lie in this file.

    Raises:
        BagError: it is not there, was not written to the end, or lies elsewhere (HDF5 shows what is missing as 0).
    """
    with said_plainly(f"{name!r} cannot be opened"):
        found = file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise BagError(f"has no dataset {name!r}: it holds {', '.join(sorted(file)) or 'nothing'}")
        if found.is_virtual or found.external:
            raise BagError(f"{name!r} refers to other files: write it as one file")
        if found.size and not _is_written(found):
            raise BagError(f"is not complete: not all rows of {name!r} were written")
    return found


def _is_written(found: h5py.Dataset) -> bool:
    if found.chunks is None:
        return bool(found.id.get_storage_size() > 0)
    chunks = math.prod(-(-length // side) for length, side in zip(found.shape, found.chunks, strict=True))
    return bool(found.id.get_num_chunks() == chunks)


def feature_rows(file: h5py.File, name: str) -> Rows:
    """A dataset of features. A leading axis of length 1, which some published sets have, is left out.

    Raises:
        BagError: it is missing, empty, or of the wrong shape or type.
    """
    found = dataset(file, name)
    lengths = tuple(int(length) for length in found.shape)
    batched = len(lengths) == 3 and lengths[0] == 1
    shape = check_features(name, lengths[1:] if batched else lengths, found.dtype.kind == "f", str(found.dtype))

    def read(start: int, stop: int) -> np.ndarray:
        with said_plainly(f"rows {start} to {stop - 1} of {name!r} cannot be read"):
            values: np.ndarray = found[0, start:stop] if batched else found[start:stop]
            return values

    return Rows(shape, str(found.dtype), read)


def check_features(name: str, shape: tuple[int, ...], is_float: bool, dtype: str) -> tuple[int, int]:
    """The shape (N, F) of features.

    Raises:
        BagError: they have another number of axes, are none, are too many, or are no floating-point numbers.
    """
    if len(shape) == 1:
        raise BagError(f"{name!r} is one vector of length {shape[0]}, of a slide perhaps: a bag has one for each tile")
    if len(shape) != 2:
        raise BagError(f"{name!r} has the shape {shape}, not (tiles, features)")
    if not is_float:
        raise BagError(f"{name!r} holds {dtype}: features are floating-point numbers")
    N, F = shape
    if N == 0 or F == 0:
        raise BagError(f"{name!r} is empty: {N} tiles of {F} features")
    if N > MAX_TILES:
        raise BagError(f"{name!r} claims {N:,} tiles, more than {MAX_TILES:,}")
    return N, F


def corners(file: h5py.File, N: int | None = None) -> np.ndarray:
    """The dataset ``coords``, (N, 2) of any type of finite number.

    Args:
        file: an open file.
        N: the number of tiles that they must be of; None for any.

    Raises:
        BagError: it is missing, damaged, or does not fit.
    """
    found = dataset(file, "coords")
    shape = tuple(int(length) for length in found.shape)
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(shape) != 2 or shape[1] != 2 or shape[0] > MAX_TILES:
        raise BagError(f"'coords' has the shape {shape}, not (tiles, 2)")
    if N is not None and shape[0] != N:
        raise BagError(f"has {N} rows of features, but {shape[0]} of coordinates")
    with said_plainly("'coords' cannot be read"):
        values: np.ndarray = found[()].reshape(shape)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise BagError("'coords' are not finite numbers")
    return values


def corners_px0(file: h5py.File, N: int | None = None) -> np.ndarray:
    """The dataset ``coords`` in level-0 pixels, (N, 2) int64.

    Raises:
        BagError: as ``corners``, or they are no whole numbers.
    """
    values = corners(file, N)
    whole = values.astype(np.int64)
    if not np.array_equal(values, whole):
        raise BagError("'coords' are not whole numbers: level-0 pixels are expected")
    return whole


def text(attributes: h5py.AttributeManager, name: str) -> str:
    """An attribute as text; "" where there is none (TRIDENT writes "None" for nothing)."""
    with said_plainly(f"attribute {name!r} cannot be read"):
        value = attributes.get(name, "")
        value = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return "" if value == "None" else value


def number(attributes: h5py.AttributeManager, name: str) -> float | None:
    """An attribute as a number; None where there is none, or it is no finite number."""
    try:
        with said_plainly(f"attribute {name!r} cannot be read"):
            value = float(np.asarray(attributes.get(name, np.nan)).reshape(-1)[0])
    except (BagError, IndexError):
        return None
    return value if math.isfinite(value) else None
