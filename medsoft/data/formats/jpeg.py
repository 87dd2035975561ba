"""Strict JPEG decoding: what libjpeg only warns about (truncated data, invalid bytes) is an error here.

libjpeg fills what it cannot decode with grey and goes on. All 8-bit JPEG comes through here: photographs, the tiles of
slides, strips and tiles of TIFF, and frames of DICOM, whose colours pydicom converts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SCANS = 500
"""Of a progressive JPEG, which has about ten. Each passes over all pixels: thousands keep a decoder busy for hours."""

START, _SCAN = b"\xff\xd8", b"\xff\xda"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""The marker APP14, all but its last byte: the colour transform, 0 for RGB and 1 for YCbCr."""
_COLOURS = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}


def decode_jpeg_strict(data: bytes, colours: Literal["GRAY", "RGB"], out: np.ndarray | None = None) -> np.ndarray:
    """Decode an 8-bit JPEG of grey or of colour.

    Args:
        data: the file, or ``of_tiff``.
        colours: of the result.
        out: (H, W, C) uint8 to decode into: a JPEG that claims to be larger is refused before memory is taken.

    Returns:
        (H, W, 1) or (H, W, 3) uint8.

    Raises:
        ValueError: it is damaged or cut short.
    """
    import simplejpeg

    _check_scans(data)
    image: np.ndarray = simplejpeg.decode_jpeg(data, colours, buffer=out, strict=True)
    return image


def check_jpeg(data: bytes) -> None:
    """Check an 8-bit JPEG of any colours that another decoder reads, in a fraction of the time of decoding it.

    Raises:
        ValueError: it is damaged or cut short.
    """
    import simplejpeg

    _check_scans(data)
    colours = simplejpeg.decode_jpeg_header(data, strict=True)[2]
    # At an eighth of the size, all of the data is read all the same.
    simplejpeg.decode_jpeg(data, _COLOURS.get(colours, "RGB"), min_height=1, min_width=1, min_factor=8, strict=True)


def of_tiff(data: bytes, tables: bytes | None, ycbcr: bool) -> bytes:
    """A whole JPEG from a strip or tile of TIFF, whose tables stand in a tag, and whose colours another tag says.

    Raises:
        ValueError: it does not begin as a JPEG.
    """
    if data[:2] != START:
        raise ValueError("not a JPEG")
    return START + _ADOBE + bytes([ycbcr]) + (tables[2:-2] if tables else b"") + data[2:]


def tiff_jpeg_decoder(ycbcr: bool, tables: bytes | None) -> Callable[[bytes, np.ndarray], np.ndarray]:
    """A function that decodes a strip or tile of TIFF into an array (H, W, 1) or (H, W, 3) of its size; as above."""

    def decode(data: bytes, out: np.ndarray) -> np.ndarray:
        return decode_jpeg_strict(of_tiff(data, tables, ycbcr), "GRAY" if out.shape[-1] == 1 else "RGB", out)

    return decode


def _check_scans(data: bytes) -> None:
    if data.count(_SCAN) > MAX_SCANS:
        raise ValueError(f"has more than {MAX_SCANS} scans")
