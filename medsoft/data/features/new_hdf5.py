"""Writes new HDF5 files completely or not at all, with an ordinary error if the disk is full."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from medsoft.storage.files import partial_file

CACHE_BYTES = 16 * 2**20


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Lend a new file that takes the name ``path`` when the block ends well; see ``partial_file``.

    Metadata have checksums, as HDF5 writes them from version 1.10 on.

    Yields:
        The file, and a function that raises the disk's error, if there was one: a full disk is not noticed otherwise
        until the block ends.

    Raises:
        OSError: the file cannot be written; nothing remains of it.
    """
    with partial_file(path) as raw:
        disk = _Disk(raw)
        try:
            with h5py.File(disk, "w", libver=("v110", "v110"), rdcc_nbytes=CACHE_BYTES) as file:
                yield file, disk.check
        finally:
            disk.check()


class _Disk(io.RawIOBase):
    """A file whose writing fails silently, to tell later.

    HDF5 cannot close a file that it could not write: it keeps it open, with its room on the disk, and crashes when
    the process ends (seen with 2.0.0). So it never learns of errors.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error of writing."""
        if self._error:
            raise self._error

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and not self._error:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def readinto(self, buffer: Any) -> int | None:
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
