"""Decodes segments (tiles or strips) of a TIFF: grey or RGB as stored, and 8 bits if the file states its range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TiffPage

from medsoft.data.formats.alpha import on_white
from medsoft.data.formats.jpeg import START, decode_jpeg_strict, of_tiff
from medsoft.data.tiff.layout import SAVE_AS_RGB, Layout, Level
from medsoft.errors import ReadError

Read = Callable[[int, int], bytes]
"""Offset and number of bytes to the bytes; fewer where the file ends before."""

MAX_SEGMENT_PIXELS = 89_478_485
"""Largest tile or strip: as the largest picture (``medsoft.data.images.read.MAX_PIXELS``)."""

MOST_OF_A_BYTE: dict[int, int] = {COMPRESSION.NONE: 1, COMPRESSION.ADOBE_DEFLATE: 1032, COMPRESSION.DEFLATE: 1032}
"""Bytes of pixels that a byte of the file may stand for: deflate's limit is 1032. Other codecs have none to rely on."""


def check_segments(level: Level, size_bytes: int, *, may_be_missing: bool = False) -> None:
    """Refuse segments that are too large, missing, or beyond the end of the file, before anything is decoded.

    tifffile fills what is missing with zeros, and its JPEG decoder with grey.

    Args:
        level: which segments.
        size_bytes: of the file.
        may_be_missing: whether segments of no bytes are meant: tiles that a scanner left out.

    Raises:
        ReadError: see above.
    """
    width, height = level.segment_px
    if width * height > MAX_SEGMENT_PIXELS:
        raise ReadError(
            f"has tiles or strips of {width} x {height} pixels, more than the limit of {MAX_SEGMENT_PIXELS}"
        )
    for page, first in level.planes:
        number = level.columns * level.rows
        offsets, counts = page.dataoffsets[first : first + number], page.databytecounts[first : first + number]
        whole = len(offsets) == len(counts) == number and (may_be_missing or 0 not in counts)
        if not whole or any(offset + count > size_bytes for offset, count in zip(offsets, counts, strict=True)):
            raise ReadError("is damaged or cut short (strips or tiles are missing)")
        samples = page.samplesperpixel if page.planarconfig == 1 else 1
        declared = page.imagewidth * page.imagelength * samples * page.bitspersample // 8
        ratio = MOST_OF_A_BYTE.get(page.compression)
        if ratio is not None and 0 not in counts and declared > ratio * sum(counts):
            raise ReadError(f"declares {declared} bytes of pixels, more than its {sum(counts)} bytes can hold")


def whole_picture(layout: Layout, read: Read) -> np.ndarray:
    """All pixels of the largest level, as ``shown`` gives them: grey (H, W) or RGB (H, W, 3).

    Raises:
        ReadError: what can be said plainly. Damaged segments raise what the decoders raise.
    """
    level = layout.levels[0]
    width, height = level.size_px
    segment_width, segment_height = level.segment_px
    picture: np.ndarray | None = None
    for index in range(level.columns * level.rows):
        pixels = shown(segment(level, index, read), layout)
        x, y = index % level.columns * segment_width, index // level.columns * segment_height
        if picture is None:
            picture = np.empty((height, width, *pixels.shape[2:]), pixels.dtype)
        part = pixels[: height - y, : width - x]
        picture[y : y + part.shape[0], x : x + part.shape[1]] = part
    if picture is None:
        raise ReadError("holds no pixels")
    return picture


def segment(level: Level, index: int, read: Read) -> np.ndarray:
    """Decode one tile or strip of all planes to (h, w, samples), in its own type of number.

    Raises:
        ReadError: bytes are missing. Decoders raise errors of every kind.
    """
    parts = [_decoded(page, first + index, read) for page, first in level.planes]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _decoded(page: TiffPage, index: int, read: Read) -> np.ndarray:
    count = int(page.databytecounts[index])
    data = read(int(page.dataoffsets[index]), count)
    if not data or len(data) != count:
        raise ReadError("is damaged or cut short (strips or tiles are missing)")
    is_jpeg = page.compression == COMPRESSION.JPEG and page.bitspersample == 8
    if is_jpeg and page.samplesperpixel in (1, 3):
        return _strict_jpeg(page, index, data)
    found: Any = page.decode(data, index, jpegtables=page.jpegtables)
    pixels = found[0]
    if pixels is None or pixels.ndim != 4 or pixels.shape[0] != 1:
        raise ReadError("is damaged or cut short (a tile or strip holds nothing)")
    return np.asarray(pixels[0])


