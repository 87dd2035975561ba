"""Excel workbooks are read as the table that they show, or refused with what to do."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.data.tables.reading import load_source, text
from medsoft.errors import InputError
from medsoft.text import xlsx_text


def workbook(path: Path, rows: list[list[Any]], change: Callable[[Any], object] = lambda book: None) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    change(book)
    book.save(path)
    return path


ROWS = [["PATIENT", "age", "seen"], [7, 63.5, datetime.datetime(2024, 3, 5)], ["B2", None, "unknown"]]


def test_cells_are_the_text_that_they_show(tmp_path):
    rows = [
        ["id", "n", "date", "time", "flag", "whole"],
        [7, 0.1, datetime.datetime(2024, 3, 5), datetime.datetime(2024, 3, 5, 10, 30), True, 3.0],
        ["a ", None, datetime.date(1999, 12, 31), datetime.time(8, 5), False, 1e-7],
    ]
    path = workbook(tmp_path / "t.xlsx", rows, lambda book: setattr(book.active["A2"], "number_format", "000"))
    assert load_source(path).to_dict("list") == {
        "id": ["007", "a"],
        "n": ["0.1", ""],
        "date": ["2024-03-05", "1999-12-31"],
        "time": ["2024-03-05 10:30:00", "08:05:00"],
        "flag": ["TRUE", "FALSE"],
        "whole": ["3", "1e-07"],
    }


def test_empty_rows_and_columns_are_passed_over(tmp_path):
    path = workbook(
        tmp_path / "t.xlsx", [[], [None, "a", None, "b"], [], [None, 1, None, None], [None, 2, None, 3], []]
    )
    assert load_source(path).to_dict("list") == {"a": ["1", "2"], "b": ["", "3"]}


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn", "Zl", "Zp"]), max_size=8)
CELLS = WORDS.map(str.strip).filter(lambda word: not word.startswith(("=", "#")))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4))
def test_a_workbook_of_text_is_the_csv_of_it(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("parity")
    rows = [["x", *row] for row in cells]  # no row is empty
    columns = [0, *(k for k in (1, 2) if any(row[k] for row in rows))]  # nor a column
    frame = pd.DataFrame([[row[k] for k in columns] for row in rows], columns=[f"c{k}" for k in columns])
    frame.to_csv(folder / "t.csv", index=False)
    workbook(folder / "t.xlsx", [list(frame.columns), *frame.values.tolist()])
    csv, xlsx = load_source(folder / "t.csv"), load_source(folder / "t.xlsx")
    pd.testing.assert_frame_equal(csv.apply(text), xlsx.apply(text))


def two_sheets(book: Any) -> None:
    book.create_sheet("slides").append(["PATIENT", "FILENAME"])
    book["slides"].append(["B2", "b.h5"])


def test_several_sheets_are_asked_about_and_one_is_named(tmp_path):
    path = workbook(tmp_path / "t.xlsx", ROWS, two_sheets)
    with pytest.raises(InputError, match=r"has the sheets 'Sheet', 'slides': name the one to read: t.xlsx#Sheet"):
        load_source(path)
    assert load_source(f"{path}#slides")["FILENAME"].tolist() == ["b.h5"]
    with pytest.raises(InputError, match="has no sheet 'other'; its sheets are 'Sheet', 'slides'"):
        load_source(f"{path}#other")


def test_what_is_hidden_is_said(tmp_path):
    def hide(book: Any) -> None:
        two_sheets(book)
        book["slides"].sheet_state = "hidden"
        book["Sheet"].row_dimensions[3].hidden = True

    found = load_source(workbook(tmp_path / "t.xlsx", ROWS, hide))
    assert len(found) == 2
    first, second = found.attrs["notes"]
    assert "not the hidden 'slides'" in first
    assert "1 hidden rows are read" in second


def formula(book: Any) -> None:
    book.active["B3"] = "=B2+1"


def error(book: Any) -> None:
    book.active["B3"] = "#DIV/0!"
    book.active["B3"].data_type = "e"


@pytest.mark.parametrize(
    ("rows", "change", "said"),
    [
        (ROWS, lambda book: book.active.merge_cells("A1:B1"), r"has merged cells \(A1:B1\)"),
        (ROWS, formula, "B3 is a formula without a stored result"),
        (ROWS, error, "B3 holds the error #DIV/0!"),
        ([["Cohort of 2024"], *ROWS], lambda book: None, "has values and no name: .* delete titles above it"),
        ([["a", "a"], [1, 2]], lambda book: None, "column 'a' is there twice"),
        ([["a", "b"]], lambda book: None, "has no rows below"),
        ([], lambda book: None, "the table is empty"),
    ],
    ids=["merged", "formula", "error", "title", "names", "header", "nothing"],
)
def test_what_cannot_be_read_as_a_table_is_refused(tmp_path, rows, change, said):
    with pytest.raises(InputError, match=said):
        load_source(workbook(tmp_path / "t.xlsx", rows, change))


def test_a_formula_with_its_result_is_the_result(tmp_path):
    """As a spreadsheet program saves it; openpyxl writes no results."""
    path = workbook(tmp_path / "t.xlsx", ROWS, formula)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    parts[sheet], found = re.subn(rb"(<f>B2\+1</f>)<v\s*(/>|></v>)", rb"\1<v>64.5</v>", parts[sheet])
    assert found == 1
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    table = load_source(path)
    assert table["age"].tolist() == ["63.5", "64.5"]
    assert "1 cells are formulas" in table.attrs["notes"][0]


def test_files_that_are_none_or_too_large_are_refused(tmp_path, monkeypatch):
    (tmp_path / "old.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))  # .xls, or with a password
    with pytest.raises(InputError, match="is no Excel workbook, is encrypted"):
        load_source(tmp_path / "old.xlsx")
    with zipfile.ZipFile(tmp_path / "other.xlsx", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    with pytest.raises(InputError, match="is not a workbook that can be read"):
        load_source(tmp_path / "other.xlsx")
    with pytest.raises(InputError, match="no such table"):
        load_source(tmp_path / "none.xlsx#Sheet")
    path = workbook(tmp_path / "t.xlsx", ROWS)
    monkeypatch.setattr(xlsx_text, "LARGEST_BYTES", 100)
    with pytest.raises(InputError, match="save it as CSV"):
        load_source(path)
