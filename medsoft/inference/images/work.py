"""Encodes images to feature files, one after the other; the next are read and prepared meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np

from medsoft.data.features.native import ImageFeatureWriter
from medsoft.data.features.open import open_bag
from medsoft.data.features.provenance import EncoderIdentity, ImageProvenance, canonical
from medsoft.errors import BagError, ReadError, RunError
from medsoft.inference.images.encoding import Encoding, Features
from medsoft.inference.images.folder import ImagesFolder, ImageStatus, by_x
from medsoft.inference.images.options import NATIVE
from medsoft.inference.images.preparation import Ready, view_seeds
from medsoft.inference.images.samples import ImageSample
from medsoft.slides.encoding.busy import Busy
from medsoft.slides.encoding.prefetch import LOOK_SECONDS, DaemonPool
from medsoft.system.cores import usable_cores

REPLACES = "replaces a feature file of other content, another preparation or another encoder"
MOST_WORKERS = 8
LARGE_AHEAD = 1
"""Volumes, and images at their own resolution, that are read ahead: each may take hundreds of MB."""

Done = tuple[ImageSample, ImageStatus]


@dataclass(frozen=True, eq=False)
class _Read:
    """A sample that is ready to be encoded."""

    sample: ImageSample
    content: str
    ready: Ready
    seconds: float
    replaces: bool


def encode_each(
    samples: Sequence[ImageSample],
    encoding: Encoding,
    folder: ImagesFolder,
    before: Mapping[str, str],
    look: Callable[[], None] = lambda: None,
    busy: Busy | None = None,
) -> Iterator[Done]:
    """Encode samples, one feature file each, and report the status of each to the caller, in their order.

    Samples that are finished, with the same content, preparation, views and encoder, are left as they are. One that
    cannot be used is given with its reason and the rest goes on; a feature file that other content or settings left
    under its name is removed, as it would be taken for this one. Features do not depend on which samples are encoded
    together, beyond the rounding of the encoder.

    Args:
        samples: what to encode.
        encoding: how.
        folder: where the files go.
        before: of which path ``encoded.csv`` said each id was, when the run began.
        look: called while something is waited for; what it raises ends the work.
        busy: told how long reading and the model work.

    Raises:
        OSError: the folder cannot be written.
        RunError: the device has not enough memory for a single image.
    """
    encoding.encoder.expect(len(samples), of_own_size=False)
    busy = busy or Busy()
    workers = encoding.settings.output.workers or _usual_workers()
    waiting: list[_Read] = []
    for found in _read_ahead(samples, encoding, folder, before, look):
        if isinstance(found, _Read):
            busy.add_reading(found.seconds / workers)
        if isinstance(found, _Read) and (not waiting or _together(waiting, found, encoding)):
            waiting.append(found)
            continue
        yield from _encode(waiting, encoding, folder, busy)
        waiting = [found] if isinstance(found, _Read) else []
        if not isinstance(found, _Read):
            yield found
    yield from _encode(waiting, encoding, folder, busy)


def _together(waiting: list[_Read], found: _Read, encoding: Encoding) -> bool:
    """Whether a sample can be encoded in one step with those that wait."""
    pictures = [sum(map(len, one.ready.views)) for one in (*waiting, found)]
    fits = sum(pictures) <= encoding.settings.output.batch_size
    return fits and encoding.is_like(waiting[0].ready.views[0][0], found.ready.views[0][0])


def _read_ahead(
    samples: Sequence[ImageSample],
    encoding: Encoding,
    folder: ImagesFolder,
    before: Mapping[str, str],
    look: Callable[[], None],
) -> Iterator[_Read | Done]:
    output, given = encoding.settings.output, encoding.settings.preparation
    is_large = bool(encoding.settings.channels) or given.size == NATIVE
    workers = output.workers or _usual_workers()
    ahead = workers - 1 + (LARGE_AHEAD if is_large else output.batch_size)
    pool = DaemonPool(workers, "images")
    futures: deque[Future[_Read | Done]] = deque()
    rest = iter(samples)

    def read(sample: ImageSample) -> _Read | Done:
        return _read(sample, encoding, folder, before)

    try:
        while True:
            while len(futures) <= ahead and (sample := next(rest, None)) is not None:
                futures.append(pool.submit(read, sample))
            if not futures:
                return
            yield _result(futures.popleft(), look)
    finally:
        pool.close()


def _usual_workers() -> int:
    """Threads that read: on a CPU the encoder needs the processors."""
    import torch

    return min(MOST_WORKERS, usable_cores()) if torch.cuda.is_available() else 1


def _result(future: Future[_Read | Done], look: Callable[[], None]) -> _Read | Done:
    while True:
        look()
        with suppress(NotYet):
            return future.result(LOOK_SECONDS)


def _read(sample: ImageSample, encoding: Encoding, folder: ImagesFolder, before: Mapping[str, str]) -> _Read | Done:
    since = time.perf_counter()
    path = folder.features(sample.id)
    content = ""
    try:
        content = sample.content()
        found = finished(path, encoding, content)
        if found is not None:
            return sample, found
        ready = encoding.preparation.ready(sample, view_seeds(content, *_of_views(encoding)))
    except Exception as error:  # one image must not end the run, whatever a decoder says
        if content and before.get(sample.id, sample.path) == sample.path:
            path.unlink(missing_ok=True)  # it would be taken for that of this image; kept where the image is gone
        return sample, ImageStatus("failed", "open", reason_of(error), seconds=time.perf_counter() - since)
    return _Read(sample, content, ready, time.perf_counter() - since, path.is_file())


def _of_views(encoding: Encoding) -> tuple[int, int]:
    return encoding.settings.output.seed, encoding.settings.output.views


def reason_of(error: Exception) -> str:
    """What is wrong with an image, in one line without its path."""
    if isinstance(error, ReadError | BagError):
        return error.reason
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if isinstance(error, OSError):
        return f"cannot be opened: {error.strerror or type(error).__name__}"
    words = " ".join(str(error).split())
    return words if isinstance(error, ValueError) and words else f"{type(error).__name__}: {words}"


def finished(path: Path, encoding: Encoding, content: str) -> ImageStatus | None:
    """What an earlier run made of an image, where that is what this run would make of it; else None.

    Args:
        path: of the feature file.
        encoding: of this run.
        content: of the image.
    """
    dtype = encoding.settings.output.dtype
    found = finished_features(path, content, encoding.identity, encoding.views, dtype)
    return None if found is None else replace(_status(*found), kept=True)


def finished_features(
    path: Path, content: str, identity: EncoderIdentity, views: Mapping[str, object], dtype: str
) -> tuple[ImageProvenance, int] | None:
    """What a feature file says, and its rows, where encoding the image now would give the same."""
    if not path.is_file():
        return None
    try:
        with open_bag(path) as bag:
            facts, stored, rows = bag.facts, bag.dtype, bag.num_tiles
    except BagError:
        return None
    if not isinstance(facts, ImageProvenance) or stored != dtype or facts.identity != identity:
        return None
    return (facts, rows) if facts.quick_hash == content and canonical(facts.views) == canonical(views) else None


def _status(facts: ImageProvenance, tokens: int) -> ImageStatus:
    return ImageStatus(
        "encoded",
        tokens=tokens,
        size=by_x(facts.size),
        unit=facts.unit if facts.cell else "",
        cell=by_x(facts.cell),
        views=int(facts.views.get("number", 0)),
    )


def _encode(waiting: list[_Read], encoding: Encoding, folder: ImagesFolder, busy: Busy) -> Iterator[Done]:
    if not waiting:
        return
    since = time.perf_counter()
    pictures = [picture for one in waiting for view in one.ready.views for picture in view]
    try:
        with busy.with_model():
            features = deque(encoding.encode(pictures))
    except (RuntimeError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        for one in waiting:
            yield one.sample, _failed(one, error, folder)
        return
    share = (time.perf_counter() - since) / len(waiting)
    for one in waiting:
        since = time.perf_counter()
        views = [[features.popleft() for _ in view] for view in one.ready.views]
        try:
            status = _write(one, views, encoding, folder)
        except BagError as error:
            yield one.sample, _failed(one, error, folder)
            continue
        seconds = one.seconds + share + time.perf_counter() - since
        warnings = REPLACES if one.replaces else ""
        yield one.sample, replace(status, seconds=seconds, warnings=warnings)


def _failed(one: _Read, error: Exception, folder: ImagesFolder) -> ImageStatus:
    folder.features(one.sample.id).unlink(missing_ok=True)
    return ImageStatus("failed", "encode", reason_of(error), seconds=one.seconds)


def _write(one: _Read, views: list[list[Features]], encoding: Encoding, folder: ImagesFolder) -> ImageStatus:
    """Write a sample's feature file."""
    first, encoder = views[0][0], encoding.encoder
    coords: np.ndarray | None = None
    cell: tuple[float, ...] = ()
    if first.tokens_NF is not None:
        coords, cell = one.ready.place.cells(first.grid, encoding.cell_px(one.ready.views[0][0], first.grid))
    facts = encoding.facts(PurePath(one.sample.path).name, one.content, one.ready.place, cell)
    path, dtype = folder.features(one.sample.id), encoding.settings.output.dtype
    with ImageFeatureWriter(path, facts, coords, encoding.num_features, encoder.num_features, dtype) as writer:
        for number, parts in enumerate(views):
            tokens = [part.tokens_NF for part in parts if part.tokens_NF is not None]
            pooled = np.stack([part.pooled_P for part in parts]).mean(axis=0, dtype=np.float64)
            writer.write(np.concatenate(tokens) if tokens else None, pooled, number - 1 if number else None)
    return _status(facts, 1 if coords is None else len(coords))
