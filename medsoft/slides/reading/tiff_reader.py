"""Reads the levels of a tiled TIFF with JPEG or JPEG 2000 directly, several times faster than OpenSlide.

OpenSlide stays the truth: a spot check at opening compares with it, and every tile that is missing from the file, or
that does not decode without a warning, is left to it.

Aperio's SVS keeps JPEG tiles without the tables, which stand once in the tag JPEGTables, and without a word on their
colours, which the tag PhotometricInterpretation gives: RGB or YCbCr. Its two kinds of JPEG 2000 (compression 33003 and
33005) are bare codestreams, YCbCr and RGB.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from medsoft.data.formats.jpeg import tiff_jpeg_decoder
from medsoft.errors import TileError
from medsoft.slides.reading.openslide_reader import CACHE_BYTES, OpenSlideLevels
from medsoft.slides.reading.tile_cache import TileCache

VENDORS = ("aperio", "generic-tiff")
"""OpenSlide's names of the formats whose levels are plain tiled pages, without overlaps or shifts between tiles."""

Decoder = Callable[[bytes], np.ndarray]


class NotDirectError(Exception):
    """A file is not of the kind that is decoded here; the message says why."""


@dataclass(frozen=True)
class TiledPage:
    """One level: where its tiles lie in the file, in row order, and how they are decoded."""

    size_px: tuple[int, int]
    tile_size_px: tuple[int, int]
    offsets: np.ndarray
    byte_counts: np.ndarray
    decode: Decoder

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return -(-self.size_px[0] // self.tile_size_px[0])

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return -(-self.size_px[1] // self.tile_size_px[1])

    def tiles_of(self, x_px: int, y_px: int, width: int, height: int) -> list[int]:
        """Indices of the tiles that a box of the level meets, in row order."""
        tile_width, tile_height = self.tile_size_px
        rows = range(max(0, y_px // tile_height), min(self.rows, -(-(y_px + height) // tile_height)))
        columns = range(max(0, x_px // tile_width), min(self.columns, -(-(x_px + width) // tile_width)))
        return [row * self.columns + column for row in rows for column in columns]

    def tile_box(self, index: int) -> tuple[int, int, int, int]:
        """(x, y, width, height) of a tile's part inside the level."""
        (tile_width, tile_height), (width, height) = self.tile_size_px, self.size_px
        x, y = index % self.columns * tile_width, index // self.columns * tile_height
        return x, y, min(tile_width, width - x), min(tile_height, height - y)


class TiffLevels:
    """Levels (see ``medsoft.slides.reading.levels.Levels``) of a tiled TIFF.

    Args:
        path: the file.
        truth: the same file through OpenSlide; closed with this.

    Raises:
        NotDirectError: the file has another compression, or pages that are not OpenSlide's levels.
    """

    def __init__(self, path: Path, truth: OpenSlideLevels) -> None:
        self.sizes_px = truth.sizes_px
        self.downsamples = truth.downsamples
        self.pages = _tiled_pages(path, truth)
        self._truth = truth
        self._cache = TileCache(CACHE_BYTES // max(3 * w * h for w, h in (page.tile_size_px for page in self.pages)))
        self._file = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._file).st_size

    def read(self, level: int, x_px: int, y_px: int, width: int, height: int) -> np.ndarray:
        """Read a box of a level as (height, width, 3) uint8 RGB.

        Raises:
            TileError: a part of the box cannot be read.
        """
        page = self.pages[level]
        box = np.empty((height, width, 3), np.uint8)
        for index in page.tiles_of(x_px, y_px, width, height):
            tile = self._tile(level, index)
            tile_x, tile_y, _, _ = page.tile_box(index)
            left, top = tile_x - x_px, tile_y - y_px  # of the tile in the box; negative where it begins before it
            part = tile[max(0, -top) : height - top, max(0, -left) : width - left]
            left, top = max(0, left), max(0, top)
            box[top : top + part.shape[0], left : left + part.shape[1]] = part
        return box

    def close(self) -> None:
        """Close the file, also OpenSlide's; no read may be under way."""
        self.close_file()
        self._truth.close()

    def close_file(self) -> None:
        """Close the file here; OpenSlide goes on."""
        os.close(self._file)

    def decode_tile(self, level: int, index: int) -> np.ndarray | None:
        """Decode one tile here, past cache and OpenSlide; None where it is missing or damaged."""
        page = self.pages[level]
        offset, count = int(page.offsets[index]), int(page.byte_counts[index])
        if count == 0 or offset + count > self._size:
            return None
        try:
            tile = page.decode(os.pread(self._file, count, offset))
        except (ValueError, RuntimeError, MemoryError):  # of simplejpeg; of imagecodecs
            return None
        tile_width, tile_height = page.tile_size_px
        return tile if tile.shape == (tile_height, tile_width, 3) and tile.dtype == np.uint8 else None

    def _tile(self, level: int, index: int) -> np.ndarray:
        """A tile, at least as large as its part inside the level."""

        def decode() -> np.ndarray:
            tile = self.decode_tile(level, index)
            return self._truth.read(level, *self.pages[level].tile_box(index)) if tile is None else tile

        try:
            return self._cache.get((level, index), decode)
        except TileError as error:
            raise TileError(error.reason) from None  # the cache's own would grow a traceback with every caller


def _tiled_pages(path: Path, truth: OpenSlideLevels) -> tuple[TiledPage, ...]:
    """The page of each level. Label and macro pictures are not tiled, and never among them."""
    vendor = truth.properties.get("openslide.vendor")
    if vendor not in VENDORS:
        raise NotDirectError(f"its format is {vendor}")
    found = []
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
        tiled = {(page.imagewidth, page.imagelength): page for page in reversed(pages)}  # of equal sizes, the first
        for size_px in truth.sizes_px:
            page = tiled.get(size_px)
            if page is None:
                raise NotDirectError(f"no tiled page has the size of OpenSlide's level {size_px}")
            found.append(_tiled_page(page))
    return tuple(found)


def _tiled_page(page: tifffile.TiffPage) -> TiledPage:
    plain = page.samplesperpixel == 3 and page.bitspersample == 8 and page.planarconfig == 1 and page.imagedepth == 1
    if not plain:
        raise NotDirectError("its pixels are not 8-bit RGB")
    size_px, tile_size_px = (page.imagewidth, page.imagelength), (page.tilewidth, page.tilelength)
    offsets, byte_counts = (np.asarray(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
    found = TiledPage(size_px, tile_size_px, offsets, byte_counts, _decoder(page))
    if not len(found.offsets) == len(found.byte_counts) == found.columns * found.rows:
        raise NotDirectError("its pages do not list a place for each tile")
    if 3 * tile_size_px[0] * tile_size_px[1] > CACHE_BYTES // 4:
        raise NotDirectError(f"its tiles are very large: {tile_size_px[0]} x {tile_size_px[1]} px")
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
    def decode(data: bytes) -> np.ndarray:
        tile = np.empty((tile_height, tile_width, 3), np.uint8)  # as above
        imagecodecs.jpeg2k_decode(data, out=tile)
        return _ycbcr_to_rgb(tile) if ycbcr else tile

    return decode


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
