"""Levels whose compressed tiles are decoded here, tile by tile, with OpenSlide as the judge and the fallback.

A spot check at opening compares with OpenSlide (``medsoft.slides.reading.direct.spot_check``), and every tile that is
missing from the file, or that does not decode without a warning, is left to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np

from medsoft.errors import TileError
from medsoft.slides.reading.levels import paste
from medsoft.slides.reading.openslide_reader import CACHE_BYTES, OpenSlideLevels
from medsoft.slides.reading.tile_cache import TileCache

Decoder = Callable[[bytes], np.ndarray]


class NotDirectError(Exception):
    """A file is not of the kind that is decoded here; the message says why."""


@dataclass(frozen=True)
class TiledLevel:
    """One level: where its tiles lie in a file, in row order, and how they are decoded.

    Attributes:
        path: the file.
        size_px: (width, height) of the level.
        tile_size_px: (width, height) of its tiles.
        offsets: where each tile begins in the file, (N,) int64.
        byte_counts: how long it is; 0 for those that are missing.
        decode: bytes of a tile -> (H, W, 3) uint8 RGB; raises ValueError or RuntimeError where they are damaged.
    """

    path: Path
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

    @property
    def tile_bytes(self) -> int:
        """Of a decoded tile."""
        return 3 * self.tile_size_px[0] * self.tile_size_px[1]

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


class DirectLevels:
    """Levels (see ``medsoft.slides.reading.levels.Levels``) of tiles that are decoded here.

    Args:
        tiled: the levels, finest first, as OpenSlide has them.
        truth: the same slide through OpenSlide; closed with this.

    Raises:
        NotDirectError: the tiles are so large that few would fit into memory.
    """

    def __init__(self, tiled: Sequence[TiledLevel], truth: OpenSlideLevels) -> None:
        self.sizes_px = truth.sizes_px
        self.downsamples = truth.downsamples
        self.tiled = tuple(tiled)
        largest = max(self.tiled, key=lambda level: level.tile_bytes)
        if largest.tile_bytes > CACHE_BYTES // 4:
            width, height = largest.tile_size_px
            raise NotDirectError(f"its tiles are very large: {width} x {height} px")
        self._truth = truth
        self._cache = TileCache(CACHE_BYTES // largest.tile_bytes)
        self._files = {path: os.open(path, os.O_RDONLY) for path in {level.path for level in self.tiled}}
        self._sizes = {path: os.fstat(file).st_size for path, file in self._files.items()}

    def read(self, level: int, x_px: int, y_px: int, width: int, height: int) -> np.ndarray:
        """Read a box of a level as (height, width, 3) uint8 RGB.

        Raises:
            TileError: a part of the box cannot be read.
        """
        found = self.tiled[level]
        box = np.empty((height, width, 3), np.uint8)
        for index in found.tiles_of(x_px, y_px, width, height):
            tile = self._tile(level, index)
            tile_x, tile_y, _, _ = found.tile_box(index)
            paste(tile, tile_x - x_px, tile_y - y_px, box)
        return box

    def forget(self) -> None:
        """Give back the memory of decoded tiles."""
        self._cache.clear()
        self._truth.forget()

    def close(self) -> None:
        """Close the files, also OpenSlide's; no read may be under way."""
        self.close_file()
        self._truth.close()

    def close_file(self) -> None:
        """Close the files here; OpenSlide goes on."""
        for file in self._files.values():
            os.close(file)

    def decode_tile(self, level: int, index: int) -> np.ndarray | None:
        """Decode one tile here, past cache and OpenSlide; None where it is missing or damaged."""
        found = self.tiled[level]
        offset, count = int(found.offsets[index]), int(found.byte_counts[index])
        if count == 0 or offset + count > self._sizes[found.path]:
            return None
        try:
            tile = found.decode(os.pread(self._files[found.path], count, offset))
        except (ValueError, RuntimeError, MemoryError):  # of simplejpeg; of imagecodecs
            return None
        tile_width, tile_height = found.tile_size_px
        return tile if tile.shape == (tile_height, tile_width, 3) and tile.dtype == np.uint8 else None

    def _tile(self, level: int, index: int) -> np.ndarray:
        """A tile, at least as large as its part inside the level."""

        def decode() -> np.ndarray:
            tile = self.decode_tile(level, index)
            return self._truth.read(level, *self.tiled[level].tile_box(index)) if tile is None else tile

        try:
            return self._cache.get((level, index), decode)
        except TileError as error:
            raise TileError(error.reason) from None  # the cache's own would grow a traceback with every caller


def jpeg2000_decoder(tile_width: int, tile_height: int) -> Decoder:
    """Decode bare codestreams of tiles of a size, in the colours that they hold."""

    def decode(data: bytes) -> np.ndarray:
        # A buffer of the tile's size: a tile that claims to be a gigapixel is refused before memory is taken.
        tile = np.empty((tile_height, tile_width, 3), np.uint8)
        imagecodecs.jpeg2k_decode(data, out=tile)
        return tile

    return decode
