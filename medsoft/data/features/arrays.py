"""Feature files from other sources: NumPy arrays, tables, and HDF5 with only ``features``; one file per bag or for all.

Nothing of them says which encoder or which tiles; they are bags of origin "array". Places in µm are read where they
are there (``coords_um`` (N, 2), or the columns ``x_um`` and ``y_um``), and needed only by models that embed them.
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from medsoft.data.features.bag import Bag, Contents, Rows, TileCoordinates
from medsoft.data.features.hdf5 import check_features, check_ratio, corners, feature_rows
from medsoft.data.features.provenance import EncoderIdentity
from medsoft.errors import BagError, InputError

if TYPE_CHECKING:
    import pandas as pd  # tables alone need it, and it takes 70 MB

IDENTITY = EncoderIdentity("array")
BAG = "bag"
"""Column of a table of instances that says whose they are."""
BAD_ZIP = (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, TypeError, RuntimeError, SyntaxError)
TABLES = (".csv", ".parquet")
NO_FEATURES = ("label", "target", "class", "split", "fold", "patient", "site", "exam", "id")
"""Columns that would give the answer away, or are names, were they taken for features."""
UM = ("x_um", "y_um")


def read_array(file: h5py.File) -> Contents:
    """``features`` of an HDF5 file without coordinates in pixels, with ``coords_um`` where it has them.

    Raises:
        BagError: it cannot be used.
    """
    rows = feature_rows(file, "features", whole_numbers=True)
    coordinates = TileCoordinates()
    if "coords_um" in file:
        coordinates = TileCoordinates(coords_N2_um=corners(file, rows.shape[0], "coords_um").astype(np.float32))
    return Contents(rows, coordinates, IDENTITY)


def open_npy(path: Path) -> Bag:
    """An array (N, F), mapped into memory, so that rows are read when asked for.

    Raises:
        BagError: it is damaged, cut short, or no such array.
    """
    check_file(path)
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError) as error:
        raise BagError(f"is not a NumPy array, or is cut short ({_first_line(error)})") from error
    return _bag(path, found)


def open_npz(path: Path) -> Bag:
    """``features`` (N, F), or the only array of two axes, of an ``.npz``; every byte is checked by zip's checksums.

    Raises:
        BagError: it is damaged, or has no such array.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            arrays = {}
            for name in [name for name in ("features", "coords_um") if name in names] or list(names)[:1]:
                check_ratio(name, names[name].file_size, names[name].compress_size)
                arrays[name] = _array(archive.read(names[name]))
    except BAD_ZIP as error:
        raise BagError(f"is not an .npz file of plain arrays, or is damaged ({_first_line(error)})") from error
    if "features" not in names and len(names) != 1:
        raise BagError(f"has no array 'features': it holds {', '.join(sorted(names)) or 'nothing'}")
    features = arrays.pop("features") if "features" in arrays else arrays.popitem()[1]
    return _bag(path, features, arrays.get("coords_um"))


