"""A cache of decoded tiles; each is decoded once, even if two threads ask for it at the same time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

import numpy as np


class TileCache:
    """The tiles that were used last.

    Args:
        tiles: how many are kept.
    """

    def __init__(self, tiles: int) -> None:
        self._room = tiles
        self._lock = threading.Lock()
        self._tiles: OrderedDict[Hashable, Future[np.ndarray]] = OrderedDict()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The tile of a key, decoded if it is not there. It belongs to the cache: do not write to it.

        Raises:
            Exception: what ``decode`` raised; it is kept like a tile.
        """
        mine: Future[np.ndarray] | None = None
        with self._lock:
            tile = self._tiles.get(key)
            if tile is None:
                tile = self._tiles[key] = mine = Future()
                if len(self._tiles) > self._room:
                    self._tiles.popitem(last=False)
            else:
                self._tiles.move_to_end(key)
        if mine is not None:
            try:
                mine.set_result(decode())
            except BaseException as error:  # whatever it is, others wait for it
                mine.set_exception(error)
        return tile.result()

    def clear(self) -> None:
        """Keep none of the tiles; those that are being decoded still reach who waits for them."""
        with self._lock:
            self._tiles.clear()
