"""The ways of reading tiles that are compared: medsoft's, a bare OpenSlide loop, and the decoder alone.

Each is made anew for every measurement, so that none finds what it read before in its own cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide

from medsoft.errors import TileError
from medsoft.slides.reading.direct.levels import DirectLevels
from medsoft.slides.reading.levels import read_padded
from medsoft.slides.reading.resample import box_of_tile, resample
from medsoft.slides.reading.slide import Slide, open_slide


@dataclass(frozen=True)
class Job:
    """Tiles to read.

    Attributes:
        path: of the slide.
        slide_mpp: µm per level-0 pixel.
        mpp: of the tiles.
        tile_px: side of the tiles.
        coords_N2_px0: (N, 2) int64 corners (x, y), in row order, all tiles wholly inside the slide.
        workers: threads.
    """

    path: Path
    slide_mpp: float
    mpp: float
    tile_px: int
    coords_N2_px0: np.ndarray
    workers: int = 1


Keep = Callable[[int, np.ndarray | None], object]
"""Called with the row and the tile; None where it could not be read."""

Run = Callable[[Keep], None]
"""One measurement: reads all tiles of the job."""

Close = Callable[[], object]


def job_for(slide: Slide, mpp: float, tile_px: int, max_tiles: int) -> Job:
    """Tiles side by side without overlap; of a large slide, a block in its middle.

    Args:
        slide: open.
        mpp: resolution of the tiles.
        tile_px: side of the tiles.
        max_tiles: at most so many; the block is at most the root of it wide and high.
    """
    step = tile_px * mpp / slide.mpp
    columns, rows = (int(side // step) for side in slide.size_px0)
    taken_columns, taken_rows = min(columns, math.isqrt(max_tiles)), min(rows, math.isqrt(max_tiles))
    first_column, first_row = (columns - taken_columns) // 2, (rows - taken_rows) // 2
    coords = [
        (round((first_column + column) * step), round((first_row + row) * step))
        for row in range(taken_rows)
        for column in range(taken_columns)
    ]
    return Job(slide.path, slide.mpp, mpp, tile_px, np.array(coords, np.int64).reshape(-1, 2))


def with_medsoft(job: Job) -> tuple[Run, Close]:
    """Open the slide; what reads it as the product does, and what closes it."""
    slide = open_slide(job.path, job.slide_mpp)

    def run(keep: Keep) -> None:
        for row, tile in slide.read_tiles(job.coords_N2_px0, job.tile_px, job.mpp, job.workers):
            keep(row, None if isinstance(tile, TileError) else tile)

    return run, slide.close


def from_level_0(job: Job) -> tuple[Run, Close]:
    """The same, but that it reads level 0 and shrinks it, whatever other levels there are."""
    slide = open_slide(job.path, job.slide_mpp)

    def read(row: int, _: int) -> np.ndarray | None:
        x, y = (int(value) for value in job.coords_N2_px0[row])
        box = box_of_tile((1.0,), slide.mpp, x, y, job.tile_px, job.mpp)
        try:
            pixels = read_padded(slide.levels, 0, box.x_px, box.y_px, box.size_px, box.size_px)
        except TileError:
            return None
        return resample(pixels, job.tile_px, job.tile_px)

    return _in_threads(read, len(job.coords_N2_px0), job.workers), slide.close


def with_openslide(job: Job) -> tuple[Run, Close]:
    """A bare loop: read_region of the best level, without alpha, shrunk where that level is finer than wanted.

    Each thread has a handle of its own, as a read error stays on the handle.
    """
    handles = [openslide.OpenSlide(job.path) for _ in range(job.workers)]
    downsamples = handles[0].level_downsamples

    def read(row: int, worker: int) -> np.ndarray | None:
        x, y = (int(value) for value in job.coords_N2_px0[row])
        box = box_of_tile(downsamples, job.slide_mpp, x, y, job.tile_px, job.mpp)
        try:
            region = handles[worker].read_region((x, y), box.level, (box.size_px, box.size_px))
        except openslide.OpenSlideError:
            handles[worker] = openslide.OpenSlide(job.path)
            return None
        return resample(np.asarray(region.convert("RGB")), job.tile_px, job.tile_px)

    def close() -> None:
        for handle in handles:
            handle.close()

    return _in_threads(read, len(job.coords_N2_px0), job.workers), close


def with_the_decoder(job: Job) -> tuple[Run, Close]:
    """Every compressed tile of the file that the job needs, decoded once: no tile is put together from them.

    Args:
        job: of a slide whose tiles medsoft decodes itself.
    """
    slide = open_slide(job.path, job.slide_mpp)
    levels = slide.levels
    assert isinstance(levels, DirectLevels)
    needed: dict[tuple[int, int], None] = {}
    for x, y in job.coords_N2_px0:
        box = box_of_tile(levels.downsamples, job.slide_mpp, int(x), int(y), job.tile_px, job.mpp)
        tiled = levels.tiled[box.level]
        needed |= {(box.level, index): None for index in tiled.tiles_of(box.x_px, box.y_px, box.size_px, box.size_px)}
    tiles = list(needed)
    return _in_threads(lambda index, _: levels.decode_tile(*tiles[index]), len(tiles), job.workers), slide.close


def _in_threads(read: Callable[[int, int], np.ndarray | None], number: int, workers: int) -> Run:
    """Call ``read`` with 0 to number - 1 and the worker: in a plain loop, or in equal parts, one a thread."""
    bounds = np.linspace(0, number, workers + 1).astype(int).tolist()

    def part(worker: int, keep: Keep) -> None:
        for row in range(bounds[worker], bounds[worker + 1]):
            keep(row, read(row, worker))

    def run(keep: Keep) -> None:
        if workers == 1:
            part(0, keep)
            return
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda worker: part(worker, keep), range(workers)))

    return run
