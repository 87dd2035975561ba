"""What says that a file is the same as before: by all of its bytes, or by a few of a file too large to read again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from medsoft.storage.files import open_regular_file

PIECE_BYTES = 2**20


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of all bytes of a file, 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with open_regular_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quick_hash(path: str | os.PathLike[str]) -> str:
    """Hash of a file's size, first and last MiB: 32 hexadecimal digits, so that it is not taken for a SHA-256.

    For slides: a terabyte is not read again to see that it has not changed. Files that differ in between only have
    the same quick hash, such as uncompressed pictures of one size with wide margins; of a slide in several files,
    only the one that is named is read.

    Raises:
        OSError: the file cannot be read, or is a FIFO or a device, of which no one knows when it ends.
    """
    with open_regular_file(path) as file:

        def read(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        return quick_hash_of(os.fstat(file.fileno()).st_size, read)


def quick_hash_of(size: int, read: Callable[[int, int], bytes]) -> str:
    """``quick_hash`` of what is no file of this machine.

    Args:
        size: all of its bytes.
        read: ``read(start, count)`` gives some of them, fewer at its end.
    """
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    first = read(0, PIECE_BYTES)
    digest.update(first)
    digest.update(read(max(len(first), size - PIECE_BYTES), PIECE_BYTES))
    return digest.hexdigest()[:32]
