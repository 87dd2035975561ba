"""A slide as tiles of every zoom, read by the project's own readers; and the maps that lie over it, in the same tiles.

Level ``top`` has the slide's own pixels, each level below half as many along a side, as Deep Zoom counts them. A map is
drawn at the resolution of each level, so that its edges lie where those of the slide do at every zoom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from medsoft.errors import TileError
from medsoft.slides.heatmaps.heatmap import Heatmap, colours_of, paint
from medsoft.slides.reading.slide import Slide

Pixels = npt.NDArray[np.uint8]

TILE_PX = 256
MOST_READ = 16
"""Pixels of the file's coarsest level along a side for one of a tile: what is coarser is left to the browser, so that a
tile of a slide without a pyramid does not read all of it."""
JPEG_QUALITY = 85
UNREADABLE = 190
"""Grey of a tile that cannot be read."""
LINE = (30, 90, 160, 200)
"""RGBA of the outlines of tiles."""


@dataclass(frozen=True)
class Pyramid:
    """Sizes of the levels of a slide.

    Attributes:
        width: of the slide, level-0 pixels.
        height: likewise.
        coarsest: level-0 pixels a pixel of the coarsest level of the file, along a side.
    """

    width: int
    height: int
    coarsest: float

    @property
    def top(self) -> int:
        """The level with the slide's own pixels."""
        return max(1, math.ceil(math.log2(max(self.width, self.height))))

    @property
    def least(self) -> int:
        """The coarsest level that is given."""
        return max(0, self.top - math.floor(math.log2(self.coarsest * MOST_READ)))

    def downsample(self, level: int) -> int:
        """Level-0 pixels a pixel of a level."""
        return int(2 ** (self.top - level))

    def size(self, level: int) -> tuple[int, int]:
        """(width, height) of a level in its own pixels."""
        by = self.downsample(level)
        return math.ceil(self.width / by), math.ceil(self.height / by)

    def box(self, level: int, column: int, row: int) -> tuple[int, int, int, int] | None:
        """(x, y, width, height) of a tile in pixels of its level; None where there is none."""
        if not self.least <= level <= self.top or column < 0 or row < 0:
            return None
        width, height = self.size(level)
        x, y = column * TILE_PX, row * TILE_PX
        return None if x >= width or y >= height else (x, y, min(TILE_PX, width - x), min(TILE_PX, height - y))


def pyramid_of(slide: Slide) -> Pyramid:
    """The pyramid of an open slide."""
    return Pyramid(*slide.size_px0, slide.level_downsamples[-1])


def slide_tile(slide: Slide, pyramid: Pyramid, level: int, box: tuple[int, int, int, int]) -> bytes:
    """A tile of a slide as JPEG; grey where it cannot be read.

    Args:
        slide: open.
        pyramid: of the slide.
        level: of the pyramid.
        box: of ``Pyramid.box``.

    Raises:
        SlideError: the file has gone.
    """
    x, y, width, height = box
    by = pyramid.downsample(level)
    try:
        pixels = slide.read_tile(x * by, y * by, TILE_PX, slide.mpp * by)[:height, :width]
    except TileError:
        pixels = np.full((height, width, 3), UNREADABLE, np.uint8)
    return jpeg(pixels)


def jpeg(pixels: Pixels) -> bytes:
    """(H, W, 3) RGB as JPEG."""
    done, coded = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert done
    return coded.tobytes()


def png(pixels: Pixels) -> bytes:
    """(H, W, 4) RGBA or (H, W, 3) RGB as PNG."""
    code = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    done, coded = cv2.imencode(".png", cv2.cvtColor(pixels, code), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done
    return coded.tobytes()


class MapTiles:
    """The map of a heatmap as tiles; see ``medsoft.slides.heatmaps.heatmap``, whose colours it has.

    Args:
        heatmap: contributions of tiles, their places and their size.
    """

    def __init__(self, heatmap: Heatmap) -> None:
        self.heatmap = heatmap
        self._end_N2 = heatmap.coords_N2_px0 + math.ceil(heatmap.tile_px0)

    @cached_property
    def limit(self) -> float:
        """Contribution at the ends of the colour scale."""
        return self.heatmap.limit

    def tile(self, pyramid: Pyramid, level: int, box: tuple[int, int, int, int]) -> bytes:
        """A tile as PNG, transparent where no tile of the slide lies; arguments as of ``slide_tile``."""
        x, y, width, height = box
        inside = self._inside(pyramid, level, box)
        pixels = np.zeros((height, width, 4), np.uint8)
        if inside.any():
            by = pyramid.downsample(level)
            view = (x * by, y * by, width * by, height * by)
            part = replace(
                self.heatmap,
                bounds_px0=view,
                coords_N2_px0=self.heatmap.coords_N2_px0[inside],
                contributions_N=self.heatmap.contributions_N[inside],
            )
            values_HW = paint(part, width, height)
            there_HW = ~np.isnan(values_HW)
            pixels[there_HW, :3] = np.round(colours_of(values_HW[there_HW], self.limit)).astype(np.uint8)
            pixels[there_HW, 3] = 255
        return png(pixels)

    def _inside(self, pyramid: Pyramid, level: int, box: tuple[int, int, int, int]) -> npt.NDArray[np.bool_]:
        x, y, width, height = (side * pyramid.downsample(level) for side in box)
        low_N2, end_N2 = self.heatmap.coords_N2_px0, self._end_N2
        overlap_N2 = (low_N2 < (x + width, y + height)) & (end_N2 > (x, y))
        found: npt.NDArray[np.bool_] = np.asarray(overlap_N2[:, 0] & overlap_N2[:, 1])
        return found


class GridTiles:
    """The outlines of tiles, likewise.

    Args:
        coords_N2_px0: (N, 2) upper left corners.
        tile_px0: side of a tile in level-0 pixels.
    """

    def __init__(self, coords_N2_px0: npt.NDArray[np.int64], tile_px0: float) -> None:
        self._low_N2, self._end_N2 = coords_N2_px0, coords_N2_px0 + tile_px0

    def tile(self, pyramid: Pyramid, level: int, box: tuple[int, int, int, int]) -> bytes:
        """A tile as PNG; arguments as of ``slide_tile``."""
        x, y, width, height = box
        by = pyramid.downsample(level)
        low_N2, end_N2 = (np.round(ends / by).astype(np.int64) - (x, y) for ends in (self._low_N2, self._end_N2))
        inside_N = ((low_N2 < (width, height)) & (end_N2 > 0)).all(axis=1)
        pixels = np.zeros((height, width, 4), np.uint8)
        for (left, top), (right, bottom) in zip(low_N2[inside_N].tolist(), end_N2[inside_N].tolist(), strict=True):
            cv2.rectangle(pixels, (left, top), (right - 1, bottom - 1), LINE)
        return png(pixels)
