"""Tiles of slides as samples of a table: ``slide.svs#tile=x,y,size,mpp``, read where and when they are needed.

A slide stays open for the next of its tiles: a few slides in each process, as a table names tiles slide by slide.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsoft.data.images.read import TILE
from medsoft.errors import ReadError, SlideError
from medsoft.slides.reading.slide import Slide, open_slide

MOST_OPEN = 4
"""Slides that stay open in a process."""
MOST_PX = 16_384


@dataclass(frozen=True)
class TilePlace:
    """A tile of a slide.

    Attributes:
        x_px0: left edge in level-0 pixels, from the slide's corner.
        y_px0: top edge.
        size_px: side of the tile in its own pixels.
        mpp: µm per pixel of the tile.
        slide_mpp: µm per level-0 pixel as the user states it; None: the file says it.
    """

    x_px0: int
    y_px0: int
    size_px: int
    mpp: float
    slide_mpp: float | None = None

    def of(self, slide: str) -> str:
        """The path of the tile, as tables name it."""
        values = [self.x_px0, self.y_px0, self.size_px, self.mpp, *([] if self.slide_mpp is None else [self.slide_mpp])]
        return f"{slide}#{TILE}{','.join(f'{value:.12g}' for value in values)}"

    @classmethod
    def parse(cls, words: str) -> TilePlace:
        """Read what follows ``tile=``.

        Raises:
            ReadError: it is no place of a tile.
        """
        try:
            values = [float(word) for word in words.split(",")]
            x, y, size, mpp, *rest = values
            place = cls(int(x), int(y), int(size), mpp, *rest)
        except (ValueError, TypeError, OverflowError):
            raise ReadError(
                f"{TILE}{words:.60} is no tile: write {TILE}x,y,size,mpp with the corner in level-0 pixels"
            ) from None
        whole = (place.x_px0, place.y_px0, place.size_px) == (x, y, size)
        if not (whole and 1 <= size <= MOST_PX and 0 < mpp < 1000):
            raise ReadError(
                f"{TILE}{words:.60} is no tile: whole numbers for x, y and size, up to {MOST_PX} px, and mpp above 0"
            )
        return place


class _OpenSlides:
    """The slides that were read last, open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slides: OrderedDict[tuple[str, float | None], Slide] = OrderedDict()

    def get(self, file: str, mpp: float | None) -> Slide:
        with self._lock:
            key = file, mpp
            if key not in self._slides:
                self._slides[key] = open_slide(Path(file), mpp)
                while len(self._slides) > MOST_OPEN:
                    self._slides.popitem(last=False)  # closed when the last reader lets it go
            self._slides.move_to_end(key)
            return self._slides[key]

    def forget(self) -> None:
        """After a fork: another process has these files."""
        self._lock = threading.Lock()
        self._slides = OrderedDict()


_open_slides = _OpenSlides()
os.register_at_fork(after_in_child=_open_slides.forget)


def read_tile_sample(file: str, words: str) -> np.ndarray:
    """Read a tile.

    Args:
        file: the slide.
        words: what follows ``tile=``.

    Returns:
        (size, size, 3) uint8 RGB.

    Raises:
        ReadError: the slide cannot be opened, the place is none, lies outside the slide, or cannot be read.
    """
    place = TilePlace.parse(words)
    try:
        slide = _open_slides.get(file, place.slide_mpp)
        width, height = slide.size_px0
        if not (0 <= place.x_px0 < width and 0 <= place.y_px0 < height):
            raise ReadError(f"has {width} x {height} pixels: the tile at {place.x_px0}, {place.y_px0} lies outside")
        return slide.read_tile(place.x_px0, place.y_px0, place.size_px, place.mpp)
    except SlideError as error:
        raise ReadError(error.reason) from None
