"""Reads a plain image (PNG, JPEG, …; TIFF has its own reader) as a slide of one level, decoded whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medsoft.data.images.read import read_image
from medsoft.errors import ReadError, SlideError


class PictureLevels:
    """Levels (see ``medsoft.slides.reading.levels.Levels``) of a picture in memory, upright as its EXIF data says.

    Args:
        path: the file; more than ``medsoft.data.images.read.MAX_PIXELS`` pixels are refused before anything is decoded.

    Raises:
        SlideError: it is not a picture, is damaged, too large, or has more than 8 bits per channel.
    """

    def __init__(self, path: Path) -> None:
        try:
            pixels = read_image(path)
        except ReadError as error:
            raise SlideError(error.reason) from None
        if pixels.dtype != np.uint8:
            raise SlideError(f"has pixels of type {pixels.dtype}: save it with 8 bits per channel")
        self._pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))  # grey ones have one channel
        self.sizes_px: tuple[tuple[int, int], ...] = ((pixels.shape[1], pixels.shape[0]),)
        self.downsamples: tuple[float, ...] = (1.0,)

    def read(self, level: int, x_px: int, y_px: int, width: int, height: int) -> np.ndarray:
        """Read a box as (height, width, 3) uint8 RGB."""
        return self._pixels[y_px : y_px + height, x_px : x_px + width].copy()

    def forget(self) -> None:
        """Nothing: the picture is needed as long as it is open."""

    def close(self) -> None:
        """Give back the memory."""
        self._pixels = np.empty((0, 0, 3), np.uint8)
