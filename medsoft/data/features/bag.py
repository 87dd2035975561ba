"""A bag: the encoded tiles of one slide, or the tokens of one image, read from its file piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medsoft.data.features.provenance import AnyProvenance, EncoderIdentity, ImageProvenance, Provenance, Unit
from medsoft.errors import BagError

PIECE_ROWS = 4096
Frame = Literal["", "um", "mm", "cells", "cells_3d"]
"""What the places that models embed are counted in: µm along two axes, mm along three, cells along two or three."""
FRAMES: dict[tuple[str, int], Frame] = {
    **{("um", 2): "um", ("mm", 3): "mm", ("px", 2): "cells", ("px", 3): "cells_3d"},
}


@dataclass(frozen=True, eq=False)
class TileCoordinates:
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
    def at(cls, coords_N2_px0: np.ndarray, tile_px0: float | None, mpp: float | None) -> TileCoordinates:
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
class OfImage:
    """What a feature file of an image or a volume has besides.

    Attributes:
        coords_ND: corners of the tokens' cells (N, 2) or (N, 3), float32; None where there is a pooled vector only.
        pooled_1F: the pooled vector, float32.
        num_views: V, the augmented views.
        read_view: features (N, F) of a view.
        read_pooled_views: pooled vectors (V, F) of all views.
    """

    coords_ND: np.ndarray | None
    pooled_1F: np.ndarray
    num_views: int
    read_view: Callable[[int], np.ndarray]
    read_pooled_views: Callable[[], np.ndarray]


@dataclass(frozen=True, eq=False)
class Contents:
    """What a reader of one tool's files found.

    Attributes:
        rows: the features.
        coordinates: where the tiles lie.
        identity: which encoder saw which tiles.
        status_N: uint8, 0 for a tile that was read; None if all were.
        facts: what medsoft's own files say besides.
        slide: name of the slide that it was made from; "" where the file does not say.
        image: what the file of an image has besides; None of a slide's.
    """

    rows: Rows
    coordinates: TileCoordinates
    identity: EncoderIdentity
    status_N: np.ndarray | None = None
    facts: AnyProvenance | None = None
    slide: str = ""
    image: OfImage | None = None


class Bag:
    """The encoded tiles of one slide, or the tokens of one image or volume.

    Made by ``open_bag``; closes its file as a context manager or with ``close``. Features are read when asked for. Not
    to be shared between threads or processes: each opens its own.

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
        coords: corners of tiles or of tokens' cells, (N, 2) or (N, 3) float32 in ``unit``: µm of a slide, pixels of
            the original image, mm from the corner of a volume. None where they are not known, and for a pooled vector.
        unit: of ``coords`` and ``cell``: "um", "px" or "mm"; "" where there are no coordinates.
        cell: size of a tile or of a token's cell in that unit, one number an axis of ``coords``; () where not known.
        pooled: (1, F) float32, the encoder's own vector of an image or volume; None for a slide.
        num_views: augmented views that are stored besides; 0 for none.
        status_N: uint8, 0 read, 1 unreadable.
        good_N: bool, the tiles that may be used: those that were read.
        identity: which encoder saw which tiles; equal for bags that can be used together.
        facts: what medsoft's own files say besides; None for other tools' files.
        slide: name of the slide or image that it was made from; "" where the file does not say.
    """

    def __init__(self, path: Path, contents: Contents, file: AbstractContextManager[object]) -> None:
        self.path = path
        self.origin = contents.identity.origin
        self.num_tiles, self.num_features = contents.rows.shape
        self.dtype = contents.rows.dtype
        self.coords_N2_px0 = contents.coordinates.coords_N2_px0
        self.coords_N2_um = contents.coordinates.coords_N2_um
        self.tile_px0 = contents.coordinates.tile_px0
        self.tile_um = contents.coordinates.tile_um
        self.mpp = contents.coordinates.mpp
        status_N = contents.status_N
        self.status_N = np.zeros(self.num_tiles, np.uint8) if status_N is None else status_N
        self.good_N = self.status_N == 0
        self.identity = contents.identity
        self.facts = contents.facts
        self.slide = contents.facts.slide if contents.facts else contents.slide
        self._rows = contents.rows
        self._image = contents.image
        self.coords, self.unit, self.cell = _places(contents)
        self.pooled = contents.image.pooled_1F if contents.image else None
        self.num_views = contents.image.num_views if contents.image else 0
        self._file = file

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def slide_facts(self) -> Provenance | None:
        """What a slide's file of medsoft says besides; None for files of images, and of other tools."""
        return self.facts if isinstance(self.facts, Provenance) else None

    @property
    def places(self) -> np.ndarray | None:
        """``coords`` as models embed them, float32: in µm or mm; of pictures in cells, as a pixel has no size."""
        if self.coords is None or self.unit != "px" or not self.cell:
            return self.coords
        places: np.ndarray = self.coords / np.asarray(self.cell, np.float32)
        return places

    @property
    def frame(self) -> Frame:
        """What ``places`` are counted in, and along how many axes; "" where there are none."""
        if self.coords is None or (self.unit == "px" and not self.cell):
            return ""
        return FRAMES[self.unit, self.coords.shape[1]]

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

    def read_view(self, view: int) -> np.ndarray:
        """Features of an augmented view, (N, F) float32; its tokens lie on the same cells of the input.

        Raises:
            BagError: the file is damaged there, or features are NaN or infinite.
            IndexError: there is no such view.
        """
        if self._image is None or not 0 <= view < self.num_views:
            raise IndexError(f"view {view}: the file has {self.num_views}")
        features_NF = self._image.read_view(view).astype(np.float32, copy=False)
        return _finite(features_NF, f"view {view}")

    def read_pooled_views(self) -> np.ndarray:
        """Pooled vectors of all augmented views, (V, F) float32; V may be 0.

        Raises:
            BagError: the file is damaged there, or they are NaN or infinite.
        """
        if self._image is None or not self.num_views:
            return np.empty((0, self.num_features if self.pooled is None else self.pooled.shape[1]), np.float32)
        return _finite(self._image.read_pooled_views(), "the pooled vectors of the views")

    def chunks(self, rows: int = PIECE_ROWS) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """All tiles that may be used, in order, a limited number at a time.

        Yields:
            Features (n, F) float32 and their ``places`` (n, 2) or (n, 3), float32, or None; 1 ≤ n ≤ ``rows``.

        Raises:
            BagError: as ``read``.
        """
        places_NA = self.places
        for start in range(0, self.num_tiles, rows):
            stop = min(start + rows, self.num_tiles)
            good_n = self.good_N[start:stop]
            if good_n.any():
                places_nA = None if places_NA is None else places_NA[start:stop][good_n]
                features_nF = self.read(start, stop)
                yield (features_nF if good_n.all() else features_nF[good_n]), places_nA

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


def _places(contents: Contents) -> tuple[np.ndarray | None, Unit | Literal[""], tuple[float, ...]]:
    """Coordinates, their unit, and the size of a cell; of slides those in µm, as pixels differ between scanners."""
    if contents.image is not None:
        assert isinstance(contents.facts, ImageProvenance)
        if contents.image.coords_ND is None:
            return None, "", ()
        return contents.image.coords_ND, contents.facts.unit, tuple(contents.facts.cell)
    found = contents.coordinates
    if found.coords_N2_um is None:
        return None, "", ()
    return found.coords_N2_um, "um", () if found.tile_um is None else (found.tile_um,) * 2


def _finite(features: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(features).all():
        raise BagError(f"{what}: features are NaN or infinite: encode the image again")
    return features
