"""Arrays in ``.npz`` files: their headers are compared with the bytes before memory is allocated."""

from __future__ import annotations

import math
import os
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any

import numpy as np

from medsoft.data.formats.unpacked import MAX_RATIO, read_exactly
from medsoft.errors import ReadError
from medsoft.storage.files import open_regular_file
from medsoft.system.memory import total_memory

MAX_MEMBERS = 10_000
"""Arrays in one file."""

_lock = threading.Lock()


def npz_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of an ``.npz`` file by key, from their headers: nothing else is decompressed.

    Raises:
        ReadError: not an ``.npz`` file, or one whose headers state other sizes than its contents have.
        OSError: it cannot be opened.
    """
    with _opened(path) as archive:
        return {key: _stated(archive, info)[0] for key, info in _members(archive).items()}


def npz_array(file: str, key: str) -> np.ndarray:
    """An array of an ``.npz`` file, which stays in memory once read; not to be written to.

    Raises:
        ReadError: as ``npz_shapes``; or it is damaged, is not there, or does not fit into memory.
        OSError: it cannot be opened.
    """
    with _lock:  # so that threads do not read the same array at once, each for itself
        return _npz_array(os.fspath(file), key)


@lru_cache(maxsize=8)
def _npz_array(file: str, key: str) -> np.ndarray:
    with _opened(file) as archive:
        info = _members(archive).get(key)
        if info is None:
            raise ReadError(f"there is no array {key!r} in the file")
        shape, dtype, by_columns = _stated(archive, info)
        if dtype.hasobject:  # to unpickle them would run what the file says
            raise ReadError(f"has an array {key!r} of Python objects, which are not read: save numbers")
        size = math.prod(shape) * dtype.itemsize
        if size > (most := total_memory()):
            raise ReadError(f"has an array {key!r} of {size} bytes, more than this machine's memory ({most})")
        with archive.open(info) as member:
            _read_header(member)
            data = read_exactly(member, size, info.compress_size + 1)
            if member.read(1):  # at the end the checksum is compared
                raise ReadError("is a damaged .npz file (an array is longer than its header states)")
    values = np.frombuffer(data, dtype)
    return values.reshape(shape, order="F" if by_columns else "C")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    try:
        with open_regular_file(path) as stream:
            head = stream.read(6)
            if head.startswith(b"\x93NUMPY"):
                raise ReadError("is one array (.npy) under the name .npz: save it with numpy.savez, under a key")
            stream.seek(0)
            with zipfile.ZipFile(stream) as archive:
                yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ReadError(f"is not an .npz file, or a damaged one ({type(error).__name__})") from None
    except OSError as error:
        if error.errno:  # from the operating system, not from a decompressor
            raise
        raise ReadError(f"is not an .npz file, or a damaged one ({type(error).__name__})") from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    members = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(members) != len(infos):
        twice = next(name for name, n in Counter(info.filename.removesuffix(".npy") for info in infos).items() if n > 1)
        raise ReadError(f"is a damaged .npz file: among its arrays {twice!r} is there twice")
    if len(infos) > MAX_MEMBERS:
        raise ReadError(f"is an .npz file of more than {MAX_MEMBERS} arrays")
    return members


def _stated(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type and order of an array, which agree with the sizes that the archive states."""
    with archive.open(info) as member:
        shape, by_columns, dtype = _read_header(member)
        length = member.tell()
    if any(side < 0 for side in shape):
        raise ReadError(f"has an array of the shape {shape}")
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject and math.prod(shape) <= info.file_size:  # pickled, in no stated number of bytes
        return shape, dtype, by_columns
    if length + size != info.file_size:
        raise ReadError(
            f"has an array whose header states {size} bytes {shape}, where {max(0, info.file_size - length)} are there"
        )
    if info.file_size > MAX_RATIO * (info.compress_size + 1):
        raise ReadError(f"is damaged: {info.compress_size} bytes cannot hold an array of {info.file_size}")
    return shape, dtype, by_columns


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    old = np.lib.format.read_magic(member) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(member)
    return tuple(shape), bool(by_columns), dtype
