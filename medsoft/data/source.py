"""The table as the user wrote it: CSV, Parquet, or the arrays of a MedMNIST-style ``.npz``."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from medsoft.data.read import npz_shapes
from medsoft.errors import InputError


def load_source(table: str | Path) -> pd.DataFrame:
    """Load a sample table without interpreting it.

    Args:
        table: ``.csv`` (UTF-8, commas, a header line; every value is kept as text, so that leading zeros stay),
            ``.parquet``, or ``.npz`` with arrays ``<split>_images`` and ``<split>_labels`` as MedMNIST has them.

    Returns:
        The columns as they are, the index counting rows from 0. Of an ``.npz``: ``path`` ("file.npz#train_images/12"),
        ``split`` and ``label``, or ``label_0``, ``label_1``, ... where a sample has several labels.

    Raises:
        InputError: there is no such file, it is empty, or it is not such a table.
    """
    table = Path(table)
    loaders = {".csv": _load_csv, ".parquet": _load_parquet, ".npz": _load_npz}
    if table.suffix.lower() not in loaders:
        raise InputError(
            f"{table}: a table is a file {', '.join(loaders)}, not {table.suffix or 'one without a suffix'}"
        )
    if not table.is_file():
        raise InputError(f"{table}: no such table")
    try:
        frame = loaders[table.suffix.lower()](table)
    except OSError as error:
        raise InputError(f"{table}: cannot be opened: {error.strerror or error}") from error
    if frame.empty:
        raise InputError(f"{table}: the table has no rows")
    return frame.reset_index(drop=True)


def text(values: pd.Series) -> pd.Series:
    """Values as text without surrounding blanks: "" where there is none, "2" for the number 2.0."""
    if pd.api.types.is_float_dtype(values):
        values = values.map("{:.15g}".format, na_action="ignore")
    return values.astype(object).where(values.notna(), "").map(str).str.strip().astype(object)


def require_columns(table: str | Path, columns: pd.Index, wanted: Mapping[str, list[str]]) -> None:
    """Check that all columns named in the options exist.

    Args:
        table: for the message.
        columns: the columns there are.
        wanted: option name to the column names it was given.

    Raises:
        InputError: names all that are missing, the nearest existing one of each, and the columns there are.
    """
    lines = []
    for option, names in wanted.items():
        for name in names:
            if name in columns:
                continue
            lower = {str(column).lower(): str(column) for column in columns}
            near = difflib.get_close_matches(name.lower(), lower, n=1)
            hint = f" (nearest: {lower[near[0]]!r})" if near else ""
            none = "; null for none" if option in ("patient", "exam", "site", "id") else ""
            lines.append(
                f"  no column {name!r}{hint}: name the right one with the option {option} (fit: --data.{option}{none})"
            )
    if lines:
        there = ", ".join(map(str, columns))
        if len(columns) == 1 and any(mark in there for mark in ";\t|"):
            lines.append("  it looks separated by something else than commas: save it with commas")
        raise InputError("\n".join([f"{table}: the columns are: {there}", *lines]))


def _load_csv(table: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        raise InputError(f"{table}: the table is empty") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{table}: is not UTF-8 text ({error.reason}): save it as CSV UTF-8") from error
    except (pd.errors.ParserError, ValueError) as error:
        raise InputError(f"{table}: is not a CSV table: {str(error).strip()}") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas then takes the first fields for an index
        raise InputError(f"{table}: the rows have more fields than the header has names")
    return frame


def _load_parquet(table: Path) -> pd.DataFrame:
    import pyarrow as pa

    try:
        return pd.read_parquet(table)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{table}: is not a Parquet table: {error}") from error


def _load_npz(table: Path) -> pd.DataFrame:
    try:
        shapes = npz_shapes(table)
        with np.load(table, allow_pickle=False) as arrays:
            labels = {key: arrays[key] for key in shapes if key.endswith("_labels")}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise InputError(f"{table}: is not an .npz of plain arrays: {error}") from error
    splits = [key.removesuffix("_images") for key in shapes if key.endswith("_images")]
    if not splits:
        raise InputError(f"{table}: has no array <split>_images; the arrays are: {', '.join(shapes)}")
    return pd.concat([_npz_split(table, split, shapes, labels.get(f"{split}_labels")) for split in splits])


def _npz_split(table: Path, split: str, shapes: dict[str, tuple[int, ...]], labels: np.ndarray | None) -> pd.DataFrame:
    n = shapes[f"{split}_images"][0]
    frame = pd.DataFrame({"path": [f"{table.name}#{split}_images/{i}" for i in range(n)], "split": split})
    if labels is None:
        return frame
    if labels.ndim not in (1, 2) or len(labels) != n:
        raise InputError(f"{table}: {n} {split}_images need labels ({n},) or ({n}, L), not {labels.shape}")
    columns = labels.reshape(n, -1)
    names = ["label"] if columns.shape[1] == 1 else [f"label_{i}" for i in range(columns.shape[1])]
    return frame.assign(**dict(zip(names, columns.T, strict=True)))
