"""What a worker process does with one slide: it builds encoder or model once, and uses it for all slides of a run."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsoft import __version__
from medsoft.errors import InputError
from medsoft.slides.encode import encode_each
from medsoft.slides.feed import Reading
from medsoft.slides.finished import FeatureFiles
from medsoft.slides.folder import Outcome, SlidesFolder
from medsoft.slides.settings import TileSettings
from medsoft.slides.sources import SlideSource

if TYPE_CHECKING:
    from medsoft.deploy.encoder import Encoder
    from medsoft.deploy.slide_answers import Maps
    from medsoft.deploy.slide_model import SlideAnswer, SlideModel

MOST_READERS = 8


@dataclass(frozen=True, kw_only=True)
class Order:
    """What holds for all slides of a run.

    Attributes:
        out: the folder of the results, absolute.
        device: as the user named it.
        on_one_machine: worker processes that share a machine.
        version: of medsoft.
        token: of the run, to know its orders from those of another.
    """

    out: Path
    device: str
    on_one_machine: int
    version: str = __version__
    token: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, kw_only=True)
class EncodeOrder(Order):
    """How slides become features.

    Attributes:
        build: ``build(device=…)`` makes the encoder.
        sha256: which weights it must have; "" for random ones.
        settings: of the tiles.
        dtype: of the features in the files.
        batch: tiles that are encoded together.
        workers: threads that read tiles; None: this process's share of the machine.
        max_unreadable: a slide with a larger fraction of unreadable tiles fails.
    """

    build: Callable[..., Encoder]
    sha256: str
    settings: TileSettings
    dtype: str
    batch: int
    workers: int | None
    max_unreadable: float

    @property
    def reading(self) -> Reading:
        """How this process reads tiles."""
        return Reading(self.batch, self.workers or min(MOST_READERS, _share(self)), self.max_unreadable)


@dataclass(frozen=True, kw_only=True)
class AnswerOrder(Order):
    """How features become answers.

    Attributes:
        build: ``build(device=…)`` makes the model.
        maps: which heatmaps to draw; None: none.
    """

    build: Callable[..., SlideModel]
    maps: Maps | None


def encode_slide(order: EncodeOrder, source: SlideSource, before: Outcome | None, path: str | None) -> Outcome:
    """Encode a slide, unless that is done already; its row is the caller's to record.

    Args:
        order: how.
        source: the slide.
        before: what ``slides.csv`` said of its id when the run began.
        path: of which slide it said that.

    Raises:
        InputError: this process cannot do what is asked, as it has no such weights or device.
        OSError: the folder cannot be written.
    """
    with _once.lock:
        encoder: Encoder = _once.get(order, _encoder)
    files = FeatureFiles(
        SlidesFolder(order.out),
        order.settings,
        encoder,
        order.dtype,
        {source.id: before} if before else {},
        {source.id: path} if path else {},
    )
    ((_, outcome),) = encode_each([source], files, order.reading)
    return outcome


def answer_slide(order: AnswerOrder, source: SlideSource, outcome: Outcome) -> tuple[Outcome, SlideAnswer | None]:
    """Predict a slide whose features are there, and draw its heatmaps; its row is the caller's to record.

    Returns:
        What became of it, and its answer if it has one.
    """
    from medsoft.deploy.slide_answers import answer_one

    with _once.lock:
        model: SlideModel = _once.get(order, _model)
        return answer_one(source, outcome, model, SlidesFolder(order.out), order.maps)


class _Once:
    """What this process has made for a run, kept for all of its slides.

    Attributes:
        lock: to be held by whoever asks, as several slides begin at once.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._token = ""
        self._made: Any = None

    def get(self, order: Order, make: Callable[[Any], Any]) -> Any:
        """``make(order)``, made at its first use."""
        if self._token != order.token:
            self._token, self._made = "", None  # gone before the next is loaded
            self._made = make(order)
            self._token = order.token
        return self._made


_once = _Once()


def _encoder(order: EncodeOrder) -> Encoder:
    _prepare(order)
    encoder = order.build(device=_device(order))
    if encoder.sha256 != order.sha256:
        raise InputError(f"a worker's file of weights has the SHA-256 {encoder.sha256}, not {order.sha256}")
    return encoder


def _model(order: AnswerOrder) -> SlideModel:
    _prepare(order)
    return order.build(device=_device(order))


def _prepare(order: Order) -> None:
    """This process's share of the processors; Dask sets one thread, whatever there is."""
    import torch

    if order.version != __version__:
        raise InputError(f"a worker has medsoft {__version__}, not {order.version}: use the same everywhere")
    torch.set_num_threads(_share(order))


def _share(order: Order) -> int:
    return max(1, len(os.sched_getaffinity(0)) // order.on_one_machine)


def _device(order: Order) -> str:
    """Each of several processes of a machine has a GPU of its own, as far as they go."""
    import torch
    from distributed import get_worker

    if order.on_one_machine == 1 or order.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return order.device
    return f"cuda:{int(get_worker().name) % torch.cuda.device_count()}"
