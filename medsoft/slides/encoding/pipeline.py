"""Reads batches of prepared tiles from slides, ahead of their encoding.

One thread opens the slides and finds their tissue, one slide ahead; another has the tiles of the slide before read by
threads of their own, and goes on to the next slide without waiting for the encoder. What waits is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medsoft.data.features.native import READ, UNREADABLE
from medsoft.errors import SlideError, TileError
from medsoft.slides.encoding.busy import Busy
from medsoft.slides.encoding.prefetch import prefetch
from medsoft.slides.encoding.resume import FeatureFiles
from medsoft.slides.folder import SlideStatus
from medsoft.slides.reading.read_tiles import read_tiles
from medsoft.slides.reading.slide import Slide
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.run import ensure_tiling, failed, open_source
from medsoft.slides.tiling.tiling import Tiling

SLIDES_AHEAD = 1
BATCHES_AHEAD = 4


@dataclass(frozen=True)
class Reading:
    """How tiles are read; none of it changes them.

    Attributes:
        batch_size: tiles that are handed on together.
        workers: threads that read.
        max_unreadable: a slide with a larger fraction of unreadable tiles than this fails.
    """

    batch_size: int
    workers: int
    max_unreadable: float


@dataclass(frozen=True)
class Skipped:
    """A slide that is done, for better or worse."""

    source: SlideSource
    slide_status: SlideStatus


@dataclass(frozen=True)
class Opened:
    """A slide whose batches come next, up to an ``End``."""

    source: SlideSource
    slide: Slide
    tiling: Tiling


@dataclass(frozen=True)
class Batch:
    """Tiles from ``start`` on: their status, and prepared images of those that could be read (None: of none)."""

    start: int
    status_n: np.ndarray
    images_BHWC: np.ndarray | None


@dataclass(frozen=True)
class End:
    """No more batches of this slide; or it cannot be used."""

    error: SlideError | None = None


Event = Skipped | Opened | Batch | End


def input_pipeline(
    sources: Sequence[SlideSource],
    files: FeatureFiles,
    reading: Reading,
    look: Callable[[], None] | None = None,
    busy: Busy | None = None,
) -> Iterator[Event]:
    """The slides in their order: each ``Skipped``, or ``Opened`` with its ``Batch``es and an ``End``.

    Args:
        sources: the slides.
        files: says which are finished, where tilings lie and how a tile is prepared.
        reading: how to read.
        look: as for ``prefetch``.
        busy: told how long reading works.

    Raises:
        OSError: a tiling cannot be written.
    """
    events = _read(_open(sources, files), files, reading)
    return prefetch(events if busy is None else busy.while_reading(events), BATCHES_AHEAD, look)


def _open(sources: Sequence[SlideSource], files: FeatureFiles) -> Generator[Skipped | Opened, None, None]:
    for source in sources:
        since = time.perf_counter()
        stage = "open"
        try:
            finished = files.finished(source)
            if finished is not None:
                yield Skipped(source, finished)
                continue
            slide = open_source(source)
            stage = "tile"
            try:
                tiling = ensure_tiling(source, slide, files.folder, files.settings)
            except BaseException:
                slide.close()
                raise
        except OSError:  # the tiling could not be written
            raise
        except Exception as error:  # one slide must not end the run, whatever a decoder says
            yield Skipped(source, failed(stage, error, since))
            continue
        yield Opened(source, slide, tiling)


def _read(
    slides: Generator[Skipped | Opened, None, None], files: FeatureFiles, reading: Reading
) -> Generator[Event, None, None]:
    for event in prefetch(slides, SLIDES_AHEAD):
        yield event
        if isinstance(event, Opened):
            with event.slide:
                try:
                    yield from _batches(event, files, reading)
                except Exception as error:
                    yield End(SlideError(failed("encode", error, 0).reason))


def _batches(opened: Opened, files: FeatureFiles, reading: Reading) -> Iterator[Batch | End]:
    tiling, tile_px = opened.tiling, files.settings.tile_px
    read = _reader(opened.slide, files)
    allowed = int(reading.max_unreadable * len(tiling))
    images: list[np.ndarray] = []
    status: list[int] = []
    start, unreadable = 0, 0
    for row, tile in read_tiles(read, tiling.coords_N2_px0, tile_px, reading.workers):
        assert row == start + len(status), "a tiling has the order in which its tiles are read"
        if isinstance(tile, TileError):
            unreadable += 1
            if unreadable > allowed:
                yield End(_too_many(tiling, row, unreadable, reading.max_unreadable, tile))
                return
            status.append(UNREADABLE)
        else:
            images.append(tile)
            status.append(READ)
        if len(status) == reading.batch_size:
            yield _batch(start, status, images)
            start, images, status = start + reading.batch_size, [], []
    if status:
        yield _batch(start, status, images)
    nothing = len(tiling) > 0 and unreadable == len(tiling)
    yield End(SlideError(f"none of its {len(tiling)} tiles can be read") if nothing else None)


def _reader(slide: Slide, files: FeatureFiles) -> Callable[[int, int], np.ndarray]:
    tile_px, mpp, prepare = files.settings.tile_px, files.settings.mpp, files.encoder.prepare
    return lambda x_px0, y_px0: prepare(slide.read_tile(x_px0, y_px0, tile_px, mpp))


def _batch(start: int, status: list[int], images: list[np.ndarray]) -> Batch:
    return Batch(start, np.array(status, np.uint8), np.stack(images) if images else None)


def _too_many(tiling: Tiling, row: int, unreadable: int, max_unreadable: float, last: TileError) -> SlideError:
    x, y = tiling.coords_N2_px0[row]
    return SlideError(
        f"{unreadable} of its first {row + 1} tiles ({len(tiling)} in all) cannot be read, more than "
        f"{max_unreadable:.3g} of all (max_unreadable); the last at x {x}, y {y}: {last.reason}"
    )
