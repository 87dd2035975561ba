"""The table of what became of every slide or image of a folder, and ``errors.csv`` beside it.

Several runs may write into a folder at once: the tables appear whole, and no row is lost.
"""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from medsoft.errors import InputError
from medsoft.storage.files import partial_file
from medsoft.storage.lock import lock

ERROR_COLUMNS = ("id", "path", "stage", "reason")


class Records:
    """Rows by id in a table.

    Args:
        folder: of the results; made when the first row is written.
        table: its path.
        columns: that come first; others follow as they come.
        of: what the rows are of, for messages.

    Attributes:
        table: as given.
        errors_csv: the rows that failed; not there when none did.
    """

    def __init__(self, folder: Path, table: Path, columns: tuple[str, ...], of: str) -> None:
        self._folder, self.table, self._columns, self._of = folder, table, columns, of
        self.errors_csv = folder / "errors.csv"
        self._lock = threading.Lock()

    def record(self, new: Mapping[str, Mapping[str, str]]) -> None:
        """Put rows into the table in place of older ones, and write ``errors.csv`` anew.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        with self._lock, self._alone():
            rows = {**self.rows(), **new}
            self._write(self.table, rows)
            failed = {id: row for id, row in rows.items() if row["status"] == "failed"}
            if failed:
                self._write(self.errors_csv, failed, ERROR_COLUMNS)
            else:
                self.errors_csv.unlink(missing_ok=True)

    def rows(self) -> dict[str, Mapping[str, str]]:
        """The rows as text, by id; {} before the first.

        Raises:
            InputError: the table is damaged, or cannot be read.
        """
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


def as_text(value: object) -> str:
    """A cell: "" for None, floats with six digits."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
