"""PNG: verifies the checksums of chunks and pixels, which Pillow ignores (ISO/IEC 15948)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from medsoft.data.formats.unpacked import MAX_RATIO
from medsoft.errors import ReadError

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By the header's colour type."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced picture: first column and row, and the steps of both."""


def check_png(data: bytes) -> None:
    """Check the CRC of every chunk, the end, and that the pixels are all there, with their Adler-32.

    Raises:
        ReadError: a checksum is wrong, or something is missing.
    """
    pixels, header = [], b""
    for kind, body in _chunks(data):
        header = header or bytes(body)
        if kind == b"IDAT":
            pixels.append(body)
    if len(header) != 13:
        raise ReadError("is a damaged PNG file (no header)")
    _check_pixels(b"".join(pixels), _size(header))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of every chunk; what stands behind the last one belongs to no picture, and is left alone."""
    view, at, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            raise ReadError("is cut short (no end of the PNG file)")
        kind, body = bytes(view[at + 4 : at + 8]), view[at + 8 : end]
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ReadError("is damaged (a checksum of the PNG file is wrong)")
        yield kind, body
        at = end + 4


def _size(header: bytes) -> int:
    """Bytes of the pixels: a byte a row for its filter, and its pixels in whole bytes."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    depth, colours, interlaced = header[8], header[9], header[12]
    if colours not in _CHANNELS or depth not in (1, 2, 4, 8, 16) or interlaced > 1:
        raise ReadError("is a damaged PNG file (its header makes no sense)")
    bits = depth * _CHANNELS[colours]
    parts = [(width, height)]
    if interlaced:
        parts = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _PASSES]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in parts if columns > 0 and rows > 0)


def _check_pixels(stream: bytes, size: int) -> None:
    import imagecodecs

    if size > MAX_RATIO * len(stream):
        raise ReadError("is damaged or cut short (the PNG file holds fewer pixels than its header states)")
    try:
        found = imagecodecs.deflate_decode(stream, out=size)
    except imagecodecs.DeflateError:
        raise ReadError("is damaged or cut short (the pixels of the PNG file do not have their checksum)") from None
    if len(found) != size:
        raise ReadError("is damaged or cut short (the PNG file holds fewer pixels than its header states)")
