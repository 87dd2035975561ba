"""Encodes slides to feature files, one after the other in the order given; tiles are read while others are encoded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from medsoft.data.features.native import READ, UNREADABLE, FeatureWriter
from medsoft.errors import BagError, SlideError
from medsoft.slides.encoding.busy import Busy
from medsoft.slides.encoding.pipeline import Batch, End, Event, Opened, Reading, Skipped, input_pipeline
from medsoft.slides.encoding.resume import FeatureFiles
from medsoft.slides.folder import SlideStatus
from medsoft.slides.progress import SlidesProgress
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.run import tiled

REPLACES = "replaces a feature file of other content, other settings or another encoder"


def encode_each(
    sources: Sequence[SlideSource], files: FeatureFiles, reading: Reading, progress: SlidesProgress | None = None
) -> Iterator[tuple[SlideSource, SlideStatus]]:
    """Encode slides one after the other, one feature file per slide, and report the status of each to the caller.

    Slides that are finished, with the same content, settings and encoder, are left as they are. A slide that cannot be
    used is given with its reason and the rest goes on; a feature file that other content or settings left under its
    name is removed, as it would be taken for this one. The features do not depend on the batch size beyond the rounding
    of the encoder, nor on the number of threads at all.

    Args:
        sources: the slides.
        files: which are finished, and how the others are made.
        reading: how tiles are read.
        progress: told of the tiles.

    Raises:
        OSError: the folder cannot be written.
    """
    busy = progress.busy if progress else Busy()
    events = input_pipeline(sources, files, reading, progress.look if progress else None, busy)
    for event in events:
        assert isinstance(event, Skipped | Opened), "an encoded slide leaves none of its batches"
        if isinstance(event, Opened):
            if progress:
                progress.begin(event.source, len(event.tiling))
            slide_status = _encode(event, events, files, progress, busy)
        else:
            slide_status = event.slide_status
        if slide_status.status in ("failed", "no tissue"):
            files.forget(event.source)
        yield event.source, slide_status


def _encode(
    opened: Opened, events: Iterator[Event], files: FeatureFiles, progress: SlidesProgress | None, busy: Busy
) -> SlideStatus:
    """Encode the batches that follow, up to the slide's end, into its file."""
    since = time.perf_counter()  # what went on while the slide before was encoded took no time
    slide_status = tiled(opened.tiling, since)
    if files.folder.features(opened.source.id).is_file():
        slide_status = replace(slide_status, warnings="; ".join(filter(None, [slide_status.warnings, REPLACES])))
    batches = _until_end(events)
    try:
        if len(opened.tiling):
            unreadable = _write(opened, batches, files, progress, busy)
            slide_status = replace(slide_status, status="encoded", unreadable=unreadable)
        deque(batches, maxlen=0)
    except (SlideError, BagError) as error:
        with suppress(SlideError):  # the rest of what was read of it
            deque(batches, maxlen=0)
        slide_status = replace(slide_status, status="failed", stage="encode", reason=error.reason)
    return replace(slide_status, seconds=time.perf_counter() - since)


def _write(
    opened: Opened, batches: Iterator[Batch], files: FeatureFiles, progress: SlidesProgress | None, busy: Busy
) -> int:
    """Write a slide's feature file; gives the number of tiles that could not be read."""
    encoder, tiling = files.encoder, opened.tiling
    encoder.expect(len(tiling))
    path, facts = files.folder.features(opened.source.id), files.facts(tiling)
    unreadable = 0
    with FeatureWriter(path, facts, tiling.coords_N2_px0, encoder.num_features, files.dtype) as writer:
        for batch in batches:
            features_nF = np.full((len(batch.status_n), encoder.num_features), np.nan, np.float32)
            if batch.images_BHWC is not None:
                with busy.with_model():
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
