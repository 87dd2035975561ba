"""The bytes of a file that may be compressed, recognised by its first bytes and not by its name.

Python's readers of gzip and bzip2 compare the checksums when they come to the end, which a reader that has all its
voxels never does; here it is always gone to.
"""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from medsoft.errors import ReadError

MAX_RATIO = 1032
"""How many bytes one byte of deflate can stand for; a header that states more than the file can hold is refused."""
MAX_PADDING = 2**20
"""Zeros that may follow the data, as some programs fill up blocks."""

_PIECE = 2**20
_GZIP, _BZIP2 = b"\x1f\x8b", b"BZh"


def is_gzip(head: bytes) -> bool:
    """Whether a file that begins so is compressed with gzip."""
    return head.startswith(_GZIP)


@contextmanager
def unpacked(stream: IO[bytes], encoding: str = "") -> Iterator[IO[bytes]]:
    """Lend a stream of what a stream holds from here on, decompressed where it begins as gzip does.

    Args:
        stream: of a regular file, which can be wound back.
        encoding: gzip or bzip2 where the header says so.

    Raises:
        ReadError: in the block, and of what it reads: the data is damaged or cut short, or is not of that encoding.
    """
    start = stream.tell()
    head = stream.read(3)
    stream.seek(start)
    for name, magic in (("gzip", _GZIP), ("bzip2", _BZIP2)):
        if encoding == name and not head.startswith(magic):
            raise ReadError(f"is damaged or cut short: its data is not compressed with {name}, as its header says")
    try:
        if encoding == "bzip2":
            with bz2.BZ2File(stream) as inner:
                yield inner
        elif is_gzip(head):
            with gzip.GzipFile(fileobj=stream) as zipped:
                yield zipped  # type: ignore[misc]
        else:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "cut short" if isinstance(error, EOFError) else "damaged, its checksum or length is wrong"
        raise ReadError(f"is damaged or cut short (the compressed data is {what})") from None
    except OSError as error:
        if error.errno:  # from the operating system, not from the decompressor
            raise
        raise ReadError("is damaged or cut short (the compressed data is damaged)") from None


def read_exactly(stream: IO[bytes], count: int, packed_bytes: int) -> bytearray:
    """Read a number of bytes that a header states.

    Args:
        stream: at their beginning.
        count: how many.
        packed_bytes: of the whole file, compressed or not, which bounds what it can hold.

    Raises:
        ReadError: there are fewer; memory is not taken for what the file cannot hold.
    """
    if count > MAX_RATIO * packed_bytes:
        raise ReadError(f"is damaged or cut short: {packed_bytes} bytes cannot hold the {count} that its header states")
    data = bytearray(count)
    view, at = memoryview(data), 0
    while at < count:
        piece = stream.read(min(_PIECE, count - at))
        if not piece:
            raise ReadError(f"is damaged or cut short: its header states {count} bytes, and {at} are there")
        view[at : at + len(piece)] = piece
        at += len(piece)
    return data


def skip(stream: IO[bytes], count: int, packed_bytes: int) -> None:
    """Pass over a number of bytes that a header states; as ``read_exactly``, without keeping them."""
    if count > MAX_RATIO * packed_bytes:
        raise ReadError(f"is damaged: it skips {count} bytes, more than it holds")
    while count > 0:
        piece = stream.read(min(_PIECE, count))
        if not piece:
            raise ReadError("is damaged or cut short: it skips more bytes than it holds")
        count -= len(piece)


def check_end(stream: IO[bytes]) -> None:
    """Read on to the end, where checksum and length are compared; only some zeros may be there.

    Raises:
        ReadError: there is more data than the header states, or it is damaged.
    """
    rest = 0
    while piece := stream.read(_PIECE):
        rest += len(piece)
        if rest > MAX_PADDING or piece.strip(b"\0"):
            raise ReadError("holds more data than its header states: the header, or the file, is damaged")
