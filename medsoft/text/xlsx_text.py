"""Excel workbooks (.xlsx) as the text that their cells show, by the rules of CSV tables."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medsoft.errors import InputError
from medsoft.text.csv_text import MOST_TOLD, check_header

LARGEST_BYTES = 512 * 2**20
"""A workbook that unpacks to more is refused: it is no table of patients, or made to fill the memory."""


def read_xlsx_text(path: Path, sheet: str | None = None) -> pd.DataFrame:
    """Read one sheet of a workbook without interpreting it.

    The first row that is not empty names the columns; empty rows and columns are passed over. Dates become ISO 8601
    (``2024-03-05``), whole numbers that are shown with leading zeros keep them, and a formula stands for the result
    that the workbook has stored. Hidden rows and columns are read too.

    Args:
        path: the file.
        sheet: its name; None for the only one that is not empty or hidden.

    Returns:
        Every cell as text, "" where there is none, with sentences on what was read in ``attrs["notes"]``.

    Raises:
        InputError: it cannot be opened, has no such sheet or several, merged cells, formulas without a result, cells
            with an error, values below no name, no rows, or a header that ``check_header`` refuses.
    """
    formulas, values = (_open(path, data_only) for data_only in (False, True))
    name, notes = _sheet(path, formulas, sheet)
    as_written, shown = formulas[name], values[name]
    where = f"{path}: the sheet {name!r}"
    if merged := sorted(str(area) for area in as_written.merged_cells.ranges):
        raise InputError(
            f"{where} has merged cells ({_some(merged)}): a value stands in the first of them alone. Unmerge them"
        )
    problems, calculated, rows = [], 0, []
    for written_row, shown_row in zip(as_written.iter_rows(), shown.iter_rows(), strict=True):
        cells = []
        for written, cell in zip(written_row, shown_row, strict=True):
            is_formula = written.data_type == "f"
            calculated += is_formula
            if is_formula and cell.value is None:
                problems.append(f"{written.coordinate} is a formula without a stored result")
            elif cell.data_type == "e":
                problems.append(f"{written.coordinate} holds the error {cell.value}")
            cells.append(_text(cell))
        rows.append(cells)
    if problems:
        raise InputError(
            f"{where}: {_some(problems)}: open it in a spreadsheet program, correct the cells, and save it"
        )
    if calculated:
        notes.append(f"{where}: {calculated} cells are formulas: the results that the workbook has stored are used")
    hidden = sum(bool(one.hidden) for one in as_written.row_dimensions.values())
    if hidden:
        notes.append(f"{where}: {hidden} hidden rows are read as the others")
    return _frame(where, [row for row in rows if any(row)], notes)


def _frame(where: str, rows: Sequence[Sequence[str]], notes: list[str]) -> pd.DataFrame:
    if not rows:
        raise InputError(f"{where} is empty")
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows)]
    header, *rows = [[row[column] for column in used] for row in rows]
    if not rows:
        raise InputError(f"{where} has no rows below the names of its columns")
    if unnamed := [column for column, name in enumerate(header, start=1) if not name]:
        raise InputError(
            f"{where}: column {_some(list(map(str, unnamed)))} (of those that are not empty) has values and no name: "
            "the first row that is not empty must name all columns; delete titles above it"
        )
    header, said = check_header(header, where)
    frame = pd.DataFrame(rows, columns=header, dtype=str)
    frame.attrs["notes"] = [*notes, *said]
    return frame


def _open(path: Path, data_only: bool) -> Any:
    """A workbook.

    Raises:
        InputError: it is none, or too large.
    """
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with zipfile.ZipFile(path) as parts:
            size = sum(part.file_size for part in parts.infolist())
        if size > LARGEST_BYTES:
            raise InputError(
                f"{path}: unpacks to {size / 2**20:,.0f} MiB, and {LARGEST_BYTES / 2**20:.0f} are read: save it as CSV"
            )
        return openpyxl.load_workbook(path, data_only=data_only)
    except OSError as error:
        raise InputError(f"{path}: the table cannot be opened: {error.strerror or error}") from error
    except zipfile.BadZipFile:
        raise InputError(
            f"{path}: is no Excel workbook, is encrypted, or was cut short: save it without a password, or as CSV"
        ) from None
    except (InvalidFileException, KeyError, ValueError, TypeError, AttributeError, SyntaxError) as error:
        raise InputError(f"{path}: is not a workbook that can be read ({error}): save it again, or as CSV") from None


def _sheet(path: Path, workbook: Any, asked: str | None) -> tuple[str, list[str]]:
    """The sheet to read, and sentences on others.

    Raises:
        InputError: there is no such sheet, none that holds anything, or several.
    """
    names = [sheet.title for sheet in workbook.worksheets]
    if asked is not None:
        if asked not in names:
            raise InputError(f"{path}: has no sheet {asked!r}; its sheets are {', '.join(map(repr, names))}")
        return asked, []
    full = [
        sheet
        for sheet in workbook.worksheets
        if any(cell.value is not None for row in sheet.iter_rows() for cell in row)
    ]
    visible = [sheet.title for sheet in full if sheet.sheet_state == "visible"]
    if len(visible) != 1:
        found = [sheet.title for sheet in full]
        if not found:
            raise InputError(f"{path}: the table is empty")
        raise InputError(
            f"{path}: has the sheets {', '.join(map(repr, found))}: name the one to read: {path.name}#{found[0]}"
        )
    hidden = [sheet.title for sheet in full if sheet.sheet_state != "visible"]
    notes = [f"{path}: only the sheet {visible[0]!r} is read, not the hidden {', '.join(map(repr, hidden))}"]
    return visible[0], notes if hidden else []


def _holds_something(sheet: Any) -> bool:
    return any(cell.value is not None for row in sheet.iter_rows() for cell in row)


def _text(cell: Any) -> str:
    """What a cell shows, as far as it matters."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float):
        value = int(value) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    if isinstance(value, int) and re.fullmatch("0{2,}", str(cell.number_format)):
        return f"{value:0{len(cell.number_format)}d}"
    return str(value).strip()


def _some(told: Sequence[str]) -> str:
    more = f" and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return ", ".join(told[:MOST_TOLD]) + more
