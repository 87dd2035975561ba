"""Encodes slides to feature files, in this process or in worker processes, with one record of all slides.

Workers write feature files; ``slides.csv`` and ``errors.csv`` are written here alone. A slide that fails is recorded
with its reason, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from medsoft.cluster.client import Cluster
from medsoft.errors import InputError
from medsoft.inference.slides.worker import KILLED, Job, once
from medsoft.slides.encoding.encode import encode_each
from medsoft.slides.encoding.encoder_protocol import TileEncoder
from medsoft.slides.encoding.pipeline import Reading
from medsoft.slides.encoding.resume import FeatureFiles
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.progress import SlidesProgress
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.settings import EncodingSettings, TileSettings

MOST_READERS = 8


@dataclass(frozen=True, kw_only=True)
class EncodeJob(Job):
    """How slides become features.

    Attributes:
        build: ``build(device=…)`` makes the encoder.
        sha256: which weights it must have; "" for random ones.
        tiles: which tiles.
        encoding: how they are read and encoded.
        dtype: of the features in the files, ``float16`` or ``float32``.
    """

    build: Callable[..., TileEncoder]
    sha256: str
    tiles: TileSettings
    encoding: EncodingSettings = field(default_factory=EncodingSettings)
    dtype: str = "float16"

    @property
    def reading(self) -> Reading:
        """How this process reads tiles."""
        workers = self.encoding.workers or min(MOST_READERS, self.processors)
        return Reading(self.encoding.batch_size, workers, self.encoding.max_unreadable)


def encode_slides(
    sources: Sequence[SlideSource],
    folder: SlidesFolder,
    job: EncodeJob,
    encoder: TileEncoder,
    where: Cluster,
    progress: SlidesProgress,
) -> list[SlideStatus]:
    """Encode the tiles of slides, one feature file per slide; those that are done already are left as they are.

    Args:
        sources: the slides.
        folder: where everything goes; all workers must see it, and the slides, under the same names. ``slides.csv``
            and ``errors.csv`` are written after every slide.
        job: how slides become features.
        encoder: of this process, where it does the work; workers build their own.
        where: the work runs.
        progress: told as it goes on.

    Returns:
        What became of each slide, in their order.

    Raises:
        InputError: the workers cannot do what is asked.
        OSError: the folder cannot be written; finished work is kept.
        RunError: the cluster is gone; finished work is kept.
    """
    folder.tidy()
    slide_statuses: dict[str, SlideStatus] = {}
    with folder.recording():
        for done in _encoded(sources, folder, job, encoder, where, progress):
            folder.record_all(done)
            for source, slide_status in done:
                slide_statuses[source.id] = slide_status
                if not where.workers.is_this_process:
                    progress.advance(_tiles_now(slide_status))
                progress.done(source, slide_status)
    return [slide_statuses[source.id] for source in sources]


def _encoded(
    sources: Sequence[SlideSource],
    folder: SlidesFolder,
    job: EncodeJob,
    encoder: TileEncoder,
    where: Cluster,
    progress: SlidesProgress,
) -> Iterator[list[tuple[SlideSource, SlideStatus]]]:
    """What became of the slides, as they are done; in this process the progress is told of every batch."""
    before = folder.slide_statuses()
    paths = {id: row["path"] for id, row in folder.rows().items()}
    if where.workers.is_this_process:
        files = FeatureFiles(folder, job.tiles, encoder, job.dtype, before, paths)
        for one in encode_each(sources, files, job.reading, progress):
            yield [one]
        return
    tasks = [(job, source, before.get(source.id), paths.get(source.id)) for source in sources]
    for found in where.map(encode_in_worker, tasks):
        yield [
            (sources[number], slide_status or SlideStatus("failed", "encode", KILLED)) for number, slide_status in found
        ]


def _tiles_now(slide_status: SlideStatus) -> int:
    """Tiles that this run has encoded of a slide."""
    return (slide_status.tiles or 0) if slide_status.status == "encoded" and not slide_status.kept else 0


def encode_in_worker(job: EncodeJob, source: SlideSource, before: SlideStatus | None, path: str | None) -> SlideStatus:
    """Encode a slide, unless that is done already; its row is the caller's to record.

    Args:
        job: how.
        source: the slide.
        before: what ``slides.csv`` said of its id when the run began.
        path: of which slide it said that.

    Raises:
        InputError: this process cannot do what is asked, as it has no such weights or device.
        OSError: the folder cannot be written.
    """
    with once.lock:
        encoder = once.build(job, job.build)
    if encoder.sha256 != job.sha256:
        raise InputError(f"a worker's file of weights has the SHA-256 {encoder.sha256}, not {job.sha256}")
    files = FeatureFiles(
        SlidesFolder(job.out),
        job.tiles,
        encoder,
        job.dtype,
        {source.id: before} if before else {},
        {source.id: path} if path else {},
    )
    ((_, slide_status),) = encode_each([source], files, job.reading)
    return slide_status