def _strict_jpeg(page: TiffPage, index: int, data: bytes) -> np.ndarray:
    """Decode JPEG so that a warning, such as of data cut short, is an error."""
    if not data.startswith(START):
        raise ReadError("is damaged (a tile or strip is not a JPEG)")
    in_one = page.planarconfig == 1 and page.samplesperpixel == 3
    data = of_tiff(data, page.jpegtables, page.photometric == PHOTOMETRIC.YCBCR)
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    if page.is_tiled:
        wanted, least = (page.tilelength, page.tilewidth), page.tilelength
    else:
        wanted = (max(1, min(page.rowsperstrip, page.imagelength)), page.imagewidth)
        least = min(wanted[0], page.imagelength - index % -(-page.imagelength // wanted[0]) * wanted[0])
    if width != wanted[1] or not least <= height <= wanted[0]:
        raise ReadError("is damaged (a tile or strip has another size than the header says)")
    return decode_jpeg_strict(data, "RGB" if in_one else "GRAY")


def shown(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """Samples (h, w, samples) as grey (h, w) or RGB (h, w, 3): palettes, inverted grey, CMYK and alpha resolved.

    Numbers keep their type and range; 1 to 7 bits become 8.
    """
    page = layout.levels[0].page
    colours = page.photometric
    if colours == PHOTOMETRIC.PALETTE:
        if page.colormap is None or int(pixels.max(initial=0)) >= page.colormap.shape[1]:
            raise ReadError("is damaged (its palette lacks colours)")
        colours_of_index: np.ndarray = (page.colormap.T >> 8).astype(np.uint8)
        return np.asarray(colours_of_index[pixels[..., 0]])
    bits = page.bitspersample
    if bits < 8:
        pixels = pixels.astype(np.uint8) * (255 // (2**bits - 1))
    if colours == PHOTOMETRIC.SEPARATED:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels), "CMYK").convert("RGB"))
    white = 2 ** max(bits, 8) - 1
    if colours == PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = (white - pixels).astype(pixels.dtype)
    if pixels.shape[-1] in (2, 4):
        pixels = on_white(pixels, premultiplied=page.extrasamples == (EXTRASAMPLE.ASSOCALPHA,), white=white)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def check_depth(layout: Layout) -> None:
    """Refuse pictures whose range is not known, before anything is decoded.

    Raises:
        ReadError: the samples are signed or floating, or have 16 bits of which nobody says how many are used.
    """
    page = layout.levels[0].page
    if page.dtype is None or page.dtype.kind not in "bu" or page.dtype.itemsize > 2:
        raise ReadError(f"has pixels of type {page.dtype}, whose range is unknown: {SAVE_AS_RGB}")
    if layout.bits is None and page.photometric != PHOTOMETRIC.PALETTE:
        raise ReadError(
            "has 16 bits per channel, and does not say how many of them are used (SignificantBits of OME-XML, or "
            f"BitsPerSample below 16): {SAVE_AS_RGB}, or say it in its OME-XML"
        )


def to_8_bits(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """Grey or RGB of a layout that ``check_depth`` has let pass as uint8: its stated range becomes 0 to 255.

    Raises:
        ReadError: a value lies above the stated range.
    """
    bits = layout.bits or 8
    if pixels.dtype == np.uint8 and bits >= 8:
        return pixels
    if pixels.dtype == np.uint8 and layout.levels[0].page.bitspersample < 8:
        return pixels  # ``shown`` has spread them
    most = 2**bits - 1
    if int(pixels.max(initial=0)) > most:
        raise ReadError(f"holds values above the {bits} bits that it says it uses: {SAVE_AS_RGB}")
    table = np.rint(np.arange(most + 1) * (255 / most)).astype(np.uint8)
    return np.asarray(table[pixels])
