"""Reads the levels of a slide with OpenSlide: all its formats, and the reference for the faster reader."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import cv2
import numpy as np
import openslide

from medsoft.errors import SlideError, TileError

OPAQUE = 255

CACHE_BYTES = 2**27
"""Decoded tiles kept: two rows of a slide 80,000 px wide, so that the next row of tiles finds them."""


class OpenSlideLevels:
    """Levels (see ``medsoft.slides.reading.levels.Levels``) of a file that OpenSlide opens.

    After a read error OpenSlide answers every further call on that handle with the same error; here the file is then
    opened again, and other threads do not notice.

    Args:
        path: the file.

    Raises:
        SlideError: OpenSlide cannot open it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle = self._open()
        self.properties = dict(self._handle.properties)
        self.sizes_px: tuple[tuple[int, int], ...] = self._handle.level_dimensions
        self.downsamples: tuple[float, ...] = self._handle.level_downsamples
        colour = self.properties.get("openslide.background-color", "FFFFFF")
        self._background = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)], np.float32)

    def read(self, level: int, x_px: int, y_px: int, width: int, height: int) -> np.ndarray:
        """Read a box of a level as (height, width, 3) uint8 RGB; what was not scanned has the background's colour.

        OpenSlide takes the corner in level-0 pixels: where a level's downsample is not a whole number, the box is read
        from the nearest of them, ``offset_px`` beside its place.

        Raises:
            TileError: a part of the box cannot be read.
            SlideError: nor can the file be opened again.
        """
        handle = self._handle
        try:
            return self._read(handle, level, x_px, y_px, width, height)
        except openslide.OpenSlideError:
            pass
        with self._lock:  # the error may be another thread's, left on the handle: only a fresh one tells
            fresh = self._open()
            try:
                pixels = self._read(fresh, level, x_px, y_px, width, height)
            except openslide.OpenSlideError as error:
                if self._handle is handle:
                    self._handle = self._open()
                raise TileError(self._words(error)) from None
            # The old handle is not closed: a thread may be in the middle of a read, and closes it when it lets go.
            self._handle = fresh
            return pixels

    def offset_px(self, level: int, x_px: int) -> float:
        """How far beside ``x_px`` (or y) a read begins, in pixels of the level; at most half a level-0 pixel."""
        return self._px0(level, x_px) / self.downsamples[level] - x_px

    def forget(self) -> None:
        """Give back the memory of decoded tiles."""
        self._handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))

    def close(self) -> None:
        """Close the file; no read may be under way."""
        self._handle.close()

    def _open(self) -> openslide.OpenSlide:
        try:
            handle = openslide.OpenSlide(self._path)
            handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        except openslide.OpenSlideUnsupportedFormatError:
            raise SlideError("is not in a format that OpenSlide reads") from None
        except openslide.OpenSlideError as error:
            raise SlideError(f"OpenSlide cannot open it: {self._words(error)}") from None
        return handle

    def _words(self, error: openslide.OpenSlideError) -> str:
        """What OpenSlide says, without the file's path: messages end in logs that more people read."""
        return str(error).replace(f"Reading {self._path}: ", "").replace(f"{self._path.parent}/", "")

    def _px0(self, level: int, x_px: int) -> int:
        return math.floor(x_px * self.downsamples[level] + 0.5)

    def _read(
        self, handle: openslide.OpenSlide, level: int, x_px: int, y_px: int, width: int, height: int
    ) -> np.ndarray:
        corner = (self._px0(level, x_px), self._px0(level, y_px))
        return flatten(np.asarray(handle.read_region(corner, level, (width, height))), self._background)


def flatten(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8, its colours not multiplied by alpha, as (H, W, 3) uint8 on a background of (3,) float32."""
    pixels = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
    alpha = rgba[..., 3:]
    if alpha.min() == OPAQUE:
        return pixels
    opacity = alpha.astype(np.float32) / OPAQUE
    return np.rint(pixels * opacity + background * (1 - opacity)).astype(np.uint8)
