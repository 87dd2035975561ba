"""What says that a file is the same as before: by all of its bytes, or by a few of a file too large to read again."""

from __future__ import annotations

import hashlib
import os

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
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        digest.update(file.read(PIECE_BYTES))
        file.seek(max(file.tell(), size - PIECE_BYTES))
        digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()[:32]
