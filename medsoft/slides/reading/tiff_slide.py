"""Reads TIFF files that are not in a scanner's format, tiled or not (``medsoft.data.tiff``).

Tiles are decoded one by one, for pictures of any size. A file of strips is decoded whole, up to the largest picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from tifffile import TiffPage

from medsoft.data.images.read import MAX_PIXELS, MIN_SIDE
from medsoft.data.tiff.layout import MAGIC, SAVE_AS_RGB, Layout, layout_of, open_tiff
from medsoft.data.tiff.pixels import check_depth, check_segments, segment, shown, to_8_bits, whole_picture
from medsoft.errors import ReadError, SlideError, TileError
from medsoft.slides.reading import resolution
from medsoft.slides.reading.levels import WHITE, paste
from medsoft.slides.reading.openslide_reader import CACHE_BYTES
from medsoft.slides.reading.resolution import Resolution
from medsoft.slides.reading.tile_cache import TileCache

Result = TypeVar("Result")


class TiffSlide:
    """Levels (see ``medsoft.slides.reading.levels.Levels``) of a TIFF.

    As a context manager it closes the file when the block ends, unless ``keep`` was called.

    Args:
        path: the file.

    Raises:
        SlideError: it is damaged, not one picture of known colours and range, or not upright.
    """

    def __init__(self, path: Path) -> None:
        self._kept = False
        self._file = os.open(path, os.O_RDONLY)
        try:
            self._size = os.fstat(self._file).st_size
            self._tiff = _plain_errors(lambda: open_tiff(path))
        except BaseException:
            os.close(self._file)
            raise
        try:
            self.layout: Layout = _plain_errors(lambda: layout_of(self._tiff))
            self.sizes_px = tuple(level.size_px for level in self.layout.levels)
            self._check()
        except BaseException:
            self.close()
            raise
        width, height = self.sizes_px[0]
        # As OpenSlide has them: the mean of both sides, which whole pixels make a little different.
        self.downsamples = tuple((width / w + height / h) / 2 for w, h in self.sizes_px)
        self.is_tiled = self.layout.levels[0].page.is_tiled
        self._cache = TileCache(max(8, CACHE_BYTES // (3 * max(1, _largest_segment(self.layout)))))
        self._whole: np.ndarray | None = None

    def _check(self) -> None:
        layout = self.layout
        width, height = self.sizes_px[0]
        if min(width, height) < MIN_SIDE:
            raise SlideError(f"has {width} x {height} pixels: each side must have at least {MIN_SIDE}")
        tiled = layout.levels[0].page.is_tiled
        if not tiled and width * height > MAX_PIXELS:
            raise SlideError(
                f"has {width} x {height} pixels in strips, more than the limit of {MAX_PIXELS}: save it in tiles"
            )
        if layout.orientation != 1:
            raise SlideError(
                f"is stored turned or mirrored (Orientation {layout.orientation}), which viewers of slides do not "
                "agree on: save it upright"
            )
        _plain_errors(lambda: check_depth(layout))
        for level in layout.levels:
            _plain_errors(partial(check_segments, level, self._size, may_be_missing=tiled))

    def resolution(self, stated: float | None, stated_origin: str) -> Resolution:
        """µm per pixel: as stated, or as OME-XML or the tags say.

        Raises:
            SlideError: none is known, or it is none of a slide.
        """
        page = self.layout.levels[0].page
        tags = resolution.from_page(page)
        ome: tuple[float, float] | None = None
        if self.layout.ome is not None:
            try:
                ome = self.layout.ome.um_per_px()
            except ReadError as error:
                if stated is None:
                    raise SlideError(f"{error.reason}: {resolution.HOW_TO_STATE}") from None
        if ome is None:
            return resolution.choose(stated, stated_origin, tags, resolution.TIFF_TAGS)
        return resolution.choose(stated, stated_origin, ome, resolution.OME_XML, (tags, resolution.TIFF_TAGS))

    def keep(self) -> TiffSlide:
        """Leave the file open when the block ends; strips are decoded now.

        Raises:
            SlideError: they are damaged.
        """
        if not self.is_tiled:
            self._whole = _plain_errors(lambda: self._rgb(whole_picture(self.layout, self._read)))
        self._kept = True
        return self

    def read(self, level: int, x_px: int, y_px: int, width: int, height: int) -> np.ndarray:
        """Read a box of a level as (height, width, 3) uint8 RGB; tiles that are missing on purpose are white.

        Raises:
            TileError: a part of the box cannot be read.
        """
        if self._whole is not None and level == 0:
            return self._whole[y_px : y_px + height, x_px : x_px + width].copy()
        box = np.full((height, width, 3), WHITE, np.uint8)
        tiles = self.layout.levels[level]
        tile_width, tile_height = tiles.segment_px
        for row in range(y_px // tile_height, -(-(y_px + height) // tile_height)):
            for column in range(x_px // tile_width, -(-(x_px + width) // tile_width)):
                tile = self._tile(level, row * tiles.columns + column)
                paste(tile, column * tile_width - x_px, row * tile_height - y_px, box)
        return box

    def forget(self) -> None:
        """Give back the memory of decoded tiles."""
        self._cache.clear()

    def close(self) -> None:
        """Close the file; no read may be under way."""
        self._tiff.close()
        os.close(self._file)

    def __enter__(self) -> TiffSlide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            self.close()

    def _tile(self, level: int, index: int) -> np.ndarray:
        tiles = self.layout.levels[level]

        def decode() -> np.ndarray:
            if all(page.databytecounts[first + index] == 0 for page, first in tiles.planes):
                return np.full((*tiles.segment_px[::-1], 3), WHITE, np.uint8)
            try:
                return self._rgb(shown(segment(tiles, index, self._read), self.layout))
            except ReadError as error:
                raise TileError(error.reason) from None
            except Exception as error:  # decoders answer hostile bytes with every kind of exception
                raise TileError(f"cannot be decoded ({type(error).__name__})") from None

        try:
            return self._cache.get((level, index), decode)
        except TileError as error:
            raise TileError(error.reason) from None  # the cache's own would grow a traceback with every caller

    def _read(self, offset: int, count: int) -> bytes:
        return os.pread(self._file, count, offset)

    def _rgb(self, pixels: np.ndarray) -> np.ndarray:
        small = to_8_bits(pixels, self.layout)
        return np.repeat(small[..., None], 3, axis=2) if small.ndim == 2 else small


def check_depth_of_tiles(path: Path) -> None:
    """Refuse slides of scanners, read through OpenSlide, that have more than 8 bits per channel.

    OpenSlide keeps the upper 8 of 16 bits, which makes 12-bit pictures nearly black.

    Raises:
        SlideError: there are such tiles.
    """
    with path.open("rb") as file:
        if not file.read(4).startswith(MAGIC):
            return
    try:
        with open_tiff(path) as tiff:
            tiles = [page for page in tiff.pages if isinstance(page, TiffPage) and page.is_tiled]
            deep = max((page.bitspersample for page in tiles), default=8)
    except Exception:  # what tifffile cannot parse, OpenSlide may
        return
    if deep > 8:
        raise SlideError(f"has {deep} bits per channel, of which OpenSlide would keep the upper 8: {SAVE_AS_RGB}")


def _largest_segment(layout: Layout) -> int:
    return max(width * height for width, height in (level.segment_px for level in layout.levels))


def _plain_errors(function: Callable[[], Result]) -> Result:
    """``function()``; what it raises becomes one sentence on the slide.

    Raises:
        SlideError: see above.
    """
    try:
        return function()
    except SlideError:
        raise
    except ReadError as error:
        raise SlideError(error.reason) from None
    except MemoryError:
        raise SlideError("does not fit into memory") from None
    except Exception as error:  # tifffile and decoders answer hostile files with every kind of exception
        raise SlideError(f"is damaged or cut short ({type(error).__name__}: {error})") from None
