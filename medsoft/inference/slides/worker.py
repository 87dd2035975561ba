"""What all slides of a run contribution, and what a worker process keeps from slide to slide."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from medsoft import __version__
from medsoft.cluster.options import Workers
from medsoft.errors import InputError
from medsoft.system.cores import usable_cores

Made = TypeVar("Made")

KILLED = "the worker process died with this slide, also when it was alone: out of memory, or a decoder that crashes"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What holds for all slides of a run.

    Attributes:
        out: the folder of the results, absolute.
        where: the work runs.
        version: of medsoft.
        token: of the run, to know its tasks from those of another.
    """

    out: Path
    where: Workers
    version: str = __version__
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def processors(self) -> int:
        """Processors for one of the processes that do the work."""
        return max(1, usable_cores() // self.where.on_one_machine)


class Once:
    """What this process has made for a job, kept for all of its slides.

    Attributes:
        lock: to be held by whoever asks, as several slides begin at once.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._token = ""
        self._made: object = None

    def build(self, job: Job, build: Callable[..., Made]) -> Made:
        """``build(device=…)``, called at its first use, on this process's share of the machine.

        Raises:
            InputError: this process has another version of medsoft.
        """
        if self._token != job.token:
            self._token, self._made = "", None  # gone before the next is loaded
            _prepare(job)
            self._made = build(device=_device(job))
            self._token = job.token
        made: Made = self._made  # type: ignore[assignment]
        return made


once = Once()


def _prepare(job: Job) -> None:
    """This process's share of the processors; Dask sets one thread, whatever there is."""
    import torch

    if job.version != __version__:
        raise InputError(f"a worker has medsoft {__version__}, not {job.version}: use the same everywhere")
    torch.set_num_threads(job.processors)


def _device(job: Job) -> str:
    """Each of several processes of a machine has a GPU of its own, as far as they go."""
    import torch
    from distributed import get_worker

    device = job.where.device
    if job.where.on_one_machine == 1 or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{int(get_worker().name) % torch.cuda.device_count()}"
