"""medsoft's own feature file: HDF5, written completely or not at all, recognised by content.

Of a slide: ``features`` (N, F) float16 or float32; ``coords`` (N, 2) int64, top-left corners in level-0 pixels;
``status`` (N) uint8, 0 read, 1 unreadable, whose features are NaN.
Of an image or volume: ``features`` (N, F) of its tokens, or of one row, the pooled vector; ``coords`` (N, 2) or (N, 3)
float32, corners of the tokens' cells, unless it is the pooled vector; ``pooled`` (1, P) float32; and of augmented
views ``views/features`` (V, N, F) and ``views/pooled`` (V, P). All have checksums.
``docs/reference/feature_files.md`` lists the attributes.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import h5py
import numpy as np

from medsoft import __version__
from medsoft.data.features.bag import Contents, OfImage, TileCoordinates
from medsoft.data.features.hdf5 import (
    corners,
    corners_px0,
    dataset,
    feature_rows,
    number,
    open_hdf5,
    plain_errors,
    text,
)
from medsoft.data.features.new_hdf5 import new_hdf5
from medsoft.data.features.provenance import AnyProvenance, ImageProvenance, Provenance, Unit, canonical
from medsoft.errors import BagError
from medsoft.storage.files import remove_partial_files

__all__ = [
    "READ",
    "UNREADABLE",
    "FeatureWriter",
    "ImageFeatureWriter",
    "is_complete",
    "is_own",
    "read_own",
    "remove_partial_files",
]

READ, UNREADABLE = 0, 1
"""Values of ``status``."""
FORMAT = "medsoft features"
FORMAT_VERSION = 2
VERSION_OF_SLIDES, VERSION_OF_IMAGES = 1, 2
"""Versions of the format; files of slides are those of the first."""
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
        self, path: Path, facts: Provenance, coords_N2_px0: np.ndarray, num_features: int, dtype: str = "float16"
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
            raise ValueError("there must be one status per tile, READ or UNREADABLE")
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


def _why_not(features_F: np.ndarray, tile: int, dtype: str, what: str = "tile") -> str:
    if not np.isfinite(features_F).all():
        return f"the encoder gave NaN or infinite features for {what} {tile}: encode in float32, or check its weights"
    largest = float(np.abs(features_F).max())
    return (
        f"features of {what} {tile} reach {largest:g}, beyond {dtype} (±{np.finfo(dtype).max:g}): store them as float32"
    )


class ImageFeatureWriter:
    """Writes the features of one image or volume; the file appears when the block ends with all of them written.

    ``with ImageFeatureWriter(path, facts, coords, F, P) as writer: writer.write(features, pooled)``

    Args:
        path: the file; its folder is made. One that is there stays until the new one is complete.
        facts: where the features come from; ``facts.views["number"]`` views are to be written, none where it is empty.
        coords_ND: corners of the tokens' cells, (N, 2) or (N, 3), in the unit of ``facts``; None: no tokens, the file
            holds the pooled vector as its one row.
        num_features: F, of a token; P where there are no tokens.
        num_pooled: P, of the pooled vector.
        dtype: type of number of the tokens in the file, float16 or float32. Pooled vectors are always float32.

    Raises:
        ValueError: no tokens, coordinates of the wrong shape, or no such dtype.
        OSError: on entering, writing or leaving the block, the disk is full or cannot be written to.
        BagError: on leaving the block, something was not written. Nothing remains of the file then, nor after any
            error.
    """

    def __init__(
        self,
        path: Path,
        facts: ImageProvenance,
        coords_ND: np.ndarray | None,
        num_features: int,
        num_pooled: int,
        dtype: str = "float16",
    ) -> None:
        coords = None if coords_ND is None else np.asarray(coords_ND, np.float32)
        if coords is not None and (coords.ndim != 2 or coords.shape[1] not in (2, 3) or not np.isfinite(coords).all()):
            raise ValueError(f"coordinates must be finite numbers (tokens, 2) or (tokens, 3), not {coords.shape}")
        if (coords is not None and len(coords) == 0) or min(num_features, num_pooled) < 1:
            raise ValueError("an image has at least one token of one feature")
        if coords is None and num_features != num_pooled:
            raise ValueError("without tokens, the one row is the pooled vector")
        if dtype not in DTYPES:
            raise ValueError(f"features are stored as {' or '.join(DTYPES)}, not {dtype}")
        self._path, self._facts, self._coords = Path(path), facts, coords
        self._shape, self._pooled_length, self._dtype = (
            (1 if coords is None else len(coords), num_features),
            num_pooled,
            dtype,
        )
        self._missing = {None, *range(int(facts.views.get("number", 0)))}
        self._exit = ExitStack()

    def __enter__(self) -> ImageFeatureWriter:
        with ExitStack() as stack:
            self._file, self._check_disk = stack.enter_context(new_hdf5(self._path))
            N, F = self._shape
            V, rows = len(self._missing) - 1, min(N, CHUNK_ROWS)
            create = self._file.create_dataset
            self._file.attrs.update(_attributes(self._facts))
            create("features", (N, F), self._dtype, chunks=(rows, F), fletcher32=True)
            if self._coords is not None:
                create("coords", data=self._coords, fletcher32=True)
            create("status", data=np.full(N, READ, np.uint8), fletcher32=True)
            create("pooled", (1, self._pooled_length), np.float32, chunks=True, fletcher32=True)
            if V:
                create("views/features", (V, N, F), self._dtype, chunks=(1, rows, F), fletcher32=True)
                create("views/pooled", (V, self._pooled_length), np.float32, chunks=True, fletcher32=True)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._missing:
            with self._exit:
                raise BagError(f"{len(self._missing)} of the image and its views were not written")
        self._exit.__exit__(kind, error, trace)

    def write(self, features_NF: np.ndarray | None, pooled_P: np.ndarray, view: int | None = None) -> None:
        """Write the image's features, or those of one of its views.

        Args:
            features_NF: of the tokens; None where the file has no tokens.
            pooled_P: the pooled vector.
            view: which view, from 0 on; None for the image as it is.

        Raises:
            BagError: features are NaN, infinite, or beyond what the file's type holds.
            ValueError: shapes do not fit the file, or there is no such view.
        """
        if view not in self._missing:
            raise ValueError(f"view {view} was written, or is none of the file's")
        if (features_NF is None) != (self._coords is None):
            raise ValueError("tokens go with coordinates")
        pooled = np.asarray(pooled_P, np.float32)
        features = pooled[np.newaxis] if features_NF is None else np.asarray(features_NF)
        if features.shape != self._shape or pooled.shape != (self._pooled_length,):
            raise ValueError(f"features {features.shape} and {pooled.shape} do not fit a file of {self._shape}")
        with np.errstate(over="ignore"):  # found just below
            stored = features.astype(self._dtype)
        bad_N = ~np.isfinite(stored).all(axis=1)
        if bad_N.any():
            first = int(bad_N.argmax())
            raise BagError(_why_not(features[first], first, self._dtype, "token"))
        if not np.isfinite(pooled).all():
            raise BagError("the encoder gave a pooled vector with NaN or infinite features: check its weights")
        if view is None:
            self._file["features"][:], self._file["pooled"][0] = stored, pooled
        else:
            self._file["views/features"][view], self._file["views/pooled"][view] = stored, pooled
        self._check_disk()
        self._missing.discard(view)


def is_complete(path: Path, facts: AnyProvenance, dtype: str = "float16") -> bool:
    """Whether a feature file is there, whole, and what a new one would be.

    Whole: it opens, and all rows are in it; its numbers are not read again. The same, of a slide: its quick hash, size
    and µm per pixel, the settings of the tiles, the encoder with its weights and settings, and the type of number; of
    an image: its content and size, its preparation and views, the encoder, and the type of number; of both, whether
    the computation was in bfloat16.
    Not compared: names, where the resolution came from, the engine, float32 and float16 in the computation, versions.
    """
    if not Path(path).is_file():
        return False
    try:
        with open_hdf5(Path(path)) as file, plain_errors():
            found = read_own(file) if is_own(file) else None
    except BagError:
        return False
    return (
        found is not None
        and found.facts is not None
        and found.rows.dtype == dtype
        and type(found.facts) is type(facts)
        and found.facts.compared == facts.compared
    )


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
    if version > VERSION_OF_SLIDES:
        return _read_image(file)
    facts = _facts(file)
    rows = feature_rows(file, "features")
    N = rows.shape[0]
    coordinates = TileCoordinates.at(corners_px0(file, N), facts.tile_px0, facts.mpp)
    return Contents(rows, coordinates, facts.identity, _status(file, N), facts)


def _status(file: h5py.File, N: int) -> np.ndarray:
    status = dataset(file, "status")
    if status.shape != (N,) or status.dtype != np.uint8:
        raise BagError(f"'status' is {status.dtype} {status.shape}, not uint8 ({N},)")
    with plain_errors("'status' cannot be read"):
        status_N: np.ndarray = status[()]
    if not (status_N == READ).any():
        raise BagError(f"has no tile that could be read (of {N})")
    return status_N


def _read_image(file: h5py.File) -> Contents:
    facts = _image_facts(file)
    rows = feature_rows(file, "features")
    N, F = rows.shape
    coords_ND = corners(file, N, axes=len(facts.cell)).astype(np.float32) if facts.cell else None
    pooled_1P = _numbers(file, "pooled", (1,))
    V, P = int(facts.views.get("number", 0)), pooled_1P.shape[1]
    if V:
        views = dataset(file, "views/features")
        if views.shape != (V, N, F):
            raise BagError(f"'views/features' has the shape {views.shape}, not {(V, N, F)}")
        if dataset(file, "views/pooled").shape != (V, P):
            raise BagError(f"'views/pooled' has not the shape {(V, P)}")

    def read_view(view: int) -> np.ndarray:
        with plain_errors(f"view {view} cannot be read"):
            values: np.ndarray = file["views/features"][view]
            return values

    image = OfImage(coords_ND, pooled_1P, V, read_view, lambda: _numbers(file, "views/pooled", (V,)))
    return Contents(rows, TileCoordinates(), facts.identity, _status(file, N), facts, image=image)


def _numbers(file: h5py.File, name: str, leading: tuple[int]) -> np.ndarray:
    """A dataset of so many vectors, float32."""
    found = dataset(file, name)
    if found.dtype.kind != "f" or found.ndim != 2 or found.shape[:1] != leading:
        raise BagError(f"{name!r} is {found.dtype} {found.shape}, not {leading[0]} vectors")
    with plain_errors(f"{name!r} cannot be read"):
        values: np.ndarray = found[()].astype(np.float32)
    if not np.isfinite(values).all():
        raise BagError(f"{name!r}: features are NaN or infinite: encode the image again")
    return values


_JSON = ("tile_settings", "encoder_settings", "preparation", "views")


def _attributes(facts: AnyProvenance) -> dict[str, Any]:
    values = {name: getattr(facts, name) for name in (field.name for field in fields(facts))}
    values = {name: canonical(value) if name in _JSON else value for name, value in values.items() if value is not None}
    for name in ("regions_from", "engine"):  # as in files of earlier versions
        if not values.get(name):
            values.pop(name, None)
    if isinstance(facts, ImageProvenance):
        version, sizes = VERSION_OF_IMAGES, {}
    else:
        version = VERSION_OF_SLIDES
        sizes = {name: getattr(facts, name) for name in ("tile_px", "tile_um", "tile_px0", "overlap_px")}
    return {"format": FORMAT, "format_version": version, "medsoft_version": __version__, **values, **sizes}


_LATER = ("bounds_px0", "regions_from", "engine")
"""Facts that not all files state: they came later, or are not of all slides."""
_NEEDED = [field.name for field in fields(Provenance) if field.name not in _LATER]


def _facts(file: h5py.File) -> Provenance:
    attributes = file.attrs
    if missing := [name for name in _NEEDED if name not in attributes]:
        raise BagError(f"is damaged: it lacks the attribute {missing[0]}")
    with plain_errors("its attributes cannot be read"):
        words = {name: text(attributes, name) for name in _NEEDED}
        width, height = (int(side) for side in attributes["size_px0"])
        settings = {name: json.loads(words[name]) for name in ("tile_settings", "encoder_settings")}
        facts = Provenance(**{**words, **settings, "size_px0": (width, height), "mpp": float(attributes["mpp"])})
        if "bounds_px0" in attributes:  # not in files of version 0.1
            x, y, width, height = (int(side) for side in attributes["bounds_px0"])
            facts = replace(facts, bounds_px0=(x, y, width, height))
        if "regions_from" in attributes:  # of tiles that regions have left
            facts = replace(facts, regions_from=text(attributes, "regions_from"))
        facts = replace(facts, engine=text(attributes, "engine"))
        if not facts.tile_px0 > 0:
            raise BagError(f"is damaged: a tile is {facts.tile_px0} level-0 pixels wide")
    return facts


_NEEDED_OF_IMAGES = [field.name for field in fields(ImageProvenance) if field.name not in _LATER]


def _image_facts(file: h5py.File) -> ImageProvenance:
    attributes = file.attrs
    if missing := [name for name in _NEEDED_OF_IMAGES if name not in attributes]:
        raise BagError(f"is damaged: it lacks the attribute {missing[0]}")
    with plain_errors("its attributes cannot be read"):
        words: dict[str, Any] = {name: text(attributes, name) for name in _NEEDED_OF_IMAGES}
        words |= {name: json.loads(words[name]) for name in _JSON if name in words}
        for name in ("cell", "affine"):
            words[name] = tuple(float(value) for value in attributes[name])
        words["size"] = tuple(int(side) for side in attributes["size"])
        facts = ImageProvenance(**words, engine=text(attributes, "engine"))
        if facts.unit not in get_args(Unit) or len(facts.cell) not in (0, 2, 3) or not all(x > 0 for x in facts.cell):
            raise BagError("is damaged: it does not say the size of a token's cell")
        if not all(isinstance(found, dict) for found in (facts.preparation, facts.views, facts.encoder_settings)):
            raise BagError("is damaged: its settings are no settings")
        if not isinstance(facts.views.get("number", 0), int) or facts.views.get("number", 0) < 0:
            raise BagError("is damaged: it does not say how many views it has")
    return facts
