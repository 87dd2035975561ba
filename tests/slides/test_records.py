"""The table of what became of every slide, small and large."""

import csv
import json
from contextlib import suppress

import pyarrow.parquet as pq
import pytest

from medsoft.slides import records
from medsoft.slides.folder import COLUMNS, SlidesFolder, SlideStatus
from medsoft.slides.source import SlideSource


def pairs(tmp_path, first, last, status="encoded"):
    return [
        (SlideSource(f"s{i}", tmp_path / f"s{i}.svs", row={"patient": f"{i:05d}"}), SlideStatus(status, tiles=i))
        for i in range(first, last)
    ]


def table(folder):
    with folder.slides_csv.open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def large(monkeypatch):
    """Tables of three rows are large, and their next writing is far away."""
    monkeypatch.setattr(records, "AT_ONCE", 3)
    monkeypatch.setattr(records, "REST", 1e9)


def test_rows_of_a_large_table_wait_and_join_it_at_the_end(tmp_path, large):
    folder = SlidesFolder(tmp_path / "out")
    with folder.recording():
        folder.record_all(pairs(tmp_path, 0, 5))
        folder.record_all(pairs(tmp_path, 3, 6, "failed"))
        assert len(table(folder)) == 5, "not written anew"
        assert {id: one.status for id, one in folder.slide_statuses().items()} == {
            **{f"s{i}": "encoded" for i in range(3)}, **{f"s{i}": "failed" for i in range(3, 6)}
        }  # fmt: skip
    assert list(table(folder)) == [f"s{i}" for i in range(6)]
    assert [row.split(",")[0] for row in folder.errors_csv.read_text().splitlines()[1:]] == ["s3", "s4", "s5"]
    assert sorted(path.name for path in folder.path.iterdir()) == ["errors.csv", "slides.csv"]


def test_what_a_killed_run_left_waiting_is_known_to_the_next(tmp_path, large):
    folder = SlidesFolder(tmp_path / "out")
    folder.record_all(pairs(tmp_path, 0, 4))
    folder.record_all(pairs(tmp_path, 4, 6))  # and the process is gone, in the middle of a line
    (waiting,) = folder.path.glob("*.jsonl")
    with waiting.open("a") as file:
        file.write("\n" + json.dumps(["s6", {"id": "s6", "status": "enc"}])[:-5])
    after = SlidesFolder(folder.path)
    assert len(after.rows()) == 6
    after.record_all(pairs(tmp_path, 7, 8))
    assert list(table(after)) == [*(f"s{i}" for i in range(6)), "s7"]
    assert not waiting.exists()


def test_a_block_that_ends_with_an_error_loses_no_row(tmp_path, large):
    folder = SlidesFolder(tmp_path / "out")
    with suppress(KeyboardInterrupt), folder.recording():
        folder.record_all(pairs(tmp_path, 0, 4))
        folder.record_all(pairs(tmp_path, 4, 6))
        raise KeyboardInterrupt
    assert len(table(folder)) == 6


def test_small_tables_are_written_with_every_row(tmp_path):
    folder = SlidesFolder(tmp_path / "out")
    for i in range(5):
        folder.record_all(pairs(tmp_path, i, i + 1))
        assert len(table(folder)) == i + 1


def test_a_large_table_is_there_as_parquet_too(tmp_path, monkeypatch):
    """With numbers as numbers, and numbers of patients as they are written."""
    monkeypatch.setattr(records, "LARGE", 4)
    folder = SlidesFolder(tmp_path / "out")
    with folder.recording():
        folder.record_all(pairs(tmp_path, 0, 4))
    assert not list(folder.path.glob("*.parquet")), "not above the limit"
    with folder.recording():
        folder.record_all(pairs(tmp_path, 4, 5))
    found = pq.read_table(folder.path / "slides.parquet")
    assert found.column_names == [*COLUMNS, "patient"]
    assert found["tiles"].to_pylist() == [0, 1, 2, 3, 4]
    assert found["mpp"].to_pylist() == [None] * 5
    assert found["patient"].to_pylist()[1] == "00001"
    assert found["id"].to_pylist() == list(table(folder))
