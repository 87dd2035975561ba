"""Reads HDF5 files defensively: errors are one line, and nothing is mistaken for data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

from medsoft.data.features.bag import Rows
from medsoft.data.features.hdf5_guard import check_ends
from medsoft.errors import BagError

MAX_TILES = 100_000_000
"""A bag that claims more is a damaged or hostile file: the largest slides have some 400,000."""
MAX_FEATURES = 65_536
"""Features a tile: encoders give some hundreds to thousands."""
MAX_BLOCK_BYTES = 2**30
MAX_RATIO, SMALL_BYTES = 200, 64 * 2**20
"""Arrays of more than 64 MiB that were packed to less than a 200th hold nothing, or are made to fill the memory."""
CACHE_BYTES = 16 * 2**20
MOST_NAMES, MOST_LINKS = 20, 1000


@contextmanager
def plain_errors(doing: str = "") -> Iterator[None]:
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
        BagError: it is missing, empty, cut short, damaged, or not HDF5; reading it comes to no end; or something in it
            is a link to another file.
    """
    with plain_errors():
        if path.is_file() and path.stat().st_size == 0:
            raise BagError("is empty (0 bytes)")
        check_ends(path)
        # Without HDF5's own locks, which fail on read-only folders: finished files do not change.
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=CACHE_BYTES)
    try:
        with plain_errors():
            for name in islice(file, MOST_LINKS):
                if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
                    raise BagError(f"{name!r} refers to another file: write it as one file")
    except BaseException:
        file.close()
        raise
    return file


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset all of whose values lie in this file.

    Raises:
        BagError: it is not there, was not written to the end, or lies elsewhere (HDF5 shows what is missing as 0).
    """
    with plain_errors(f"{name!r} cannot be opened"):
        if isinstance(file.get(name, getlink=True), h5py.ExternalLink):  # in a group; open_hdf5 looked at the others
            raise BagError(f"{name!r} refers to another file: write it as one file")
        found = file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise BagError(f"has no dataset {name!r}: it holds {_names(file)}")
        if found.is_virtual or found.external:
            raise BagError(f"{name!r} refers to other files: write it as one file")
        if found.size and not _is_written(found):
            raise BagError(f"is not complete: not all rows of {name!r} were written")
        _check_size(found, name)
    return found


def _names(file: h5py.File) -> str:
    names = sorted(file)
    return ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "") if names else "nothing"


def _check_size(found: h5py.Dataset, name: str) -> None:
    """Check what a dataset claims against what is stored, before anything of its size is allocated."""
    if found.dtype.kind not in "iufb":  # text of any length would be allocated with each value
        raise BagError(f"{name!r} holds {found.dtype}, not numbers")
    block = found.nbytes if found.chunks is None else math.prod(found.chunks) * found.dtype.itemsize
    if found.chunks is not None and block > MAX_BLOCK_BYTES:
        raise BagError(f"{name!r} is stored in blocks of {block:,} bytes; {MAX_BLOCK_BYTES:,} are allowed")
    check_ratio(name, found.nbytes, found.id.get_storage_size())


def _is_written(found: h5py.Dataset) -> bool:
    if found.chunks is None:
        return bool(found.id.get_storage_size() > 0)
    chunks = math.prod(-(-length // side) for length, side in zip(found.shape, found.chunks, strict=True))
    return bool(found.id.get_num_chunks() == chunks)


def feature_rows(file: h5py.File, name: str, whole_numbers: bool = False) -> Rows:
    """A dataset of features. A leading axis of length 1, which some published sets have, is left out.

    Args:
        file: an open file.
        name: of the dataset.
        whole_numbers: these may be features too.

    Raises:
        BagError: it is missing, empty, or of the wrong shape or type.
    """
    found = dataset(file, name)
    lengths = tuple(int(length) for length in found.shape)
    batched = len(lengths) == 3 and lengths[0] == 1
    kinds = "fiu" if whole_numbers else "f"
    shape = check_features(name, lengths[1:] if batched else lengths, found.dtype.kind in kinds, str(found.dtype))

    def read(start: int, stop: int) -> np.ndarray:
        with plain_errors(f"rows {start} to {stop - 1} of {name!r} cannot be read"):
            values: np.ndarray = found[0, start:stop] if batched else found[start:stop]
            return values

    return Rows(shape, str(found.dtype), read)


def vector_rows(file: h5py.File, name: str) -> Rows:
    """A dataset of one vector, (F,) or (1, F), as a bag of one.

    Raises:
        BagError: it is missing, empty, or of the wrong shape or type.
    """
    found = dataset(file, name)
    lengths = tuple(int(length) for length in found.shape)
    shape = check_features(name, (1, *lengths)[-2:], found.dtype.kind == "f", str(found.dtype))

    def read(start: int, stop: int) -> np.ndarray:
        with plain_errors(f"{name!r} cannot be read"):
            values: np.ndarray = found[()].reshape(shape)[start:stop]
            return values

    return Rows(shape, str(found.dtype), read)


def check_features(name: str, shape: tuple[int, ...], is_float: bool, dtype: str) -> tuple[int, int]:
    """The shape (N, F) of features.

    Raises:
        BagError: they have another number of axes, are none, are too many, or are no floating-point numbers.
    """
    if len(shape) == 1:
        raise BagError(
            f"{name!r} is one vector of length {shape[0]}, of a slide perhaps: store it as a bag of one, with the "
            f"shape (1, {shape[0]})"
        )
    if len(shape) != 2:
        raise BagError(f"{name!r} has the shape {shape}, not (tiles, features)")
    if not is_float:
        raise BagError(f"{name!r} holds {dtype}: features are floating-point numbers")
    N, F = shape
    if N == 0 or F == 0:
        raise BagError(f"{name!r} is empty: {N} tiles of {F} features")
    if N > MAX_TILES:
        raise BagError(f"{name!r} claims {N:,} tiles, more than {MAX_TILES:,}")
    if F > MAX_FEATURES:
        raise BagError(f"{name!r} claims {F:,} features per tile, more than {MAX_FEATURES:,}")
    return N, F


def check_ratio(name: str, declared: int, stored: int) -> None:
    """Check the bytes that an array claims against those that are stored of it.

    Raises:
        BagError: it would grow to more than 64 MiB, and to more than 200 times its size.
    """
    if declared > SMALL_BYTES and declared > MAX_RATIO * max(1, stored):
        raise BagError(
            f"{name!r} claims {declared:,} bytes, of which {stored:,} are stored: more than {MAX_RATIO} times as much"
        )


def corners(file: h5py.File, N: int | None = None, name: str = "coords", axes: int = 2) -> np.ndarray:
    """The dataset ``coords``, (N, 2) of any type of finite number.

    Args:
        file: an open file.
        N: the number of tiles that they must be of; None for any.
        name: of the dataset.
        axes: numbers of a place: 2, or 3 in a volume.

    Raises:
        BagError: it is missing, damaged, or does not fit.
    """
    found = dataset(file, name)
    shape = tuple(int(length) for length in found.shape)
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(shape) != 2 or shape[1] != axes or shape[0] > MAX_TILES:
        raise BagError(f"{name!r} has the shape {shape}, not (tiles, {axes})")
    if N is not None and shape[0] != N:
        raise BagError(f"has {N} rows of features, but {shape[0]} of coordinates")
    with plain_errors(f"{name!r} cannot be read"):
        values: np.ndarray = found[()].reshape(shape)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise BagError(f"{name!r} are not finite numbers")
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
    with plain_errors(f"attribute {name!r} cannot be read"):
        value = attributes.get(name, "")
        value = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return "" if value == "None" else value


def number(attributes: h5py.AttributeManager, name: str) -> float | None:
    """An attribute as a number; None where there is none, or it is no finite number."""
    try:
        with plain_errors(f"attribute {name!r} cannot be read"):
            value = float(np.asarray(attributes.get(name, np.nan)).reshape(-1)[0])
    except (BagError, IndexError):
        return None
    return value if math.isfinite(value) else None
