"""How busy reading and the model are while slides or images are encoded: the slower of the two sets the pace."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Busy:
    """Seconds that reading and the model worked, since the first of either began.

    Reading is added by one thread and the model by another; each only adds to its own number.
    """

    def __init__(self) -> None:
        self.reading = 0.0
        self.model = 0.0
        self._since: float | None = None

    @contextmanager
    def with_model(self) -> Iterator[None]:
        """The model computes while the block runs."""
        begin = self._begin()
        try:
            yield
        finally:
            self.model += time.perf_counter() - begin

    def add_reading(self, seconds: float) -> None:
        """Reading took so long, until now."""
        if self._since is None:
            self._since = time.perf_counter() - seconds
        self.reading += seconds

    def while_reading(self, items: Generator[T, None, None]) -> Generator[T, None, None]:
        """The same items; what making them takes is reading, and not what their taker takes or lets them wait."""
        try:
            while True:
                begin = self._begin()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.reading += time.perf_counter() - begin
                yield item
        finally:
            items.close()

    @property
    def shares(self) -> tuple[float, float]:
        """Of reading and of the model, in the time since the first of them began; 0 before."""
        if self._since is None:
            return 0.0, 0.0
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        return min(1.0, self.reading / elapsed), min(1.0, self.model / elapsed)

    def _begin(self) -> float:
        now = time.perf_counter()
        if self._since is None:
            self._since = now
        return now
