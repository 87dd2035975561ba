"""How a sheet of a workbook is named on the command line: ``file.xlsx#Sheet``."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".xlsx"


def split_sheet(table: str | Path) -> tuple[Path, str | None]:
    """The file of ``file.xlsx#Sheet``, and the sheet that it names; None where it names none."""
    name, mark, sheet = str(table).rpartition(f"{SUFFIX}#")
    return (Path(name + SUFFIX), sheet) if mark else (Path(table), None)
