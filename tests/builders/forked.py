"""Processes of medsoft that begin with everything imported: Python, torch and others take seconds to start."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tests.builders.waiting import LIMIT_SECONDS

PRELOADED = (
    *("medsoft.workflows.fit", "medsoft.workflows.predict", "medsoft.data.datasets.image_module", "medsoft.tasks"),
    *("medsoft.inference.slides.encode_cohort", "medsoft.data.transforms.augment", "medsoft.classifiers.objectives"),
    *("torch.utils.tensorboard", "albumentations", "omegaconf", "sklearn.isotonic", "distributed"),
)
"""Modules that runs import at last, if not at first."""


@cache
def fork_server() -> ForkServerContext:
    """Starts processes as copies of one that has imported what medsoft needs and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class Forked:
    """A command line of medsoft in a process of its own, as ``python -m medsoft`` would run it.

    It leads a process group. What it says is kept in files until it is asked for.

    Args:
        words: of the command line, after ``medsoft``.
        before: called in the new process first; a function of a module, with what it needs bound by ``partial``.
        environment: variables beside those of this process.
    """

    def __init__(
        self, *words: object, before: Callable[[], None] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._said = Path(tempfile.mkdtemp())
        variables = {**os.environ, **(environment or {})}
        run = partial(_run, [str(word) for word in words], before, variables, Path.cwd(), self._said)
        self._process = fork_server().Process(target=run)
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """What it ended with, if it has; the negative number of the signal that ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As of ``subprocess.Popen``."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the process alone."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Until it has ended; gives the exit code."""
        self._process.join(LIMIT_SECONDS)
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"it did not end: {self.said()}")
        return self.returncode

    def said(self) -> tuple[str, str]:
        """Standard output and standard error so far."""
        return tuple((self._said / name).read_text() for name in ("out", "err") if (self._said / name).is_file())

    def communicate(self) -> tuple[str, str]:
        """Standard output and standard error, when it has ended."""
        self.wait()
        return self.said()


def two_ranks(
    *words: object, before: Callable[[], None] | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Forked, Forked]:
    """A command line in two processes that train together, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    together |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", **(environment or {})}
    first, second = (
        Forked(*words, before=before, environment={**together, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    )
    return first, second


def _run(
    words: list[str], before: Callable[[], None] | None, environment: dict[str, str], folder: Path, said: Path
) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in every process that is not one of a fork server
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the server may have begun where some were blocked
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    sys.argv = ["medsoft", *words]
    if before is not None:
        before()
    from medsoft.cli.main import main

    try:
        sys.exit(main(words))
    finally:
        atexit._run_exitfuncs()  # as at the end of every process, but of those of multiprocessing