def _array(raw: bytes) -> np.ndarray:
    """The array of a member; its header is not believed: what it declares must be what is there."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(file)
    there = len(raw) - file.tell()
    if dtype.hasobject or prod(shape) * dtype.itemsize != there:
        raise ValueError(f"it declares {dtype} {shape}, and {there:,} bytes are there")
    return np.frombuffer(raw, dtype, offset=file.tell()).reshape(shape, order="F" if by_columns else "C")


def open_parquet(path: Path) -> Bag:
    """A table with one row per tile, whose columns are the features.

    Raises:
        BagError: it is damaged, or has columns of other things than numbers.
    """
    check_file(path)
    return _bag(path, *_features_of(_read_parquet(path)))


def is_instance_table(path: Path) -> bool:
    """Whether a name is that of a table of instances (not looked into)."""
    return path.suffix.lower() in TABLES


def open_instances(path: Path, name: str) -> Bag:
    """One bag of a table with one row an instance, which a column ``bag`` divides into bags.

    Raises:
        BagError: the table cannot be used, or has no such bag.
    """
    bags = instances(path)
    if name not in bags:
        raise BagError(f"has no rows of this {BAG}")
    return _bag(path, *bags[name])


def instances(path: Path) -> Mapping[str, tuple[np.ndarray, np.ndarray | None]]:
    """Features and places of all bags of a table of instances, by name; read once while the file stays as it is.

    Raises:
        BagError: it cannot be used.
    """
    check_file(path)
    found = path.stat()
    return _instances(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=2)
def _instances(path: Path, size: int, time: int) -> Mapping[str, tuple[np.ndarray, np.ndarray | None]]:
    import pandas as pd

    from medsoft.data.tables.reading import load_source, text

    try:
        frame = _read_parquet(path) if path.suffix.lower() == ".parquet" else load_source(path)
    except InputError as error:
        raise BagError(str(error).removeprefix(f"{path}: ")) from None
    if BAG not in frame:
        raise BagError(f"has no column {BAG!r}, which says to which bag each row belongs")
    names = text(frame[BAG]).to_numpy(dtype=object)
    if (names == "").any():
        raise BagError(f"row {int((names == '').argmax()) + 1} belongs to no bag: its column {BAG!r} is empty")
    features_NF, coords_N2_um = _features_of(frame.drop(columns=BAG))
    codes, order = pd.factorize(names)
    rows_of = [np.flatnonzero(codes == code) for code in range(len(order))] if len(order) < 1000 else _groups(codes)
    return {
        str(name): (features_NF[rows], None if coords_N2_um is None else coords_N2_um[rows])
        for name, rows in zip(order, rows_of, strict=True)
    }


def _groups(codes: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            about = file.metadata
            check_ratio("the table", about.num_rows * about.num_columns * 4, path.stat().st_size)
            check_features("the table", (about.num_rows, about.num_columns), True, "")
            frame: pd.DataFrame = file.read().to_pandas()
            return frame
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BagError(f"is not a Parquet table, or is damaged ({_first_line(error)})") from error


def _features_of(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
    """Features (N, F) and places (N, 2) in µm or None, from the columns of a table."""
    import pandas as pd

    if wrong := [str(name) for name in frame if str(name).lower() in NO_FEATURES]:
        raise BagError(f"the column {wrong[0]!r} would become a feature: leave it out, every column is one")
    columns = {str(name): pd.to_numeric(frame[name], errors="coerce") for name in frame}
    for name, values in columns.items():
        given = frame[name].astype(object)
        if values.dtype.kind not in "iuf" or (values.isna() & given.notna() & (given != "")).any():
            raise BagError(f"the column {name!r} holds values that are not numbers: every column is a feature")
    numbers = pd.DataFrame(columns)
    coords = numbers[list(UM)].to_numpy(dtype=np.float32) if all(name in numbers for name in UM) else None
    features = numbers.drop(columns=list(UM)) if coords is not None else numbers
    return features.to_numpy(dtype=np.float64), coords


def _bag(path: Path, features_NF: np.ndarray, coords_N2_um: np.ndarray | None = None) -> Bag:
    name = "the array"
    is_number = features_NF.dtype.kind in "iuf"
    shape = check_features(name, features_NF.shape, is_number, str(features_NF.dtype))
    if coords_N2_um is not None:
        fits = coords_N2_um.shape == (shape[0], 2) and coords_N2_um.dtype.kind in "iuf"
        if not fits or not np.isfinite(coords_N2_um).all():
            raise BagError(f"'coords_um' are not finite numbers of the shape {(shape[0], 2)}")
        coords_N2_um = coords_N2_um.astype(np.float32)

    def read(start: int, stop: int) -> np.ndarray:
        return np.asarray(features_NF[start:stop])

    rows = Rows(shape, str(features_NF.dtype), read)
    return Bag(path, Contents(rows, TileCoordinates(coords_N2_um=coords_N2_um), IDENTITY), nullcontext())


def check_file(path: Path) -> None:
    """Check that this is an ordinary file with something in it that can be opened.

    Raises:
        BagError: it is not.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise BagError("is a directory, not a file" if stat.S_ISDIR(mode) else "is a pipe or a device, not a file")
        with path.open("rb") as file:
            if not file.read(1):
                raise BagError("is empty (0 bytes)")
    except OSError as error:
        raise BagError(f"cannot be opened: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
