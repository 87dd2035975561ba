"""Every reader of a table has the same rule for headers and for files that are no whole tables."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medsoft.data.dicom.join import load_labels
from medsoft.data.tables.joins import join_clinical
from medsoft.data.tables.reading import load_source, write_table
from medsoft.data.tables.sample_table import SampleTable, read_table
from medsoft.data.tables.split import apply_split_file
from medsoft.errors import InputError
from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.evaluation.tables.read import read_either, read_parts, read_samples
from medsoft.slides.slide_table import read_slide_table
from medsoft.slides.source import SlideInput
from medsoft.text.csv_text import check_header

SLIDES = pd.DataFrame({"path": ["a"], "patient": ["p"]})
SAMPLES = SampleTable(
    Path("t.csv"), pd.DataFrame({"id": ["a"], "patient": "", "exam": "", "split": "", "row": [1]}), None
)
READERS: dict[str, Callable[[Path], object]] = {
    "sample table": read_table,
    "table as loaded": load_source,
    "clinical table": lambda path: join_clinical(SLIDES, path, "patient"),
    "labels of an index": lambda path: load_labels(str(path), "PatientID"),
    "split file": lambda path: apply_split_file(SAMPLES, path),
    "slide table": lambda path: read_slide_table(SlideInput([str(path)])),
    "samples of evaluate": read_samples,
    "predictions": read_predictions,
    "predictions of any task": read_either,
    "parts of predictions": lambda path: read_parts([path]),
}
"""All ways in for a CSV table; a new one must join."""
PARQUET = ("sample table", "table as loaded", "clinical table", "labels of an index", "split file", "slide table",
           "samples of evaluate")  # fmt: skip
NAMES = ["id", "path", "label", "patient", "PatientID", "split", "target", "p_a", "p_b", "prediction"]
ROW = ["s", "x.png", "a", "p", "q", "test", "a", "0.5", "0.5", "1"]
HEADERS = {
    "column 'p_a' is there twice": [*NAMES, "p_a"],
    "column 'label' is there twice": [*NAMES, " label"],
    "column 'patient' is there twice": [*NAMES, "patient\u200b"],
    "column 'split' is there 3 times": [*NAMES, "split", "split "],
    "control character in the name 'no\\\\nte'": [*NAMES, "no\nte"],
    "control character in the name 'no\\\\x1bte'": [*NAMES, "no\x1bte"],
}


def write(path: Path, header: list[str], row: list[str]) -> Path:
    lines = [",".join(f'"{cell}"' for cell in cells) for cells in (header, row)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("message", HEADERS)
def test_a_header_is_refused_alike_by_every_reader(tmp_path: Path, reader: str, message: str) -> None:
    header = HEADERS[message]
    table = write(tmp_path / "t.csv", header, [*ROW, *["z"] * (len(header) - len(ROW))])
    with pytest.raises(InputError, match=message) as caught:
        READERS[reader](table)
    assert str(table) in str(caught.value)
    if reader in PARQUET:
        columns = [pa.array([cell]) for cell in [*ROW, *["z"] * (len(header) - len(ROW))]]
        pq.write_table(pa.Table.from_arrays(columns, names=header), tmp_path / "t.parquet")
        with pytest.raises(InputError, match=message):
            READERS[reader](tmp_path / "t.parquet")
        if "x1b" not in message:  # which no workbook can hold
            book = openpyxl.Workbook()
            book.active.append(header)
            book.active.append([*ROW, *["z"] * (len(header) - len(ROW))])
            book.save(tmp_path / "t.xlsx")
            with pytest.raises(InputError, match=message):
                READERS[reader](tmp_path / "t.xlsx")


DAMAGED = {
    "row 2 has 3 cells, the header has 10": lambda text: text + "a,b,c\n",
    "row 2 has 11 cells, the header has 10": lambda text: text + ",".join("x" * 11) + "\n",
    "NUL": lambda text: text.replace("x.png", "x\0.png"),
    "parted by ';'": lambda text: text.replace(",", ";").replace('"', ""),
    "has no rows": lambda text: text.splitlines()[0] + "\n",
    "is empty": lambda text: "",
    "is not UTF-8 text: line 2": lambda text: text.replace("x.png", "\udcff.png"),
    "unexpected end of data": lambda text: text[:-2],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("message", DAMAGED)
def test_a_damaged_file_is_refused_alike_by_every_reader(tmp_path: Path, reader: str, message: str) -> None:
    table = write(tmp_path / "t.csv", NAMES, ROW)
    text = DAMAGED[message](table.read_text(encoding="utf-8"))
    table.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message) as caught:
        READERS[reader](table)
    assert str(table) in str(caught.value)


def test_names_that_differ_in_writing_are_two_and_said(tmp_path: Path) -> None:
    names, notes = check_header(["label", "Label", "", "x"], "t")
    assert names == ["label", "Label", "Unnamed: 2", "x"]
    assert "'label' and 'Label'" in notes[0]
    write(tmp_path / "t.csv", ["path", "label", "Label"], ["t.csv", "a", "b"])
    assert any("'label' and 'Label'" in note for note in read_table(tmp_path / "t.csv", require_labels=False).notes)


def test_arrays_of_one_name_and_of_strange_types_are_refused(tmp_path: Path) -> None:
    def npy(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    images = npy(np.zeros((2, 4, 4), np.uint8))
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.writestr("train_images.npy", images)
        archive.writestr("train_labels.npy", npy(np.array([0, 1])))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("train_labels.npy", npy(np.array([1, 0])))
    with pytest.raises(InputError, match="'train_labels' is there twice"):
        load_source(tmp_path / "twice.npz")
    np.savez(tmp_path / "bytes.npz", train_images=np.zeros((2, 4, 4), np.uint8), train_labels=np.array([b"a", b"b"]))
    with pytest.raises(InputError, match="save them as numbers or text"):
        load_source(tmp_path / "bytes.npz")
    pd.DataFrame({"path": ["a"], "label": [b"x"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="column 'label' holds bytes"):
        load_source(tmp_path / "b.parquet")


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
frames = st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6)


@given(rows=frames)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    frame = pd.DataFrame(rows, columns=["a", "b", "note, free"], dtype=object)
    for suffix in ("csv", "parquet"):
        write_table(frame, tmp_path / f"t.{suffix}")
        read = load_source(tmp_path / f"t.{suffix}")
        assert read.to_numpy(dtype=object).tolist() == frame.to_numpy(dtype=object).tolist()
        assert read.columns.tolist() == frame.columns.tolist()
