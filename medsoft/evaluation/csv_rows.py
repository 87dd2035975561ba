"""A CSV file as text, row by row, with the line on which each row ends; and its problems, all told at once."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError


def read_rows(path: Path, name: str) -> tuple[pd.DataFrame, npt.NDArray[np.intp]]:
    """Every cell as the text that it is, and the line of the file on which each row ends.

    pandas' own reader would turn a class named NA into a missing one.
    """
    try:
        lines: list[list[str]] = []
        numbers: list[int] = []
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for line in reader:
                if line:
                    lines.append(line)
                    numbers.append(reader.line_num)
    except OSError as error:
        raise InputError(f"{name}: cannot read the predictions table: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a CSV file in UTF-8: line {_not_utf8(path)} holds other bytes") from None
    except csv.Error as error:
        raise InputError(
            f"{name}: not a CSV file in UTF-8: {error}, after line {numbers[-1] if numbers else 0}"
        ) from error
    if len(lines) < 2:
        raise InputError(f"{name}: the predictions table has no rows")
    header, *rows = lines
    if len(header) == 1 and (other := next((mark for mark in ";\t" if mark in header[0]), None)):
        raise InputError(f"{name}: the columns are parted by {other!r} (line 1); save the table with commas")
    problems = [f"column {column!r} is there twice" for column in dict.fromkeys(header) if header.count(column) > 1]
    problems += [
        f"row {number} has {len(row)} cells, the header has {len(header)} (line {numbers[number]})"
        for number, row in enumerate(rows, start=1)
        if len(row) != len(header)
    ]
    raise_problems(name, problems)
    return pd.DataFrame(rows, columns=header, dtype=str), np.array(numbers[1:], dtype=np.intp)


def _not_utf8(path: Path) -> int:
    """The first line that is no UTF-8."""
    text = path.read_bytes()
    try:
        text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return text[: error.start].count(b"\n") + 1
    return 1


def listed(name: str, problems: Sequence[str]) -> str:
    """The problems of a table in one message."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"{name}: {count} in the predictions table:" + "".join(f"\n  - {problem}" for problem in problems)


def raise_problems(name: str, problems: Sequence[str]) -> None:
    """Raise InputError where there are problems."""
    if problems:
        raise InputError(listed(name, problems))
