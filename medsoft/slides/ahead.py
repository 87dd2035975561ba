"""Work that runs ahead of whoever takes its results."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.1
"""How often a thread with a full queue looks whether anybody still wants its items."""


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def read_ahead(items: Generator[T, None, None], length: int) -> Iterator[T]:
    """The same items in the same order, made in a thread of their own.

    At most ``length`` items wait. An error of the generator is raised where its item would have come. When the caller
    stops early, the generator is closed in its thread, and this waits for it.

    Args:
        items: advanced and closed in one thread.
        length: 1 or more.
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
        while not isinstance(entry := waiting.get(), _End):
            yield entry
        if entry.error is not None:
            raise entry.error
    finally:
        stopped.set()
        thread.join()
