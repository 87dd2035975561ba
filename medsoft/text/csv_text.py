"""CSV tables as the text that they hold, and what the names of any table's columns must be."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError
from medsoft.text.spelling import clean, is_plain, spellings

MOST_TOLD = 5


def read_csv_text(path: Path, name: str = "", what: str = "table") -> tuple[pd.DataFrame, npt.NDArray[np.intp]]:
    """Read a CSV file, UTF-8 with commas and a header line, without interpreting it.

    Args:
        path: the file.
        name: for messages; the path by default.
        what: what the file is, for messages.

    Returns:
        Every cell as the text that it is, by the names of the columns as written ("Unnamed: 3" where there is none,
        as pandas has it), with sentences on the header in ``attrs["notes"]``; and the line on which each row ends.

    Raises:
        InputError: it cannot be opened, is no such file, has no row, rows of another length than the header (the file
            was cut short), or a header that ``check_header`` refuses.
    """
    name = name or str(path)
    lines: list[list[str]] = []
    numbers: list[int] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_without_nul(file), strict=True)
            for line in reader:
                if line:
                    lines.append(line)
                    numbers.append(reader.line_num)
    except OSError as error:
        raise InputError(f"{name}: the {what} cannot be opened: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise InputError(
            f"{name}: the {what} is not UTF-8 text: line {_not_utf8(path)} holds other bytes; save it as CSV UTF-8"
        ) from None
    except csv.Error as error:
        raise InputError(
            f"{name}: the {what} is not CSV: {error}, after line {numbers[-1] if numbers else 0}"
        ) from error
    if not lines:
        raise InputError(f"{name}: the {what} is empty")
    header, *rows = lines
    header, notes = check_header(header, f"{name}: the {what}")
    if len(header) == 1 and (other := next((mark for mark in ";\t|" if mark in header[0]), None)):
        raise InputError(f"{name}: the columns are parted by {other!r} (line 1): save the {what} with commas")
    if not rows:
        raise InputError(f"{name}: the {what} has no rows")
    uneven = [
        f"row {row} has {len(cells)} cells, the header has {len(header)} (line {numbers[row]})"
        for row, cells in enumerate(rows, start=1)
        if len(cells) != len(header)
    ]
    if uneven:
        more = [f"and {len(uneven) - MOST_TOLD} more such rows"] if len(uneven) > MOST_TOLD else []
        listed = "".join(f"\n  - {one}" for one in [*uneven[:MOST_TOLD], *more])
        count = "1 problem" if len(uneven) == 1 else f"{len(uneven)} problems"
        raise InputError(f"{name}: {count} in the {what}:{listed}")
    frame = pd.DataFrame(rows, columns=header, dtype=str)
    frame.attrs["notes"] = notes
    return frame, np.array(numbers[1:], dtype=np.intp)


def read_header(path: Path) -> list[str]:
    """The names of a CSV file's columns; none where it is no such file, which its reader says."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def parquet_header(path: Path, name: str) -> tuple[list[str], list[str]]:
    """The names of a Parquet file's columns, and sentences on them; see ``check_header``.

    Raises:
        pyarrow.ArrowException, OSError: it is no such file.
        InputError: as ``check_header``.
    """
    import pyarrow.parquet as pq

    return check_header(pq.read_schema(path).names, name)


def check_header(names: Sequence[object], where: str) -> tuple[list[str], list[str]]:
    """Check the names of a table's columns, for every reader of tables.

    Args:
        names: as the file has them.
        where: names the table, for the message.

    Returns:
        The names, with one made up where there is none; and sentences on names that differ in writing only.

    Raises:
        InputError: two columns have the same name but for surrounding spaces and invisible characters, or a name holds
            a line break or another control character.
    """
    found = [str(name) if clean(str(name)) else f"Unnamed: {i}" for i, name in enumerate(names)]
    counts = Counter(map(clean, found))
    problems = [f"column {name!r} is there {_times(n)}" for name, n in counts.items() if n > 1]
    problems += [f"a line break or control character in the name {name!r}" for name in found if not is_plain(name)]
    if problems:
        raise InputError(f"{where}: {'; '.join(problems)}: give each column a name of its own in plain text")
    notes = [
        f"the columns {' and '.join(map(repr, ways))} have names that differ in writing only: they are taken for two"
        for ways in spellings(found).values()
    ]
    return found, notes


def _times(n: int) -> str:
    return "twice" if n == 2 else f"{n} times"


def _without_nul(file: TextIO) -> Iterator[str]:
    for line in file:
        if "\0" in line:
            raise csv.Error("it holds a NUL character")
        yield line


def _not_utf8(path: Path) -> int:
    """The first line that is no UTF-8."""
    content = path.read_bytes()
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return content[: error.start].count(b"\n") + 1
    return 1
