"""One slide: its size, its true resolution, and tiles of any resolution.

Coordinates and sizes are (x, y) and (width, height); ``_px0`` are level-0 pixels, arrays are (H, W, C). The pictures
of label and glass that scanners put into a file carry patients' names: nothing here reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from medsoft.errors import SlideError, TileError
from medsoft.slides.reading.levels import Levels, read_padded
from medsoft.slides.reading.overview import overview_size, read_overview
from medsoft.slides.reading.read_tiles import read_tiles
from medsoft.slides.reading.resample import best_level, box_of_tile, check_mpp, resample
from medsoft.slides.reading.resolution import Resolution
from medsoft.storage.remote import is_remote, local_file

__all__ = ["Slide", "SlideError", "TileError", "open_slide"]

OF_SEVERAL_FILES = (".mrxs", ".vms", ".vmu")
"""Formats whose named file only lists the others."""


class Slide:
    """An open slide; made by ``open_slide``. Reads are safe from several threads at once.

    Attributes:
        path: the file; of a slide elsewhere, the one that it was fetched to.
        name: its name.
        size_px0: (width, height) of level 0.
        mpp: µm per level-0 pixel.
        mpp_origin: where ``mpp`` comes from: ``option`` or ``table`` (stated by the user), ``openslide.mpp-x`` (the
            scanner's own metadata, DICOM among them), ``ome-xml`` or ``tiff resolution``.
        bounds_px0: (x, y, width, height) of the part that holds the scan; the whole where the file does not say.
        level_downsamples: level-0 pixels a pixel of each level, finest first.
        reader: ``openslide``, ``tiff tiles``, ``dicom frames``, ``tiff`` or ``picture``.
        notes: what the user should know of it, a line each: a stated resolution against that of the file, …
        levels: the pixels themselves, level by level.
    """

    def __init__(
        self,
        path: Path,
        levels: Levels,
        resolution: Resolution,
        reader: str,
        bounds_px0: tuple[int, int, int, int] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.name = path.name
        self.size_px0 = levels.sizes_px[0]
        self.mpp = resolution.mpp
        self.mpp_origin = resolution.origin
        self.bounds_px0 = bounds_px0 or (0, 0, *self.size_px0)
        self.level_downsamples = levels.downsamples
        self.reader = reader
        self.notes = (*resolution.notes, *notes)
        self.levels = levels
        self._lent = ExitStack()

    def check_mpp(self, mpp: float) -> None:
        """Refuse a resolution that the slide does not have, before any tile is read.

        Raises:
            SlideError: level 0 is more than twice as coarse.
        """
        check_mpp(self.mpp, mpp)

    def best_level(self, mpp: float) -> int:
        """The level that is read for a resolution: the coarsest that is not coarser, but for 1 %."""
        return best_level(self.level_downsamples, self.mpp, mpp)

    def read_tile(self, x_px0: int, y_px0: int, size_px: int, mpp: float) -> np.ndarray:
        """Read a square at a resolution.

        The best level is read. Where it has the wanted resolution within 1 %, its pixels are returned as they are;
        otherwise a box of the wanted extent is resampled (within 1 % where it has 50 px or more).

        Args:
            x_px0: left side, level-0 pixels; may lie outside the slide.
            y_px0: upper side.
            size_px: side of the tile in its own pixels.
            mpp: µm per pixel of the tile.

        Returns:
            (size_px, size_px, 3) uint8 RGB; white outside the slide.

        Raises:
            TileError: a part of it cannot be read.
            SlideError: level 0 is more than twice as coarse as wanted.
        """
        self.check_mpp(mpp)
        box = box_of_tile(self.level_downsamples, self.mpp, x_px0, y_px0, size_px, mpp)
        pixels = read_padded(self.levels, box.level, box.x_px, box.y_px, box.size_px, box.size_px)
        return resample(pixels, size_px, size_px)

    def read_tiles(
        self, coords_N2_px0: np.ndarray, size_px: int, mpp: float, workers: int = 1
    ) -> Iterator[tuple[int, np.ndarray | TileError]]:
        """Read many tiles with threads that read ahead of the caller, row by row.

        Tiles come sorted by y, then x, whatever the order of ``coords_N2_px0``: neighbours share compressed tiles of
        the file, which are then decoded once. Coordinates in row order come back as 0, 1, 2, ….

        Args:
            coords_N2_px0: (N, 2) upper left corners (x, y).
            size_px: side of the tiles in their own pixels.
            mpp: µm per pixel of the tiles.
            workers: threads, 1 or more. What they hold in memory is bounded.

        Yields:
            The row in ``coords_N2_px0``, and the tile as ``read_tile`` returns it, or why it cannot be read.

        Raises:
            SlideError: level 0 is more than twice as coarse as wanted.
        """
        self.check_mpp(mpp)
        return read_tiles(lambda x, y: self.read_tile(x, y, size_px, mpp), coords_N2_px0, size_px, workers)

    def overview(self, mpp: float) -> np.ndarray:
        """The whole slide at a resolution; see ``overview_and_gaps``, whose first part this is."""
        return self.overview_and_gaps(mpp)[0]

    def overview_and_gaps(self, mpp: float) -> tuple[np.ndarray, np.ndarray]:
        """The whole slide at a resolution, and where it could not be read.

        Memory beyond the result is bounded, whatever the size of the slide and its levels.

        Args:
            mpp: µm per pixel.

        Returns:
            (H, W, 3) uint8 RGB with H = height_px0 · self.mpp / mpp rounded, W likewise, at least 1 each; and (H, W)
            bool, True where a pixel could not be read: it is white in the picture, and may well be tissue.

        Raises:
            SlideError: level 0 is more than twice as coarse as wanted.
        """
        self.check_mpp(mpp)
        size = overview_size(self.size_px0, self.mpp, mpp)
        found = read_overview(self.levels, self.best_level(mpp), *size)
        self.levels.forget()  # the level of an overview is seldom that of the tiles
        return found

    def close(self) -> None:
        """Give back the file; nothing can be read afterwards."""
        self.levels.close()
        self._lent.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_slide(path: str | Path, mpp: float | None = None, mpp_origin: str = "option") -> Slide:
    """Open a slide of a format that OpenSlide reads, DICOM among them, or a plain picture (PNG, JPEG, TIFF, …).

    Tiled TIFF files with JPEG or JPEG 2000 are decoded directly, where a spot check finds what OpenSlide finds.

    Args:
        path: the file, or its address as text (``s3://bucket/a.svs``), from which it is fetched until the slide is
            closed (``medsoft.storage.remote``); of a slide in several files, the one that OpenSlide takes.
        mpp: µm per level-0 pixel as the user states it, which goes before what the file says.
        mpp_origin: who stated it: ``option`` or ``table``.

    Raises:
        SlideError: the file is missing, damaged or of no format that is read here, or has no resolution, or an absurd
            one, and none was stated.
    """
    from medsoft.slides.reading.opening import open_levels  # OpenSlide and the decoders wait until a slide is opened

    if is_remote(str(path)) and str(path).lower().endswith(OF_SEVERAL_FILES):
        raise SlideError("is a slide of several files, of which one would be fetched: copy all of them to this machine")
    with ExitStack() as lent:
        try:
            file = lent.enter_context(local_file(path))
        except OSError as error:
            raise SlideError(f"cannot be fetched: {error.strerror or error}") from error
        opened = open_levels(file, mpp, mpp_origin)
        slide = Slide(file, opened.levels, opened.resolution, opened.reader, opened.bounds_px0, opened.notes)
        slide._lent = lent.pop_all()
        return slide
