"""Where work on slides runs: in this process, or in Dask workers here, in jobs of a cluster, or elsewhere."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from medsoft.cluster.jobs import cluster_jobs
from medsoft.cluster.map import Result, Task, each
from medsoft.cluster.options import Workers
from medsoft.cluster.pages import CLOSED_PAGES, QUIET_ENDS
from medsoft.errors import InputError
from medsoft.system.child_processes import fork_children, protect_children
from medsoft.system.signals import SENT_TO_JOBS, Stopped, not_for_children, on_signals

if TYPE_CHECKING:
    from distributed import Client

SLIDES_AT_ONCE = 2
"""Slides in one worker process: while one is encoded, the next is opened and read."""

CONNECT_SECONDS = 30

STATUS_PAGE = "127.0.0.1:0"
"""Dask's scheduler always has one; of medsoft's, only this machine sees it, at any free port."""

TIDY_SECONDS = 12
"""A little longer than a file must lie untouched to be known as left behind."""


class ResultsFolder(Protocol):
    """Where results go.

    Attributes:
        path: the folder.
    """

    path: Path

    def tidy(self) -> list[Path]:
        """Remove what killed runs left half-written; gives what stays, as it may be another run's."""


class Cluster:
    """The worker processes, started when they are first needed, and stopped when the block ends, however it ends.

    What travels between processes is encrypted, and others are refused, where medsoft starts the scheduler. On this
    machine the processes meet at 127.0.0.1, and nothing listens elsewhere.

    Attributes:
        workers: which.

    Args:
        workers: as the attribute.
        folder: of the results; what lost workers leave half-written there is removed.
    """

    def __init__(self, workers: Workers, folder: ResultsFolder) -> None:
        self.workers = workers
        self._folder = folder
        self._client: Client | None = None
        self._stack = ExitStack()
        self._watch: Callable[[], None] | None = None

    def __enter__(self) -> Cluster:
        # SIGTERM ends the block in order, as Ctrl-C does. Progress bars answer it themselves; this is for between them.
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            self._stack.enter_context(on_signals([signal.SIGTERM], _stop))
        return self

    def __exit__(self, *_: object) -> None:
        started = self._client is not None
        self._stack.close()
        if started:
            self._tidy()

    def _tidy(self) -> None:
        """Remove what lost workers left half-written; waits until it is known to be theirs."""
        until = time.monotonic() + TIDY_SECONDS
        while self._folder.tidy() and time.monotonic() < until:
            time.sleep(0.5)

    @property
    def client(self) -> Client:
        """Of Dask.

        Raises:
            InputError: no scheduler answers, or the cluster does not take the jobs.
        """
        if self._client is None:
            try:
                self._client = self._connect()
            except BaseException:
                self._stack.close()
                raise
        return self._client

    def map(self, function: Callable[..., Result], tasks: Sequence[Task]) -> Iterator[list[tuple[int, Result | None]]]:
        """Call ``function(*task)`` for every task in the worker processes; see ``medsoft.cluster.map.each``."""
        if tasks:
            yield from each(self.client, function, tasks, self._look)

    def _look(self) -> None:
        """See whether workers come, while results are waited for.

        Raises:
            RunError: jobs keep ending before they begin to work.
        """
        if self._watch is not None:
            self._watch()

    def _connect(self) -> Client:
        from distributed import Client

        protect_children()
        self._stack.enter_context(_closed())
        if self.workers.scheduler == "local":
            return self._stack.enter_context(Client(self._stack.enter_context(_local(self.workers))))
        if self.workers.submits_jobs:
            settings, jobs = self.workers.cluster, self.workers.jobs or 1
            started = cluster_jobs(
                self.workers.scheduler, settings, jobs, SLIDES_AT_ONCE, STATUS_PAGE, self._folder.path
            )
            cluster, self._watch = self._stack.enter_context(started)
            return self._stack.enter_context(Client(cluster))
        try:
            client = self._stack.enter_context(Client(self.workers.scheduler, timeout=CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            raise InputError(f"--scheduler {self.workers.scheduler}: {' '.join(str(error).split())}") from None
        if not client.nthreads():
            print(f"The scheduler {self.workers.scheduler} has no workers yet: waiting for them", flush=True)
        return client


@contextmanager
def _closed() -> Iterator[None]:
    """Schedulers of this process, and workers that it starts, show nobody anything."""
    import dask

    with dask.config.set(CLOSED_PAGES | QUIET_ENDS):
        yield


@contextmanager
def _local(workers: Workers) -> Iterator[Any]:
    import dask
    from distributed import LocalCluster

    # A slide that has killed two processes is tried alone; no need to let it kill more.
    with not_for_children(SENT_TO_JOBS):
        begun_by = fork_children()
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        dask.config.set({"distributed.worker.multiprocessing-method": begun_by}),
    ):
        with not_for_children(SENT_TO_JOBS):
            started = LocalCluster(
                n_workers=workers.jobs,
                threads_per_worker=SLIDES_AT_ONCE,
                host="127.0.0.1",
                dashboard_address=STATUS_PAGE,
                security=True,
                memory_limit=None,
            )
        with started as cluster:
            try:
                yield cluster
            finally:  # that a process whose work is done does not end by itself in 4 s is no news
                logging.getLogger("distributed.nanny").setLevel(logging.ERROR)


def _stop(number: int) -> NoReturn:
    raise Stopped(number, "stopped; finished work is kept. Run the same command again to continue")
