"""Reads what a compressed image states about itself in its first bytes, before anything is decoded.

JPEG: ITU-T T.81, B.2.2; JPEG-LS: T.87, C.2.2 and C.2.3; JPEG 2000 and HTJ2K: T.800, A.5.1 and A.6.1.
"""

from __future__ import annotations

from dataclasses import dataclass

_START_OF_IMAGE = b"\xff\xd8"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Second bytes of the markers that begin a frame (SOF); F7 is that of JPEG-LS."""
_LOSSLESS_FRAMES = {0xC3, 0xC7, 0xCB, 0xCF}
_JPEG_LS, _SCAN = 0xF7, 0xDA
_J2K_START = b"\xff\x4f\xff\x51"
_J2K_CODING = b"\xff\x52"
_JP2_START, _JP2_CODESTREAM = b"\x00\x00\x00\x0cjP  ", b"jp2c"


@dataclass(frozen=True)
class Codestream:
    """A compressed picture.

    Attributes:
        rows: of pixels.
        columns: of pixels.
        samples: a pixel.
        precision: bits a sample.
        signed: whether samples are signed; only JPEG 2000 can say so.
        lossless: whether what is decoded is exactly what was encoded.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool
    lossless: bool


def describe(source: bytes) -> Codestream:
    """Read the header of a picture in JPEG, JPEG-LS or JPEG 2000.

    Raises:
        ValueError: it is none of these, or cut short in its header.
    """
    try:
        if source.startswith(_START_OF_IMAGE):
            return _jpeg(source)
        return _jpeg_2000(source[_start_of_jpeg_2000(source) :])
    except IndexError:
        raise ValueError("the compressed picture is cut short in its header") from None


def _jpeg(source: bytes) -> Codestream:
    marker, at = _next_segment(source, 2)
    while marker not in _FRAMES:
        marker, at = _next_segment(source, at + _short(source, at))
    lossless = marker in _LOSSLESS_FRAMES
    precision, rows, columns, samples = source[at + 2], _short(source, at + 3), _short(source, at + 5), source[at + 7]
    if marker == _JPEG_LS:
        while marker != _SCAN:
            marker, at = _next_segment(source, at + _short(source, at))
        lossless = source[at + 3 + 2 * source[at + 2]] == 0  # NEAR, the largest error
    return Codestream(rows, columns, samples, precision, False, lossless)


def _next_segment(source: bytes, at: int) -> tuple[int, int]:
    """The second byte of the marker at a place, and where its segment begins; fill bytes are passed over."""
    if source[at] != 0xFF:
        raise ValueError("the compressed picture has no markers where they must be")
    while source[at] == 0xFF:
        at += 1
    return source[at], at + 1


def _start_of_jpeg_2000(source: bytes) -> int:
    """Where the codestream begins: at once, or in a box of a JP2 file."""
    at = 0
    if source.startswith(_JP2_START):
        while source[at + 4 : at + 8] != _JP2_CODESTREAM:
            length = _long(source, at)
            if length < 8:
                raise ValueError("the compressed picture has a box without a length")
            at += length
        at += 8
    if not source.startswith(_J2K_START, at):
        raise ValueError("the compressed picture does not begin as one")
    return at


def _jpeg_2000(source: bytes) -> Codestream:
    columns, rows = _long(source, 8) - _long(source, 16), _long(source, 12) - _long(source, 20)
    samples = _short(source, 40)
    depths = {source[42 + 3 * i] for i in range(samples)}
    if len(depths) != 1:
        raise ValueError("the compressed picture has samples of different precision")
    (depth,) = depths
    at = 4 + _short(source, 4)
    while source[at : at + 2] != _J2K_CODING:
        if source[at] != 0xFF:
            raise ValueError("the compressed picture has no markers where they must be")
        at += 2 + _short(source, at + 2)
    reversible = source[at + 13] == 1
    return Codestream(rows, columns, samples, (depth & 0x7F) + 1, bool(depth & 0x80), reversible)


def _short(source: bytes, at: int) -> int:
    return source[at] << 8 | source[at + 1]


def _long(source: bytes, at: int) -> int:
    return _short(source, at) << 16 | _short(source, at + 2)
