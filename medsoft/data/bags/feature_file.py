"""medsoft's own feature file: one slide, HDF5, written whole or not at all, recognised by what is in it.

``features`` (N, F) float16 or float32; ``coords`` (N, 2) int64, top-left corners in level-0 pixels; ``status`` (N)
uint8, 0 read, 1 unreadable, whose features are NaN. All have checksums. ``docs/feature_files.md`` lists the attributes.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from medsoft import __version__
from medsoft.data.bags.bag import Contents, Places
from medsoft.data.bags.errors import BagError
from medsoft.data.bags.facts import FeatureFacts, canonical
from medsoft.data.bags.hdf5 import corners_px0, dataset, feature_rows, number, open_hdf5, said_plainly, text
from medsoft.data.bags.new_hdf5 import new_hdf5
from medsoft.files import remove_partial_files

__all__ = ["READ", "UNREADABLE", "FeatureWriter", "is_complete", "is_own", "read_own", "remove_partial_files"]

READ, UNREADABLE = 0, 1
"""Values of ``status``."""
FORMAT = "medsoft features"
FORMAT_VERSION = 1
CHUNK_ROWS = 256
"""Rows that are stored, checked and read together."""
DTYPES = ("float16", "float32")


class FeatureWriter:
    """Writes a slide's features as they come; the file appears when the block ends with all rows written.

    ``with FeatureWriter(path, facts, coords, F) as writer: writer.write(0, features, status)``

    Args:
        path: the file; its folder is made. One that is there stays until the new one is complete.
        facts: where the features come from.
        coords_N2_px0: top-left corners (x, y) of the tiles in level-0 pixels, whole numbers.
        num_features: F.
        dtype: type of number of the features in the file, float16 or float32.

    Raises:
        ValueError: no tiles, coordinates of the wrong shape or type, or no such dtype.
        OSError: on entering, writing or leaving the block, the disk is full or cannot be written to.
        BagError: on leaving the block, rows are missing. Nothing remains of the file then, nor after any error.
    """

    def __init__(
        self, path: Path, facts: FeatureFacts, coords_N2_px0: np.ndarray, num_features: int, dtype: str = "float16"
    ) -> None:
        coords = np.asarray(coords_N2_px0)
        if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype.kind not in "iu":
            raise ValueError(f"coordinates must be integers (tiles, 2), not {coords.dtype} {coords.shape}")
        if len(coords) == 0 or num_features < 1:
            raise ValueError("a bag has at least one tile of one feature: a slide without tissue has no feature file")
        if dtype not in DTYPES:
            raise ValueError(f"features are stored as {' or '.join(DTYPES)}, not {dtype}")
        self._path, self._facts, self._coords, self._shape = Path(path), facts, coords, (len(coords), num_features)
        self._dtype = dtype
        self._missing_N = np.ones(len(coords), bool)
        self._exit = ExitStack()

    def __enter__(self) -> FeatureWriter:
        with ExitStack() as stack:
            file, self._check_disk = stack.enter_context(new_hdf5(self._path))
            N, F = self._shape
            rows = min(N, CHUNK_ROWS)
            file.attrs.update(_attributes(self._facts))
            self._features = file.create_dataset("features", (N, F), self._dtype, chunks=(rows, F), fletcher32=True)
            file.create_dataset("coords", data=self._coords.astype(np.int64), fletcher32=True)
            self._status = file.create_dataset("status", (N,), np.uint8, chunks=(rows,), fletcher32=True)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._missing_N.any():
            error = BagError(f"{self._missing_N.sum()} of {len(self._missing_N)} tiles were not written")
            with self._exit:
                raise error
        self._exit.__exit__(kind, error, trace)

    def write(self, start: int, features_nF: np.ndarray, status_n: np.ndarray) -> None:
        """Write the tiles from ``start`` on; in any order, quickest in order.

        Args:
            start: the first tile's row.
            features_nF: (n, F) of any floating-point type.
            status_n: READ or UNREADABLE for each; features of tiles that are not READ are stored as NaN.

        Raises:
            BagError: features of a tile that was read are NaN, infinite, or beyond what the file's type holds
                (±65,504 for float16; not stored as infinity).
            ValueError: shapes do not fit each other or the file.
        """
        features_nF, status_n = np.asarray(features_nF), np.asarray(status_n, np.uint8)
        stop = start + len(features_nF)
        if start < 0 or stop > self._shape[0] or features_nF.shape[1:] != self._shape[1:]:
            raise ValueError(f"rows {start} to {stop - 1} of {features_nF.shape} do not fit a file of {self._shape}")
        if status_n.shape != (len(features_nF),) or not np.isin(status_n, (READ, UNREADABLE)).all():
            raise ValueError("there must be one status a tile, READ or UNREADABLE")
        good_n = status_n == READ
        with np.errstate(over="ignore"):  # found just below
            stored_nF = features_nF.astype(self._dtype)
        stored_nF[~good_n] = np.nan
        bad_n = good_n & ~np.isfinite(stored_nF).all(axis=1)
        if bad_n.any():
            first = int(bad_n.argmax())
            raise BagError(_why_not(features_nF[first], start + first, self._dtype))
        self._features[start:stop] = stored_nF
        self._status[start:stop] = status_n
        self._check_disk()
        self._missing_N[start:stop] = False


def _why_not(features_F: np.ndarray, tile: int, dtype: str) -> str:
    if not np.isfinite(features_F).all():
        return f"the encoder gave NaN or infinite features for tile {tile}: encode in float32, or check its weights"
    largest = float(np.abs(features_F).max())
    return (
        f"features of tile {tile} reach {largest:g}, beyond {dtype} (±{np.finfo(dtype).max:g}): store them as float32"
    )


def is_complete(path: Path, facts: FeatureFacts, dtype: str = "float16") -> bool:
    """Whether a feature file is there, whole, and what a new one would be.

    Whole: it opens, and all rows are in it; its numbers are not read again. The same: the slide's quick hash, size
    and µm per pixel, the settings of the tiles, the encoder with its weights and settings, and the type of number.
    Not compared: the slide's name, where the resolution came from, the precision of the computation, versions.
    """
    if not Path(path).is_file():
        return False
    try:
        with open_hdf5(Path(path)) as file, said_plainly():
            found = read_own(file) if is_own(file) else None
    except BagError:
        return False
    return found is not None and found.rows.dtype == dtype and _compared(found.facts) == _compared(facts)


def _compared(facts: FeatureFacts | None) -> object:
    return facts and (facts.quick_hash, tuple(facts.size_px0), facts.mpp, facts.identity)


def is_own(file: h5py.File) -> bool:
    """Whether medsoft wrote this file."""
    return text(file.attrs, "format") == FORMAT


def read_own(file: h5py.File) -> Contents:
    """Features, places and facts.

    Raises:
        BagError: it is damaged, or of a later version of the format.
    """
    version = number(file.attrs, "format_version")
    if version is None or version > FORMAT_VERSION:
        raise BagError(
            f"has version {version or '?'} of the format, this medsoft ({__version__}) reads up to {FORMAT_VERSION}"
        )
    facts = _facts(file)
    rows = feature_rows(file, "features")
    N = rows.shape[0]
    places = Places.at(corners_px0(file, N), facts.tile_px0, facts.mpp)
    status = dataset(file, "status")
    if status.shape != (N,) or status.dtype != np.uint8:
        raise BagError(f"'status' is {status.dtype} {status.shape}, not uint8 ({N},)")
    with said_plainly("'status' cannot be read"):
        status_N = status[()]
    if not (status_N == READ).any():
        raise BagError(f"has no tile that could be read (of {N})")
    return Contents(rows, places, facts.identity, status_N, facts)


def _attributes(facts: FeatureFacts) -> dict[str, Any]:
    values = {name: getattr(facts, name) for name in (field.name for field in fields(facts))}
    values |= {name: canonical(values[name]) for name in ("tile_settings", "encoder_settings")}
    sizes = {name: getattr(facts, name) for name in ("tile_px", "tile_um", "tile_px0", "overlap_px")}
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "medsoft_version": __version__, **values, **sizes}


def _facts(file: h5py.File) -> FeatureFacts:
    attributes = file.attrs
    if missing := [field.name for field in fields(FeatureFacts) if field.name not in attributes]:
        raise BagError(f"is damaged: it lacks the attribute {missing[0]}")
    with said_plainly("its attributes cannot be read"):
        words = {field.name: text(attributes, field.name) for field in fields(FeatureFacts)}
        width, height = (int(side) for side in attributes["size_px0"])
        settings = {name: json.loads(words[name]) for name in ("tile_settings", "encoder_settings")}
        facts = FeatureFacts(**{**words, **settings, "size_px0": (width, height), "mpp": float(attributes["mpp"])})
        if not facts.tile_px0 > 0:
            raise BagError(f"is damaged: a tile is {facts.tile_px0} level-0 pixels wide")
    return facts
