"""Reads the table as the user wrote it: CSV, Parquet, Excel, or the arrays of a MedMNIST-style ``.npz``."""

from __future__ import annotations

import csv
import difflib
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medsoft.data.formats.arrays import npz_array, npz_shapes
from medsoft.errors import InputError, ReadError
from medsoft.storage.files import replacing
from medsoft.text.csv_text import check_header, parquet_header, read_csv_text
from medsoft.text.sheets import SUFFIX, split_sheet
from medsoft.text.xlsx_text import read_xlsx_text


def load_source(table: str | Path) -> pd.DataFrame:
    """Load a sample table without interpreting it.

    Args:
        table: ``.csv`` (UTF-8, commas, a header line; every value is kept as text, so that leading zeros stay; see
            ``medsoft.text.csv_text.read_csv_text``), ``.parquet``, ``.xlsx`` (or ``file.xlsx#Sheet``, see
            ``medsoft.text.xlsx_text.read_xlsx_text``), or ``.npz`` with arrays ``<split>_images`` and
            ``<split>_labels`` as MedMNIST has them.

    Returns:
        The columns as they are, the index counting rows from 0, and sentences on the header in ``attrs["notes"]``.
        Of an ``.npz``: ``path`` ("file.npz#train_images/12"), ``split`` and ``label``, or ``label_0``, ``label_1``, ...
        where a sample has several labels.

    Raises:
        InputError: there is no such file, it is empty, it is not such a table, or its header is refused.
    """
    table, sheet = split_sheet(table)
    loaders: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": _load_csv,
        ".parquet": _load_parquet,
        SUFFIX: partial(read_xlsx_text, sheet=sheet),
        ".npz": _load_npz,
    }
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


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table, ``.parquet`` or else CSV, whole or not at all; ``load_source`` reads the same values back.

    Args:
        frame: the table.
        path: the file; an older one is replaced.
    """
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            # pandas leaves a carriage return within a cell, which ends a row for other readers, without quotes.
            texts = frame.select_dtypes(exclude="number")
            breaks = any(texts[name].astype(str).str.contains("\r", regex=False).any() for name in texts)
            quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if breaks else csv.QUOTE_MINIMAL
            frame.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8", quoting=quoting)


def table_to_write(option: str, out: str, overwrite: bool) -> Path:
    """The place of a table that is to be written.

    Raises:
        InputError: it has another suffix than ``.csv`` and ``.parquet``, or is there already.
    """
    path = Path(out)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{option} {out}: name a file .csv or .parquet")
    if path.exists() and not overwrite:
        raise InputError(f"{option} {out}: already exists; --overwrite true replaces it")
    return path


def text(values: pd.Series) -> pd.Series:
    """Values as text without surrounding blanks: "" where there is none, "2" for the number 2.0."""
    if pd.api.types.is_float_dtype(values):
        values = values.map("{:.15g}".format, na_action="ignore")
    return values.astype(object).where(values.notna(), "").map(str).str.strip().astype(object)


OF_OTHER_TOOLS = {"STAMP": ("FILENAME", "PATIENT"), "CLAM": ("slide_id", "case_id"), "TRIDENT": ("wsi", None)}
"""Columns of the slide and of the patient in tables of other tools."""


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
    if lines and any(name not in columns for name in wanted.get("path", [])):
        lines += _of_another_tool(columns)
    if lines:
        there = ", ".join(map(str, columns))
        raise InputError("\n".join([f"{table}: the columns are: {there}", *lines]))


def _of_another_tool(columns: pd.Index) -> list[str]:
    """How a table is read that looks like that of another tool."""
    for tool, (path, patient) in OF_OTHER_TOOLS.items():
        if path in columns:
            named = f"path {path}" + (f", patient {patient}" if patient in columns else "")
            return [f"  it looks like a table of {tool}: its columns are {named}"]
    return []


def _load_csv(table: Path) -> pd.DataFrame:
    return read_csv_text(table)[0]


def _load_parquet(table: Path) -> pd.DataFrame:
    import pyarrow as pa

    try:
        names, notes = parquet_header(table, f"{table}: the table")
        frame = pd.read_parquet(table)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{table}: is not a Parquet table: {error}") from error
    if len(names) == len(frame.columns):  # else pandas has made an index of some
        frame.columns = pd.Index(names)
    for name, values in frame.items():
        if values.dtype == object and any(isinstance(value, bytes | list | dict | np.ndarray) for value in values):
            raise InputError(f"{table}: column {name!r} holds bytes, lists or structures: save it as text or numbers")
    frame.attrs["notes"] = notes
    return frame


def _load_npz(table: Path) -> pd.DataFrame:
    try:
        shapes = npz_shapes(table)
        with zipfile.ZipFile(table) as archive:
            check_header([name.removesuffix(".npy") for name in archive.namelist()], f"{table}: among its arrays")
        labels = {key: npz_array(str(table), key) for key in shapes if key.endswith("_labels")}
    except ReadError as error:
        raise InputError(f"{table}: {error.reason}") from error
    splits = [key.removesuffix("_images") for key in shapes if key.endswith("_images")]
    if not splits:
        raise InputError(f"{table}: has no array <split>_images; the arrays are: {', '.join(shapes)}")
    return pd.concat([_npz_split(table, split, shapes, labels.get(f"{split}_labels")) for split in splits])


def _npz_split(table: Path, split: str, shapes: dict[str, tuple[int, ...]], labels: np.ndarray | None) -> pd.DataFrame:
    n = (shapes[f"{split}_images"] or (0,))[0]
    frame = pd.DataFrame({"path": [f"{table.name}#{split}_images/{i}" for i in range(n)], "split": split})
    if labels is None:
        return frame
    if labels.ndim not in (1, 2) or len(labels) != n:
        raise InputError(f"{table}: {n} {split}_images need labels ({n},) or ({n}, L), not {labels.shape}")
    if labels.dtype.kind not in "biufU":
        raise InputError(f"{table}: {split}_labels are of type {labels.dtype}: save them as numbers or text")
    columns = labels.reshape(n, -1)
    names = ["label"] if columns.shape[1] == 1 else [f"label_{i}" for i in range(columns.shape[1])]
    return frame.assign(**dict(zip(names, columns.T, strict=True)))
