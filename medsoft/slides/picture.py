"""A plain picture (PNG, JPEG, TIFF, …) as a slide of one level, decoded whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from medsoft.data.read import ReadError, read_image
from medsoft.slides.errors import SlideError
from medsoft.slides.resolution import from_tiff_tags


class PictureLevels:
    """Levels (see ``medsoft.slides.levels.Levels``) of a picture in memory, upright as its EXIF data says.

    Args:
        path: the file; more than ``medsoft.data.read.MAX_PIXELS`` pixels are refused before anything is decoded.

    Raises:
        SlideError: it is not a picture, is damaged, too large, or has more than 8 bits a channel.
    """

    def __init__(self, path: Path) -> None:
        try:
            pixels = read_image(path)
        except ReadError as error:
            raise SlideError(error.reason) from None
        if pixels.dtype != np.uint8:
            raise SlideError(f"has pixels of type {pixels.dtype}: save it with 8 bits a channel")
        self._pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))  # grey ones have one channel
        self.sizes_px: tuple[tuple[int, int], ...] = ((pixels.shape[1], pixels.shape[0]),)
        self.downsamples: tuple[float, ...] = (1.0,)

    def read(self, level: int, x_px: int, y_px: int, width: int, height: int) -> np.ndarray:
        """Read a box as (height, width, 3) uint8 RGB."""
        return self._pixels[y_px : y_px + height, x_px : x_px + width].copy()

    def close(self) -> None:
        """Give back the memory."""
        self._pixels = np.empty((0, 0, 3), np.uint8)


def resolution_of_tiff(path: Path) -> tuple[float, float] | None:
    """µm/px along x and y as the tags of a TIFF say; None for other files, and where they say nothing.

    The dots per inch of PNG and JPEG files are for printing, and not asked for.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            tags = tiff.pages.first.tags
            return from_tiff_tags(tags.valueof(282), tags.valueof(283), tags.valueof(296, 2))
    except Exception:  # tifffile answers other files and hostile tags with every kind of exception
        return None
