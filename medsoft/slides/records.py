"""The table of what became of every slide or image of a folder, and ``errors.csv`` beside it.

Several runs may write into a folder at once: the tables appear whole, and no row is lost. Small tables are written
anew with every row. To do so with ten thousand would take longer than the work: their new rows wait in a file beside
the table, and join it from time to time.
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from medsoft.errors import InputError
from medsoft.storage.files import partial_file
from medsoft.storage.lock import lock

ERROR_COLUMNS = ("id", "path", "stage", "reason")

AT_ONCE = 1000
"""Rows of a table that is written anew with every row."""

REST = 20
"""How many times as long as it takes to write a larger one it is left alone."""

LARGE = 10_000
"""Rows above which the table is there as Parquet too."""


class Records:
    """Rows by id in a table.

    Args:
        folder: of the results; made when the first row is written.
        table: its path.
        columns: that come first; others follow as they come.
        of: what the rows are of, for messages.
        numbers: columns of numbers; all others are text, also where all of it looks like numbers.

    Attributes:
        table: as given.
        parquet: the same, where it has more than ``LARGE`` rows and ``finish`` was called.
        errors_csv: the rows that failed; not there when none did.
    """

    def __init__(
        self, folder: Path, table: Path, columns: tuple[str, ...], of: str, numbers: frozenset[str] = frozenset()
    ) -> None:
        self._folder, self.table, self._columns, self._of, self._numbers = folder, table, columns, of, numbers
        self.errors_csv, self.parquet = folder / "errors.csv", table.with_suffix(".parquet")
        self._waiting = table.with_suffix(".waiting.jsonl")
        self._lock = threading.Lock()
        self._next = 0.0

    def record(self, new: Mapping[str, Mapping[str, str]]) -> None:
        """Put rows into the table in place of older ones, and write ``errors.csv`` anew; of large ones see the module.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        with self._lock, self._alone():
            if time.monotonic() < self._next:
                self._append(new)
            else:
                self._join(new)

    def finish(self) -> None:
        """Let all rows join the table, and write a large one as Parquet too.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        if not self.table.exists():
            return
        with self._lock, self._alone():
            if self._waiting.exists():
                self._join({})
            rows = self.rows()
            if len(rows) > LARGE:
                self._write_parquet(rows)
            else:
                self.parquet.unlink(missing_ok=True)

    def rows(self) -> dict[str, Mapping[str, str]]:
        """The rows as text, by id, those that wait among them; {} before the first.

        Raises:
            InputError: the table is damaged, or cannot be read.
        """
        while True:
            before = self._stamp()
            rows = {**self._of_table(), **self._of_waiting()}
            if self._stamp() == before:  # else what waited has joined the table meanwhile
                return rows

    def _of_table(self) -> dict[str, Mapping[str, str]]:
        if not self.table.exists():
            return {}
        try:
            with self.table.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if not {"id", "status"} <= set(reader.fieldnames or ()):
                    raise ValueError("no such columns")
                return {row["id"]: row for row in reader if row.get("id")}
        except OSError as error:
            raise InputError(f"{self.table}: cannot be read: {error.strerror}") from None
        except (ValueError, csv.Error):
            raise InputError(
                f"{self.table}: is damaged: it is not a table of {self._of}; restore or remove it"
            ) from None

    def _of_waiting(self) -> dict[str, Mapping[str, str]]:
        found = {}
        with suppress(FileNotFoundError):
            for line in self._waiting.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):  # a line that a killed run has begun: its slide is looked at again
                    id, row = json.loads(line)
                    found[id] = row
        return found

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._waiting.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size

    def _append(self, new: Mapping[str, Mapping[str, str]]) -> None:
        # A line break first: the last line may be one that a killed run has begun.
        lines = "".join(f"\n{json.dumps([id, row])}" for id, row in new.items())
        try:
            with self._waiting.open("ab", buffering=0) as file:
                file.write(lines.encode())
        except OSError as error:
            error.filename = str(self.table)
            raise

    def _join(self, new: Mapping[str, Mapping[str, str]]) -> None:
        begin = time.monotonic()
        rows = {**self.rows(), **new}
        self._write(self.table, rows)
        failed = {id: row for id, row in rows.items() if row["status"] == "failed"}
        if failed:
            self._write(self.errors_csv, failed, ERROR_COLUMNS)
        else:
            self.errors_csv.unlink(missing_ok=True)
        self._waiting.unlink(missing_ok=True)
        end = time.monotonic()
        self._next = end + REST * (end - begin) if len(rows) > AT_ONCE else 0.0

    def _write_parquet(self, rows: Mapping[str, Mapping[str, str]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = dict.fromkeys([*self._columns, *(name for row in rows.values() for name in row)])
        columns = {}
        for name in names:
            cells = [row.get(name) or "" for row in rows.values()]
            columns[name] = (
                pa.array([float(cell) if cell else None for cell in cells], pa.float64())
                if name in self._numbers
                else pa.array(cells, pa.string())
            )
        text = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), text)
        write_whole(self.parquet, memoryview(text.getvalue()))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other runs from writing the tables meanwhile; file systems without locks go on without."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = None
        try:
            with suppress(OSError):
                handle = os.open(self._folder, os.O_RDONLY)  # Windows opens no folder
                lock(handle, wait=True)
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def _write(self, path: Path, rows: Mapping[str, Mapping[str, str]], columns: tuple[str, ...] = ()) -> None:
        names = columns or tuple(dict.fromkeys([*self._columns, *(name for row in rows.values() for name in row)]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows.values())
        write_whole(path, text.getvalue().encode())


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all, whichever runs write it at once.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    with partial_file(path) as file:
        rest = memoryview(content)
        while rest:  # an unbuffered file may take a part
            rest = rest[file.write(rest) :]


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows as a CSV, whole or not at all.

    Args:
        path: the file.
        columns: that come first, there in any case; others follow as they come.
        rows: cells by column.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    names = tuple(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def as_text(value: object) -> str:
    """A cell: "" for None, floats with six digits."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
