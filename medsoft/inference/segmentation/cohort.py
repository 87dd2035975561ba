"""Segments slides, in this process or in workers, with one record as in ``encode_cohort``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from medsoft.cluster.client import Cluster
from medsoft.inference.segmentation.model import SlideMasks
from medsoft.inference.slides.worker import KILLED, Job, once
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.progress import SlidesProgress
from medsoft.slides.segmentation.mask_model import TileModels
from medsoft.slides.segmentation.run import segment_one
from medsoft.slides.segmentation.segment import WindowSettings
from medsoft.slides.segmentation.settings import SegmentSettings
from medsoft.slides.source import SlideSource

Done = list[tuple[SlideSource, SlideStatus]]


@dataclass(frozen=True, kw_only=True)
class SegmentJob(Job):
    """How slides are segmented.

    Attributes:
        build: ``build(device=…)`` makes the model.
        settings: of the maps.
        windows: how the model is shown the slides.
        models: one of tissue among them, where the settings ask for it.
    """

    build: Callable[..., SlideMasks]
    settings: SegmentSettings
    windows: WindowSettings
    models: TileModels


def segment_slides(
    sources: Sequence[SlideSource],
    folder: SlidesFolder,
    job: SegmentJob,
    model: SlideMasks,
    where: Cluster,
    progress: SlidesProgress,
) -> None:
    """Segment slides; rows of slides that are tiled, encoded or predicted in this folder keep saying so.

    Args:
        sources: the slides.
        folder: for everything that is written.
        job: how.
        model: of this process, where it does the work.
        where: the work runs.
        progress: told as it goes on.

    Raises:
        InputError: the workers cannot do what is asked.
        OSError: the folder cannot be written; finished work is kept.
        RunError: the cluster is gone; finished work is kept.
    """
    folder.tidy()
    before = folder.slide_statuses()
    with folder.recording():
        for done in _segmented(sources, folder, job, model, where, progress):
            folder.record_all([pair for pair in done if not _has_more(before.get(pair[0].id), pair[1])])
            for source, slide_status in done:
                progress.done(source, slide_status)


def _has_more(before: SlideStatus | None, now: SlideStatus) -> bool:
    return before is not None and before.tiles is not None and before.status != "failed" and now.status != "failed"


def _segmented(
    sources: Sequence[SlideSource],
    folder: SlidesFolder,
    job: SegmentJob,
    model: SlideMasks,
    where: Cluster,
    progress: SlidesProgress,
) -> Iterator[Done]:
    if where.workers.is_this_process:
        for source in sources:
            progress.begin(source, 0)
            yield [
                (source, segment_one(source, folder, model, job.settings, job.windows, job.models, progress.advance))
            ]
        return
    for found in where.map(segment_in_worker, [(job, source) for source in sources]):
        yield [
            (sources[number], slide_status or SlideStatus("failed", "segment", KILLED))
            for number, slide_status in found
        ]


def segment_in_worker(job: SegmentJob, source: SlideSource) -> SlideStatus:
    """Segment a slide, unless that is done already; its row is the caller's to record.

    Raises:
        InputError: this process cannot do what is asked, as it has no such weights or device.
        OSError: the folder cannot be written.
    """
    with once.lock:
        model = once.build(job, job.build)
        return segment_one(source, SlidesFolder(job.out), model, job.settings, job.windows, job.models)
