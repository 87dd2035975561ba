"""A bag: the encoded tiles of one slide, read from its file piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsoft.data.bags.errors import BagError
from medsoft.data.bags.facts import EncoderIdentity, FeatureFacts

PIECE_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Places:
    """Where tiles lie in their slide. What a file does not say is None; nothing is guessed from a magnification.

    Attributes:
        coords_N2_px0: top-left corners (x, y) in level-0 pixels, int64.
        coords_N2_um: top-left corners (x, y) in µm from the slide's corner, float32.
        tile_px0: side of a tile in level-0 pixels, not rounded.
        tile_um: side of a tile in µm.
        mpp: µm per level-0 pixel.
    """

    coords_N2_px0: np.ndarray | None = None
    coords_N2_um: np.ndarray | None = None
    tile_px0: float | None = None
    tile_um: float | None = None
    mpp: float | None = None

    @classmethod
    def at(cls, coords_N2_px0: np.ndarray, tile_px0: float | None, mpp: float | None) -> Places:
        """Places in level-0 pixels, and in µm where the resolution is known."""
        if mpp is None:
            return cls(coords_N2_px0, tile_px0=tile_px0)
        tile_um = None if tile_px0 is None else tile_px0 * mpp
        return cls(coords_N2_px0, (coords_N2_px0 * mpp).astype(np.float32), tile_px0, tile_um, mpp)


@dataclass(frozen=True, eq=False)
class Rows:
    """Features in a file.

    Attributes:
        shape: (N, F).
        dtype: type of number in the file.
        read: features (n, F) of the tiles from ``start`` up to ``stop``, in any floating-point type.
    """

    shape: tuple[int, int]
    dtype: str
    read: Callable[[int, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class Contents:
    """What a reader of one tool's files found.

    Attributes:
        rows: the features.
        places: where the tiles lie.
        identity: which encoder saw which tiles.
        status_N: uint8, 0 for a tile that was read; None if all were.
        facts: what medsoft's own files say besides.
    """

    rows: Rows
    places: Places
    identity: EncoderIdentity
    status_N: np.ndarray | None = None
    facts: FeatureFacts | None = None


class Bag:
    """The encoded tiles of one slide. Made by ``open_bag``; closes its file as a context manager or with ``close``.

    Features are read when asked for. Not to be shared between threads or processes: each opens its own.

    Attributes:
        path: the file.
        origin: the tool that wrote it: "medsoft", "trident", "clam" or "stamp".
        num_tiles: N.
        num_features: F.
        dtype: type of number in the file; ``read`` gives float32 from any.
        coords_N2_px0: top-left corners in level-0 pixels, int64; None where the file does not give them.
        coords_N2_um: top-left corners in µm, float32; None where the file does not give them, or no µm per pixel.
        tile_px0: side of a tile in level-0 pixels, or None.
        tile_um: side of a tile in µm, or None.
        mpp: µm per level-0 pixel, or None.
        status_N: uint8, 0 read, 1 unreadable.
        good_N: bool, the tiles that may be used: those that were read.
        identity: which encoder saw which tiles; equal for bags that can be used together.
        facts: what medsoft's own files say besides; None for other tools' files.
    """

    def __init__(self, path: Path, contents: Contents, file: AbstractContextManager[object]) -> None:
        self.path = path
        self.origin = contents.identity.origin
        self.num_tiles, self.num_features = contents.rows.shape
        self.dtype = contents.rows.dtype
        self.coords_N2_px0 = contents.places.coords_N2_px0
        self.coords_N2_um = contents.places.coords_N2_um
        self.tile_px0 = contents.places.tile_px0
        self.tile_um = contents.places.tile_um
        self.mpp = contents.places.mpp
        status_N = contents.status_N
        self.status_N = np.zeros(self.num_tiles, np.uint8) if status_N is None else status_N
        self.good_N = self.status_N == 0
        self.identity = contents.identity
        self.facts = contents.facts
        self._rows = contents.rows
        self._file = file

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._file.__exit__(None, None, None)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Features of the tiles from ``start`` up to ``stop`` (all by default), as stored: NaN where unreadable.

        Returns:
            (n, F) float32. Beside it, a few thousand rows are held in memory.

        Raises:
            BagError: the file is damaged there, or features of a tile that was read are NaN or infinite.
        """
        stop = self.num_tiles if stop is None else min(stop, self.num_tiles)
        features_nF = np.empty((max(0, stop - start), self.num_features), np.float32)
        for first in range(start, stop, PIECE_ROWS):
            last = min(first + PIECE_ROWS, stop)
            features_nF[first - start : last - start] = self._read_piece(first, last)
        return features_nF

    def chunks(self, rows: int = PIECE_ROWS) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """All tiles that may be used, in order, a limited number at a time.

        Yields:
            Features (n, F) float32 and corners (n, 2) in µm, float32, or None; 1 ≤ n ≤ ``rows``.

        Raises:
            BagError: as ``read``.
        """
        for start in range(0, self.num_tiles, rows):
            stop = min(start + rows, self.num_tiles)
            good_n = self.good_N[start:stop]
            if good_n.any():
                coords = None if self.coords_N2_um is None else self.coords_N2_um[start:stop][good_n]
                features_nF = self.read(start, stop)
                yield (features_nF if good_n.all() else features_nF[good_n]), coords

    def _read_piece(self, start: int, stop: int) -> np.ndarray:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is found below
            features_nF = self._rows.read(start, stop).astype(np.float32, copy=False)
        bad_n = self.good_N[start:stop] & ~np.isfinite(features_nF).all(axis=1)
        if bad_n.any():
            first = start + int(bad_n.argmax())
            raise BagError(
                f"features are NaN or infinite for {bad_n.sum()} of the tiles {start} to {stop - 1}, the first is "
                f"{first}: encode the slide again, in float32 if this came from mixed precision"
            )
        return features_nF
