"""Writes a benchmark's results: a table, a record of the machine, figures, and a line on the terminal per case."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from medsoft.benchmark.figure import scaling
from medsoft.benchmark.machine import machine, machine_line
from medsoft.benchmark.measure import PASSES, Row
from medsoft.storage.files import replacing
from medsoft.system.terminal import plain_console

MIB = 2**20
RATIOS = {"to_floor": "×floor", "to_softmax": "×softmax", "extra_to_output": "×output"}


class Report:
    """Files ``<name>.csv`` and ``<name>.json`` in a folder; the table is rewritten whole whenever a size is done.

    Args:
        name: of the benchmark.
        folder: made where it is missing.
        options: of the command, for the record.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, name: str, folder: Path, options: Mapping[str, Any]) -> None:
        self.name, self.folder = name, folder
        self.rows: list[Row] = []
        self._console = plain_console()
        self._machine = machine()
        record = {"benchmark": name, "options": dict(options), "machine": self._machine}
        with replacing(folder / f"{name}.json") as file:
            file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self._console.print(machine_line(self._machine))

    def add(self, rows: Sequence[Row], title: str) -> None:
        """Take the rows of a size: save and show them."""
        self.rows += rows
        with replacing(self.folder / f"{self.name}.csv") as path, path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows({column: _cell(value) for column, value in row.items()} for row in self.rows)
        self._console.print(terminal_table(rows, title))
        for row in rows:
            if row["note"]:
                self._console.print(f"  {_name(row)}, {row['pass']}: {row['note']}")

    def draw(self, file: str, x: str, x_label: str, title: str, facts: str, only: Mapping[str, Any]) -> None:
        """Draw the rows that have the values ``only`` against the column ``x``; nothing where none was measured."""
        chosen = [row for row in self.rows if row["median_ms"] and all(row[key] == only[key] for key in only)]
        if chosen:
            scaling(chosen, x, x_label, f"{title}: {facts}", machine_line(self._machine), self.folder / file)

    def finish(self) -> int:
        """Say where the files are.

        Returns:
            The exit code: 3 where a case failed, else 0.
        """
        self._console.print(f"Table and pictures: {self.folder}")
        return 3 if any(str(row["note"] or "").startswith("failed") for row in self.rows) else 0


def terminal_table(rows: Sequence[Row], title: str) -> Table:
    """A line for each case that was measured; forward above, with backward below."""
    ratios = {column: name for column, name in RATIOS.items() if column in rows[0]}
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("", overflow="fold")
    for heading in ("ms", "IQR %", "extra MiB", *ratios.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    for which in PASSES:
        table.add_row(which, style="italic")
        for row in rows:
            if row["pass"] == which and row["median_ms"]:
                table.add_row(f" {_name(row)}", *_cells(row, ratios))
        table.add_section()
    return table


def _cells(row: Row, ratios: Mapping[str, str]) -> list[str]:
    return [
        f"{row['median_ms']:.3g}",
        f"{100 * (row['q3_ms'] - row['q1_ms']) / row['median_ms']:.0f}",
        f"{row['extra_bytes'] / MIB:.4g}",
        *(f"{row[column]:.3g}" if row[column] else "–" for column in ratios),
    ]


def _name(row: Row) -> str:
    return f"{row['name']} compiled" if row["compiled"] else str(row["name"])


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
