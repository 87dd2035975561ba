"""Prefetching and parallel work in threads.

Threads are daemons, and are waited for no longer than ``PATIENCE_SECONDS`` when the work is given up: a read that
hangs, on a file server that has gone, must not keep the process from ending.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")

LOOK_SECONDS = 0.1
"""How often a thread with a full queue looks whether anybody still wants its items."""

PATIENCE_SECONDS = 10.0
"""How long threads may go on when the work is given up; SLURM grants a job 30 s between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def prefetch(items: Generator[T, None, None], length: int, look: Callable[[], None] | None = None) -> Iterator[T]:
    """The same items in the same order, made in a thread of their own.

    At most ``length`` items wait. An error of the generator is raised where its item would have come. When the caller
    stops early, the generator is closed in its thread, and this waits for it.

    Args:
        items: advanced and closed in one thread.
        length: 1 or more.
        look: called every ``LOOK_SECONDS`` while an item is waited for; what it raises ends the work.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(length)
    stopped = threading.Event()

    def put(entry: T | _End) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=LOOK_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        error = None
        try:
            for item in items:
                if not put(item):
                    break
            items.close()
        except BaseException as raised:  # whatever it is, it is the caller's
            error = raised
        put(_End(error))

    thread = threading.Thread(target=run, name="ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(entry := _next(waiting, look), _End):
            yield entry
        if entry.error is not None:
            raise entry.error
    finally:
        stopped.set()
        thread.join(PATIENCE_SECONDS)


def each_in_threads(
    function: Callable[[T], Result], items: Sequence[T], workers: int, look: Callable[[], None]
) -> Iterator[tuple[T, Result]]:
    """``function`` of every item, in several threads; results come as they are done.

    When the caller stops early, or a function raises, items that have not begun are left out.

    Args:
        function: its errors are raised here.
        items: what to do.
        workers: threads, 1 or more.
        look: called every ``LOOK_SECONDS`` while results are waited for; what it raises ends the work.
    """
    waiting = iter(items)
    taking = threading.Lock()
    stopped = threading.Event()
    results: queue.Queue[tuple[T, Result] | _End] = queue.Queue()

    def run() -> None:
        while not stopped.is_set():
            with taking:
                item = next(waiting, _NOTHING)
            if isinstance(item, _Nothing):
                return
            try:
                results.put((item, function(item)))
            except BaseException as raised:  # whatever it is, it is the caller's
                results.put(_End(raised))
                return

    threads = [threading.Thread(target=run, name="each", daemon=True) for _ in range(min(workers, len(items)))]
    for thread in threads:
        thread.start()
    try:
        for _ in items:
            result = _next(results, look)
            if isinstance(result, _End):
                assert result.error is not None, "an end without an error is not put"
                raise result.error
            yield result
    finally:
        stopped.set()
        end = time.monotonic() + PATIENCE_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


def _next(waiting: queue.Queue[T], look: Callable[[], None] | None) -> T:
    """The next of a queue; ``look`` is called while it is waited for."""
    if look is None:
        return waiting.get()
    while True:
        look()
        with suppress(queue.Empty):
            return waiting.get(timeout=LOOK_SECONDS)


class DaemonPool:
    """As ``concurrent.futures.ThreadPoolExecutor``, whose threads Python waits for at its end, with daemons.

    Args:
        workers: threads.
        name: of the threads.
    """

    def __init__(self, workers: int, name: str) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[T], Result], item: T) -> Future[Result]:
        """``function(item)`` in one of the threads, in the order of the calls."""
        future: Future[Result] = Future()

        def work() -> None:
            if self._closed.is_set():
                future.cancel()
                return
            try:
                future.set_result(function(item))
            except BaseException as raised:  # whatever it is, it is the caller's
                future.set_exception(raised)

        self._tasks.put(work)
        return future

    def close(self) -> None:
        """Wait for what has begun, and leave out the rest."""
        self._closed.set()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()


class _Nothing:
    """In place of an item: there are no more."""


_NOTHING = _Nothing()
