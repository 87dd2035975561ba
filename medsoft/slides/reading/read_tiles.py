"""Reads many tiles with threads ahead of the caller, neighbours in the same thread, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy as np

from medsoft.errors import TileError
from medsoft.slides.encoding.prefetch import DaemonPool

Result = tuple[int, np.ndarray | TileError]

RUN_TILES = 16
"""Tiles of a run that one thread reads: neighbours, which share what is decoded, and few handovers between threads."""

RUN_BYTES = 2**24
"""Bytes of a run: large tiles make shorter ones. So does a small number of tiles, for all threads to get some."""


def read_tiles(
    read: Callable[[int, int], np.ndarray], coords_N2_px0: np.ndarray, size_px: int, workers: int = 1
) -> Iterator[Result]:
    """Call ``read`` for every corner, sorted by y, then x, from ``workers`` threads.

    At most ``2 * workers + 1`` runs of tiles wait for the caller at any time.

    Args:
        read: takes x and y in level-0 pixels, returns a tile or raises TileError.
        coords_N2_px0: (N, 2) upper left corners (x, y).
        size_px: side of the tiles, for the memory they take.
        workers: threads.

    Yields:
        Row in ``coords_N2_px0``, and the tile or its error.
    """
    coords = np.asarray(coords_N2_px0).reshape(-1, 2)
    order = np.lexsort((coords[:, 0], coords[:, 1]))
    length = max(1, min(RUN_TILES, RUN_BYTES // (3 * size_px**2), len(order) // (2 * workers)))

    def read_run(rows: np.ndarray) -> list[Result]:
        return [(int(row), _tile_or_error(read, *coords[row])) for row in rows]

    waiting: deque[Future[list[Result]]] = deque()
    pool = DaemonPool(workers, "tiles")
    try:
        for start in range(0, len(order), length):
            waiting.append(pool.submit(read_run, order[start : start + length]))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.close()  # the caller may leave early


def _tile_or_error(read: Callable[[int, int], np.ndarray], x_px0: int, y_px0: int) -> np.ndarray | TileError:
    try:
        return read(int(x_px0), int(y_px0))
    except TileError as error:
        return error.with_traceback(None)
