"""Finds the tiles of a tiled TIFF with JPEG or JPEG 2000, as they are decoded directly.

Aperio's SVS keeps JPEG tiles without the tables, which stand once in the tag JPEGTables, and without a word on their
colours, which the tag PhotometricInterpretation gives: RGB or YCbCr. Its two kinds of JPEG 2000 (compression 33003 and
33005) are bare codestreams, YCbCr and RGB. Philips' TIFF keeps JPEG tiles in the same way; its pages are filled up to
whole tiles, so that a level is smaller than its page.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from medsoft.data.formats.jpeg import tiff_jpeg_decoder
from medsoft.slides.reading.direct.levels import Decoder, NotDirectError, TiledLevel, jpeg2000_decoder
from medsoft.slides.reading.openslide_reader import OpenSlideLevels

VENDORS = ("aperio", "generic-tiff", "philips")
"""OpenSlide's names of the formats whose levels are plain tiled pages, without overlaps or shifts between tiles."""

FILLED_UP = ("philips",)
"""Those whose pages are larger than their levels, and are the levels one by one."""


def tiff_levels(path: Path, truth: OpenSlideLevels) -> tuple[TiledLevel, ...]:
    """The levels of a file; label and macro pictures are not tiled, and never among them.

    Args:
        path: the file.
        truth: the same through OpenSlide.

    Raises:
        NotDirectError: the file has another compression, or pages that are not OpenSlide's levels.
    """
    vendor = truth.properties.get("openslide.vendor")
    if vendor not in VENDORS:
        raise NotDirectError(f"its format is {vendor}")
    found = []
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
        tiled = {(page.imagewidth, page.imagelength): page for page in reversed(pages)}  # of equal sizes, the first
        if vendor in FILLED_UP:
            tiled = dict(zip(truth.sizes_px, pages, strict=False))
        for size_px in truth.sizes_px:
            page = tiled.get(size_px)
            if page is None:
                raise NotDirectError(f"no tiled page has the size of OpenSlide's level {size_px}")
            found.append(_tiled_level(path, page, size_px))
    return tuple(found)


def _tiled_level(path: Path, page: tifffile.TiffPage, size_px: tuple[int, int]) -> TiledLevel:
    plain = page.samplesperpixel == 3 and page.bitspersample == 8 and page.planarconfig == 1 and page.imagedepth == 1
    if not plain:
        raise NotDirectError("its pixels are not 8-bit RGB")
    tile_size_px = (page.tilewidth, page.tilelength)
    offsets, byte_counts = (np.asarray(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
    found = TiledLevel(path, size_px, tile_size_px, offsets, byte_counts, _decoder(page))
    stored = (-(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength))
    listed = len(found.offsets) == len(found.byte_counts) == found.columns * found.rows
    if not listed or stored != (found.columns, found.rows):
        raise NotDirectError("its pages do not list a place for each tile")
    return found


def _decoder(page: tifffile.TiffPage) -> Decoder:
    if page.compression == COMPRESSION.JPEG and page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR):
        return _jpeg_decoder(page.photometric == PHOTOMETRIC.YCBCR, page.jpegtables, page.tilewidth, page.tilelength)
    if page.compression in (COMPRESSION.APERIO_JP2000_RGB, COMPRESSION.APERIO_JP2000_YCBC):
        return _jpeg2000_decoder(page.compression == COMPRESSION.APERIO_JP2000_YCBC, page.tilewidth, page.tilelength)
    raise NotDirectError(f"its compression is {page.compression!r}")


def _jpeg_decoder(ycbcr: bool, tables: bytes | None, tile_width: int, tile_height: int) -> Decoder:
    """Decode a tile's JPEG strictly, as OpenSlide does: a warning, such as of data cut short, is an error."""
    decode_into = tiff_jpeg_decoder(ycbcr, tables)

    def decode(data: bytes) -> np.ndarray:
        # A buffer of the tile's size: a tile that claims to be a gigapixel is refused before memory is taken.
        return decode_into(data, np.empty((tile_height, tile_width, 3), np.uint8))

    return decode


def _jpeg2000_decoder(ycbcr: bool, tile_width: int, tile_height: int) -> Decoder:
    decode = jpeg2000_decoder(tile_width, tile_height)
    return (lambda data: _ycbcr_to_rgb(decode(data))) if ycbcr else decode


def _ycbcr_to_rgb(ycbcr: np.ndarray) -> np.ndarray:
    """JFIF's conversion, rounded where OpenSlide rounds it, to the last bit."""
    y, cb, cr = cv2.split(ycbcr)
    green = cv2.add(cv2.LUT(cb, _GREEN_OF_CB), cv2.LUT(cr, _GREEN_OF_CR)).astype(np.int32) >> 16
    parts = (cv2.LUT(cr, _RED_OF_CR), green, cv2.LUT(cb, _BLUE_OF_CB))
    return cv2.merge([cv2.add(y, part, dtype=cv2.CV_8U) for part in parts])


_CHROMA = np.arange(256) - 128.0
_RED_OF_CR, _BLUE_OF_CB = (np.rint(factor * _CHROMA).astype(np.int32) for factor in (1.402, 1.772))
# Green has two parts, which are added before they are rounded: in fixed point, the half for rounding in one of them.
_GREEN_OF_CB = np.rint(2**16 * (0.5 - 0.34414 * _CHROMA)).astype(np.int32)
_GREEN_OF_CR = np.rint(2**16 * -0.71414 * _CHROMA).astype(np.int32)
