"""Slides to feature files, one slide after the other, in the order given; tiles are read while others are encoded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from medsoft.data.bags.errors import BagError
from medsoft.data.bags.feature_file import READ, UNREADABLE, FeatureWriter
from medsoft.slides.errors import SlideError
from medsoft.slides.feed import Batch, End, Event, Opened, Reading, Skipped, feed
from medsoft.slides.finished import FeatureFiles
from medsoft.slides.folder import Outcome, SlidesFolder
from medsoft.slides.progress import SlidesProgress
from medsoft.slides.settings import TileSettings
from medsoft.slides.sources import SlideSource
from medsoft.slides.tile_encoder import TileEncoder
from medsoft.slides.tile_slides import tiled

REPLACES = "replaces a feature file of other content, other settings or another encoder"


def encode_slides(
    sources: Sequence[SlideSource],
    folder: SlidesFolder,
    settings: TileSettings,
    encoder: TileEncoder,
    *,
    batch: int = 64,
    workers: int = 2,
    max_unreadable: float = 0.01,
    dtype: str = "float16",
    progress: SlidesProgress | None = None,
) -> list[Outcome]:
    """Encode the tiles of slides, one feature file a slide.

    Slides that are finished, with the same content, settings and encoder, are left as they are. A slide that cannot be
    used is recorded with its reason and the rest goes on; a feature file that other content or settings left under its
    name is removed, as it would be taken for this one. The features do not depend on ``batch`` beyond the rounding of
    the encoder, nor on ``workers`` at all.

    Args:
        sources: the slides.
        folder: where everything goes; ``slides.csv`` and ``errors.csv`` are written after every slide.
        settings: how tiles are laid; a slide's tiling is used where it is there already.
        encoder: from tiles to features.
        batch: tiles that are encoded together.
        workers: threads that read tiles.
        max_unreadable: a slide with a larger fraction of unreadable tiles fails.
        dtype: in which features are stored, ``float16`` or ``float32``.
        progress: told as it goes on.

    Returns:
        What became of each slide, in their order.

    Raises:
        OSError: the folder cannot be written; what was finished is kept.
    """
    paths = {id: row["path"] for id, row in folder.rows().items()}
    files = FeatureFiles(folder, settings, encoder, dtype, folder.outcomes(), paths)
    folder.tidy()
    outcomes = []
    for source, outcome in encode_each(sources, files, Reading(batch, workers, max_unreadable), progress):
        folder.record(source, outcome)
        outcomes.append(outcome)
        if progress:
            progress.done(source, outcome)
    return outcomes


def encode_each(
    sources: Sequence[SlideSource], files: FeatureFiles, reading: Reading, progress: SlidesProgress | None = None
) -> Iterator[tuple[SlideSource, Outcome]]:
    """Encode slides one after the other, and say what became of each; the caller records it.

    Args:
        sources: the slides.
        files: which are finished, and how the others are made.
        reading: how tiles are read.
        progress: told of the tiles.

    Raises:
        OSError: the folder cannot be written.
    """
    events = feed(sources, files, reading)
    for event in events:
        assert isinstance(event, Skipped | Opened), "an encoded slide leaves none of its batches"
        if isinstance(event, Opened):
            if progress:
                progress.begin(event.source, len(event.tiling))
            outcome = _encode(event, events, files, progress)
        else:
            outcome = event.outcome
        if outcome.status in ("failed", "no tissue"):
            files.forget(event.source)
        yield event.source, outcome


def _encode(opened: Opened, events: Iterator[Event], files: FeatureFiles, progress: SlidesProgress | None) -> Outcome:
    """Encode the batches that follow, up to the slide's end, into its file."""
    since = time.perf_counter()  # what went on while the slide before was encoded took no time
    outcome = tiled(opened.tiling, since)
    if files.folder.features(opened.source.id).is_file():
        outcome = replace(outcome, warnings="; ".join(filter(None, [outcome.warnings, REPLACES])))
    batches = _until_end(events)
    try:
        if len(opened.tiling):
            unreadable = _write(opened, batches, files, progress)
            outcome = replace(outcome, status="encoded", unreadable=unreadable)
        deque(batches, maxlen=0)
    except (SlideError, BagError) as error:
        with suppress(SlideError):  # the rest of what was read of it
            deque(batches, maxlen=0)
        outcome = replace(outcome, status="failed", stage="encode", reason=error.reason)
    return replace(outcome, seconds=time.perf_counter() - since)


def _write(opened: Opened, batches: Iterator[Batch], files: FeatureFiles, progress: SlidesProgress | None) -> int:
    """Write a slide's feature file; gives the number of tiles that could not be read."""
    encoder, tiling = files.encoder, opened.tiling
    path, facts = files.folder.features(opened.source.id), files.facts(tiling)
    unreadable = 0
    with FeatureWriter(path, facts, tiling.coords_N2_px0, encoder.num_features, files.dtype) as writer:
        for batch in batches:
            features_nF = np.full((len(batch.status_n), encoder.num_features), np.nan, np.float32)
            if batch.images_BHWC is not None:
                features_nF[batch.status_n == READ] = encoder(batch.images_BHWC)
            writer.write(batch.start, features_nF, batch.status_n)
            unreadable += int(np.count_nonzero(batch.status_n == UNREADABLE))
            if progress:
                progress.advance(len(batch.status_n))
    return unreadable


def _until_end(events: Iterator[Event]) -> Iterator[Batch]:
    """The batches of one slide; raises the error that ended them."""
    for event in events:
        if isinstance(event, End):
            if event.error is not None:
                raise event.error
            return
        assert isinstance(event, Batch)
        yield event
