"""The verbs ``runs`` and ``clean``: what runs a folder holds, and what of them can go."""

from __future__ import annotations

import json as plain
import sys

from medsoft.errors import InputError
from medsoft.runs.listing import FINISHED, ListedRun, describe_run, find_runs, freeable


def list_runs(folder: str = "runs", json: bool = False) -> None:
    """List the runs of a folder, the newest first: task, data, main metric, size and date.

    Args:
        folder: Folder that runs were written to; what lies within a run is a part of it.
        json: Print them as JSON, for programs.

    Raises:
        InputError: there is no such folder.
    """
    found = sorted((describe_run(path) for path in find_runs(folder)), key=lambda run: run.started, reverse=True)
    if json:
        print(plain.dumps([run.to_json() for run in found], indent=2, ensure_ascii=False))
    elif found:
        _print_table(found)
    else:
        print(f"No runs in {folder}")


def clean(folder: str = "runs", yes: bool = False) -> int:
    """List files of finished runs that nothing needs, ask, and remove them.

    Neither predict nor --resume needs them: the training state of each finished fold of a cross-validation or of auto,
    and prepared volumes (data.cache disk) of finished runs.

    Args:
        folder: Folder that runs were written to.
        yes: Remove them without asking.

    Returns:
        0.

    Raises:
        InputError: there is no such folder, or no terminal to ask on.
    """
    from medsoft.evaluation.wording import counted

    found = freeable(folder)
    if not found:
        print(f"Nothing to free in {folder}")
        return 0
    for one in found:
        print(f"{_size(one.bytes):>9}  {one.path}  ({one.why})")
    total = f"{counted(len(found), 'file')}, {_size(sum(one.bytes for one in found))}"
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"{total} can be freed: --yes removes them (there is no terminal to ask on)")
        if input(f"Remove {total}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was removed")
            return 0
    for one in found:
        one.path.unlink(missing_ok=True)
    print(f"Freed: {total}")
    return 0


def _print_table(found: list[ListedRun]) -> None:
    from rich.table import Column, Table

    from medsoft.system.terminal import plain_console

    table = Table(
        Column("run", overflow="fold"),
        *(Column(name, overflow="fold") for name in ("verb", "task", "data", "metric")),
        Column("size", justify="right", no_wrap=True),
        Column("started", no_wrap=True, width=10),
        box=None,
        padding=(0, 1, 0, 0),
    )
    for run in found:
        verb = run.kind if run.state == FINISHED else f"{run.kind}, begun"
        metric = run.metric.partition(" (")[0]  # without the interval, which --json has
        table.add_row(str(run.path), verb, run.task, run.data, metric, _size(run.bytes), run.started[:10])
    plain_console().print(table)


def _size(number: int) -> str:
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
