"""Checks that the feature files of a run will fit on the disk before the work starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsoft.data.features.native import CHUNK_ROWS
from medsoft.errors import InputError, SlideError
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.run import open_source
from medsoft.slides.tiling.settings import TileSettings
from medsoft.slides.tiling.tiling_file import read_tiling
from medsoft.storage.disk import free_bytes, gib
from medsoft.system.logging import event

SAMPLE_TILED, SAMPLE_OTHERS = 200, 12
"""Slides that are looked at; more are taken to be like these."""
BYTES_A_TILE = 17
"""Place and status."""
BYTES_A_FILE = 8_192
"""Attributes and indices."""


@dataclass(frozen=True)
class Need:
    """What feature files will take, in bytes.

    Attributes:
        expected: of the slides whose tiles are known.
        at_most: of the others, if all of their area were tissue.
        tiled: number of the former.
        others: number of the latter.
    """

    expected: int
    at_most: int
    tiled: int
    others: int


def check_space(
    sources: Sequence[SlideSource], folder: SlidesFolder, settings: TileSettings, num_features: int, dtype: str
) -> None:
    """Refuse to start where the feature files cannot fit, and warn where they may not.

    Args:
        sources: the slides; those with a feature file are not counted.
        folder: where the files will go.
        settings: of the tiles.
        num_features: of a tile.
        dtype: data type of the stored features.

    Raises:
        InputError: the disk has less space than the slides need whose tiles are known.
    """
    need = estimate(sources, folder, settings, num_features * np.dtype(dtype).itemsize)
    free = free_bytes(folder.path)
    event("disk", expected=need.expected, at_most=need.expected + need.at_most, free=free)
    if need.expected > free:
        raise InputError(
            f"{folder.path}: the features of {need.tiled} slides need about {gib(need.expected)}, but {gib(free)} are "
            "free. Free some, take another --out, or encode fewer slides at a time"
        )
    if need.expected + need.at_most > free:
        event("disk may fill", "warning", at_most=need.expected + need.at_most, free=free)
        print(
            f"Disk space may run out: {gib(free)} are free; {need.others} slides are not tiled yet, and with tissue "
            f"all over them the features would take {gib(need.expected + need.at_most)}. Finished slides are then kept",
            flush=True,
        )


def estimate(sources: Sequence[SlideSource], folder: SlidesFolder, settings: TileSettings, row_bytes: int) -> Need:
    """The bytes that feature files will take, from some of the slides.

    Args:
        sources: as for ``check_space``.
        folder: likewise.
        settings: likewise.
        row_bytes: of a tile's features.
    """
    waiting = [source for source in sources if not folder.features(source.id).is_file()]
    tiled = [source for source in waiting if folder.tiles(source.id).is_file()]
    others = [source for source in waiting if not folder.tiles(source.id).is_file()]

    def mean(numbers: list[int]) -> float:
        return float(np.mean([_bytes(tiles, row_bytes) for tiles in numbers])) if numbers else 0.0

    known, most = [], []
    for source in _some(tiled, SAMPLE_TILED):
        try:
            known.append(len(read_tiling(folder.tiles(source.id))))
        except SlideError:
            continue  # it is tiled again
    here = [source for source in others if not source.url]  # the others would be fetched to be looked at
    for source in _some(here, SAMPLE_OTHERS):
        try:
            with open_source(source) as slide:
                most.append(_most_tiles(slide.size_px0, slide.mpp, settings))
        except Exception:  # it fails later, with its reason
            continue
    return Need(int(mean(known) * len(tiled)), int(mean(most) * len(others)), len(tiled), len(others))


def _bytes(tiles: int, row_bytes: int) -> int:
    if tiles == 0:
        return 0
    rows = tiles if tiles < CHUNK_ROWS else math.ceil(tiles / CHUNK_ROWS) * CHUNK_ROWS
    return rows * row_bytes + tiles * BYTES_A_TILE + BYTES_A_FILE


def _most_tiles(size_px0: tuple[int, int], mpp: float, settings: TileSettings) -> int:
    step_um = (settings.tile_px - settings.overlap_px) * settings.mpp
    columns, rows = (math.ceil(side * mpp / step_um) for side in size_px0)
    return columns * rows


def _some(sources: Sequence[SlideSource], number: int) -> list[SlideSource]:
    """At most so many, evenly spread."""
    number = min(number, len(sources))
    return [sources[(2 * index + 1) * len(sources) // (2 * number)] for index in range(number)]
