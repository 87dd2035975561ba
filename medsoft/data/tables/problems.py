"""Reports all problems of a table at once: the rows, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from medsoft.errors import InputError, Problem
from medsoft.storage.files import replacing

__all__ = ["Problem", "TableError", "write_errors"]

ERROR_COLUMNS = ["path", "stage", "reason"]
SHOWN_PER_KIND = 20
SHOWN_ROWS = 10


class TableError(InputError):
    """A sample table has problems; the message lists them all, up to 20 of a kind.

    Attributes:
        problems: all of them.
    """

    def __init__(self, table: str, problems: Sequence[Problem]) -> None:
        super().__init__(_listing(table, problems))
        self.problems = list(problems)


def _listing(table: str, problems: Sequence[Problem]) -> str:
    lines = [f"{table}: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}"]
    for kind, same_kind in groupby(sorted(problems, key=lambda p: (p.kind, p.rows)), key=lambda p: p.kind):
        found = list(same_kind)
        advice = found[0].advice + ("; on_error skip leaves such rows out" if found[0].skippable else "")
        lines.append(f"{kind} ({len(found)}): {advice}")
        lines += [f"  {_rows(problem.rows)}{problem.message}" for problem in found[:SHOWN_PER_KIND]]
        if len(found) > SHOWN_PER_KIND:
            lines.append(f"  ... and {len(found) - SHOWN_PER_KIND} more")
    return "\n".join([*lines, "(row 1 is the first row below the header)"])


def _rows(rows: tuple[int, ...]) -> str:
    if not rows:
        return ""
    numbers = ", ".join(map(str, rows[:SHOWN_ROWS])) + (", ..." if len(rows) > SHOWN_ROWS else "")
    return f"{'row' if len(rows) == 1 else 'rows'} {numbers}: "


def write_errors(failures: pd.DataFrame, path: str | Path) -> None:
    """Write ``errors.csv``: one row an input that failed, with path, stage and reason.

    Args:
        failures: has the columns path, stage and reason; others are left out.
        path: the file to write, whole or not at all.
    """
    with replacing(Path(path)) as temporary:
        failures[ERROR_COLUMNS].to_csv(temporary, index=False)
