"""Images and volumes to feature files, in this process or in worker processes, with one record of all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsoft.cluster.client import Cluster
from medsoft.cluster.options import Workers
from medsoft.errors import InputError
from medsoft.inference.images.encoding import Encoding, encoding_builder
from medsoft.inference.images.folder import ImagesFolder, ImageStatus
from medsoft.inference.images.options import NATIVE, EncodeSettings
from medsoft.inference.images.samples import ImageSample
from medsoft.inference.images.work import Done, encode_each
from medsoft.inference.slides.worker import Job, once
from medsoft.slides.disk_space import BYTES_A_FILE
from medsoft.slides.progress import SlidesProgress, slides_progress
from medsoft.storage.disk import free_bytes, gib
from medsoft.system.logging import event

RECORD_SECONDS = 5.0
"""Between two writings of ``encoded.csv``: it is written whole, and images are many."""
AT_ONCE = 16
"""Images of one task of a worker; volumes are tasks by themselves."""
SAMPLED = 3
"""Samples that are prepared to know how much room the feature files of all need."""
KILLED = "the worker process died with this image, also when it was alone: out of memory, or a decoder that crashes"
NO_WORKERS = Workers()


@dataclass(frozen=True, kw_only=True)
class EncodeImagesJob(Job):
    """How images become features.

    Attributes:
        settings: encoder, preparation and what is stored.
        sha256: of the weights that the encoder must have; "" for random ones.
        build: ``build(device=…)`` makes the encoding.
    """

    settings: EncodeSettings
    sha256: str
    build: Callable[..., Encoding]


@dataclass(frozen=True)
class EncodedImages:
    """What a run has done.

    Attributes:
        folder: with the feature files.
        statuses: of each sample, in their order.
        encoding: that was used, or that workers used.
    """

    folder: ImagesFolder
    statuses: list[ImageStatus]
    encoding: Encoding

    @property
    def failed(self) -> int:
        """How many samples failed."""
        return sum(status.status == "failed" for status in self.statuses)


def encode_images(
    samples: Sequence[ImageSample],
    settings: EncodeSettings,
    out: str,
    where: Workers = NO_WORKERS,
    encoding: Encoding | None = None,
    dropped: Sequence[Done] = (),
) -> EncodedImages:
    """Encode images or volumes, one feature file each; those that are done already are left as they are.

    Args:
        samples: what to encode, all images or all volumes.
        settings: how; ``channels`` are those of ``volumes.channels_of`` where they are volumes.
        out: folder for ``features/``, ``encoded.csv``, ``encode.json`` and, if samples failed, ``errors.csv``.
        where: the work runs.
        encoding: of these settings, where the caller has made it.
        dropped: rows of the table that were left out, to be recorded.

    Raises:
        InputError: the encoder cannot be built, does not fit the preparation, or the disk has not enough room.
        OSError: the folder cannot be written; finished work is kept.
        RunError: a device has not enough memory, or the cluster is gone; finished work is kept.
    """
    folder = ImagesFolder(out)
    build = encoding_builder(settings)
    if encoding is None:
        precision = where.precision_here(settings.output.precision)
        encoding = build(device=where.device_here, precision=precision)
    check_space(samples, folder, encoding)
    job = EncodeImagesJob(
        out=folder.path.absolute(), where=where, settings=settings, sha256=encoding.encoder.sha256, build=build
    )
    folder.tidy()
    before = folder.paths()
    folder.write_settings(encoding.kept_settings, encoding.identity)
    folder.record_all(dropped)
    words = ("volumes" if settings.channels else "images", "tokens" if settings.output.tokens else "vectors")
    statuses: dict[str, ImageStatus] = {}
    with (
        Cluster(where, folder) as cluster,
        slides_progress(len(samples), "encoding", words=words, each=False) as progress,
        _Recording(folder) as record,
    ):
        for sample, status in _encoded(samples, encoding, folder, job, cluster, before, progress):
            statuses[sample.id] = status
            record.add(sample, status)
            progress.advance(0 if status.kept else status.tokens or 0)
            progress.done(sample, status)
    return EncodedImages(folder, [statuses[sample.id] for sample in samples], encoding)


class _Recording:
    """Writes rows of ``encoded.csv`` now and then, and what is left when the block ends, however it ends."""

    def __init__(self, folder: ImagesFolder) -> None:
        self._folder, self._rows, self._last = folder, list[Done](), time.monotonic()

    def __enter__(self) -> _Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._folder.finish()

    def add(self, sample: ImageSample, status: ImageStatus) -> None:
        """A sample is done."""
        self._rows.append((sample, status))
        if time.monotonic() - self._last > RECORD_SECONDS:
            self._flush()

    def _flush(self) -> None:
        rows, self._rows, self._last = self._rows, [], time.monotonic()
        self._folder.record_all(rows)


def _encoded(
    samples: Sequence[ImageSample],
    encoding: Encoding,
    folder: ImagesFolder,
    job: EncodeImagesJob,
    where: Cluster,
    before: Mapping[str, str],
    progress: SlidesProgress,
) -> Iterator[Done]:
    """What became of the samples, as they are done."""
    if where.workers.is_this_process:
        yield from encode_each(samples, encoding, folder, before, progress.look, progress.busy)
        return
    step = 1 if job.settings.channels or job.settings.preparation.size == NATIVE else AT_ONCE
    parts = [list(samples[first : first + step]) for first in range(0, len(samples), step)]
    alone = []
    for parts_done in where.map(encode_in_worker, [(job, part, _of(before, part)) for part in parts]):
        for number, found in parts_done:
            if found is None:
                alone += parts[number]
            else:
                yield from zip(parts[number], found, strict=True)
    if step == 1:
        yield from ((sample, ImageStatus("failed", "encode", KILLED)) for sample in alone)
        return
    for ones_done in where.map(encode_in_worker, [(job, [sample], _of(before, [sample])) for sample in alone]):
        for number, found in ones_done:
            yield alone[number], found[0] if found else ImageStatus("failed", "encode", KILLED)


def _of(before: Mapping[str, str], samples: Sequence[ImageSample]) -> dict[str, str]:
    return {sample.id: before[sample.id] for sample in samples if sample.id in before}


def encode_in_worker(
    job: EncodeImagesJob, samples: Sequence[ImageSample], before: Mapping[str, str]
) -> list[ImageStatus]:
    """Encode samples, unless that is done already; their rows are the caller's to record.

    Args:
        job: how.
        samples: which.
        before: of which paths ``encoded.csv`` said their ids were.

    Raises:
        InputError: this process cannot do what is asked, as it has no such weights or device.
        OSError: the folder cannot be written.
    """
    with once.lock:
        encoding = once.build(job, job.build)
    if encoding.encoder.sha256 != job.sha256:
        raise InputError(f"a worker's file of weights has the SHA-256 {encoding.encoder.sha256}, not {job.sha256}")
    return [status for _, status in encode_each(samples, encoding, ImagesFolder(job.out), before)]


def check_space(samples: Sequence[ImageSample], folder: ImagesFolder, encoding: Encoding) -> None:
    """Refuse to start where the feature files cannot fit.

    Some of the samples that have no feature file yet are prepared; the others are taken to be like these.

    Raises:
        InputError: the disk has less space than is needed.
    """
    waiting = [sample for sample in samples if not folder.features(sample.id).is_file()]
    chosen = [waiting[index] for index in np.linspace(0, len(waiting) - 1, min(SAMPLED, len(waiting))).astype(int)]
    sizes = [size for size in (_bytes(sample, encoding) for sample in chosen) if size is not None]
    if not sizes:
        return
    need, free = int(np.mean(sizes) * len(waiting)), free_bytes(folder.path)
    event("disk", expected=need, free=free)
    if need > free:
        what = "volumes" if encoding.settings.channels else "images"
        raise InputError(
            f"{folder.path}: the features of {len(waiting)} {what} need about {gib(need)}, but {gib(free)} are free. "
            "Free some, take another --out, a smaller --size, fewer --views, or --tokens false"
        )


def _bytes(sample: ImageSample, encoding: Encoding) -> int | None:
    """Of a sample's feature file; None where the sample fails later, with its reason."""
    output, vector = encoding.settings.output, 4 * encoding.encoder.num_features
    rows = 1
    if output.tokens:
        rows = _fixed_rows(encoding) or 0
        if not rows:
            try:
                rows = encoding.rows(encoding.preparation.ready(sample, []).views[0])
            except Exception:
                return None
    row = encoding.num_features * np.dtype(output.dtype).itemsize
    return (rows * row + vector) * (1 + output.views) + rows * 13 + BYTES_A_FILE


def _fixed_rows(encoding: Encoding) -> int | None:
    """Tokens of every sample, where they are the same for all."""
    given, windows = encoding.settings.preparation, encoding.windows
    if encoding.settings.channels or windows is None or given.size == NATIVE or given.aspect == "keep":
        return None
    height, width = (given.size,) * 2 if given.size is not None else encoding.encoder.recipe.size
    return int(-(-int(height) // windows.stride) * -(-int(width) // windows.stride))
