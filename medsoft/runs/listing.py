"""What runs a folder holds, and what of them nothing needs any more."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsoft.errors import InputError
from medsoft.runs.checkpoint_paths import AUTO, PLAN, is_bundle
from medsoft.storage.own_files import read_json_object

STATE = Path("checkpoints") / "last.ckpt"
FINISHED = "finished"
PREPARED = re.compile(r"[0-9a-f]{32}\.pt")
"""Names of the files of ``data.cache disk``, which are hashes."""


@dataclass(frozen=True)
class ListedRun:
    """A run as ``medsoft runs`` lists it.

    Attributes:
        path: its folder.
        kind: fit, crossval, auto, or another verb that left a run's folder.
        state: finished, or begun.
        task: the question; "" where nothing says it yet.
        data: name of the table, and how many rows were read of it.
        metric: what the report names first, with its value and interval.
        bytes: of all its files.
        started: as ``versions.json`` has it, or the day of its configuration.
    """

    path: Path
    kind: str
    state: str
    task: str
    data: str
    metric: str
    bytes: int
    started: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class Freeable:
    """Something that can go.

    Attributes:
        path: the file.
        bytes: its size.
        why: nothing needs it.
    """

    path: Path
    bytes: int
    why: str


def find_runs(folder: str | Path) -> list[Path]:
    """Folders of runs, cross-validations and calls of auto; what lies within one is a part of it, and not listed.

    Args:
        folder: where to look; it may be one itself.

    Raises:
        InputError: there is no such folder.
    """
    top = Path(folder)
    if not top.is_dir():
        raise InputError(f"{folder}: no such folder; name the one that runs were written to, such as runs")
    found = []
    for place, inside, _ in os.walk(top):
        if _is_run(Path(place)):
            found.append(Path(place))
            inside.clear()
        inside[:] = sorted(name for name in inside if not name.startswith("."))
    return found


def describe_run(path: Path) -> ListedRun:
    """What the files of a run say of it; what is damaged or not written yet stays open.

    Args:
        path: of ``find_runs``.
    """
    versions, facts, report = (_json(path / name) for name in ("versions.json", "facts.json", "report.json"))
    state = _json(path / AUTO)
    command = versions.get("command") or state.get("command")
    kind = str(command[1]) if isinstance(command, list) and command[1:] else ""
    kind = "crossval" if (path / PLAN).is_file() else kind
    metrics = _json(path / "metrics.json")
    finished = bool(metrics) and bool(state.get("finished", True))
    data = facts.get("data") or {}
    rows = data.get("rows")
    table = str(data.get("table") or "") + ("" if rows is None else f" ({rows} rows)")
    begun = versions.get("started") or _day_of(path / "config.yaml")
    return ListedRun(
        path,
        kind,
        FINISHED if finished else "begun",
        str((report.get("question") or {}).get("kind") or _task_of(metrics)),
        table.strip(),
        _metric_of(report, metrics),
        sum(size for _, size in _files(path)),
        str(begun),
    )


def freeable(folder: str | Path) -> list[Freeable]:
    """Files that neither prediction nor going on needs.

    Of a finished fold, the state to go on from: cross-validations and ``auto`` never go on with a fold that has
    finished, and predict with its best checkpoint. A run that stands alone keeps it, as more epochs may be asked of it.
    And volumes that ``data.cache disk`` has kept prepared, once every run of this folder that reads them has finished:
    they are prepared anew where they are not found.

    Args:
        folder: where to look, as ``find_runs``.

    Raises:
        InputError: there is no such folder.
    """
    runs = find_runs(folder)
    found = [
        Freeable(file, size, "state of a finished fold")
        for run in runs
        for file, size in _files(run)
        if _is_state_of_a_finished_fold(file, run)
    ]
    caches: dict[Path, bool] = {}
    for run in runs:
        if (cache := _cache_of(run)) is not None:
            caches[cache] = caches.get(cache, True) and describe_run(run).state == FINISHED
    for cache in (cache for cache, unused in caches.items() if unused):
        prepared = ((file, size) for file, size in _files(cache) if PREPARED.fullmatch(file.name))
        found += [Freeable(file, size, "prepared volume of finished runs") for file, size in prepared]
    return found


def _cache_of(run: Path) -> Path | None:
    """The folder in which a run keeps prepared volumes, if it keeps any."""
    import yaml

    try:
        data = (yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}).get("data") or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return None
    folder = data.get("cache_dir") if data.get("cache") == "disk" else None
    return Path(folder) if isinstance(folder, str) and Path(folder).is_dir() else None


def _is_state_of_a_finished_fold(file: Path, run: Path) -> bool:
    fold = file.parents[1]
    if file != fold / STATE or fold == run or not (fold.parent / PLAN).is_file():
        return False
    return (fold / "metrics.json").is_file() and file.with_name("best.ckpt").is_file()


def _is_run(path: Path) -> bool:
    if is_bundle(path):
        return False
    begun = (path / "config.yaml").is_file() and (path / "versions.json").is_file()
    return begun or any((path / name).is_file() for name in (PLAN, AUTO))


def _files(path: Path) -> Iterator[tuple[Path, int]]:
    """Regular files below a folder and their sizes; links are not followed."""
    for place, _, names in os.walk(path):
        for name in names:
            file = Path(place) / name
            if file.is_file() and not file.is_symlink():
                yield file, file.stat().st_size


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path) if path.is_file() else {}
    except InputError:
        return {}


def _task_of(metrics: dict[str, Any]) -> str:
    parts = (part for part in metrics.values() if isinstance(part, dict))
    return next((str(part["task"]) for part in parts if "task" in part), "")


def _metric_of(report: dict[str, Any], metrics: dict[str, Any]) -> str:
    """What the report shows first; without one, the first number of the test part, or of what there is."""
    key = report.get("key_figures") or {}
    figures = key.get("figures") or []
    if figures and figures[0].get("value") is not None:
        return _in_words(figures[0], str(figures[0]["name"]), str(key.get("of", "")))
    primary = metrics.get("primary")
    if isinstance(primary, dict) and primary.get("value") is not None:
        return _in_words(primary, str(primary.get("metric", "")), "test")
    for name, part in sorted(metrics.items(), key=lambda item: item[0] != "test"):
        if isinstance(part, dict) and {"macro", "overall"} <= part.keys():
            from medsoft.evaluation.metrics.score import headline

            values = {metric: value for metric, value in headline(part).items() if value is not None}  # type: ignore[arg-type]
            if values:
                metric, value = next(iter(values.items()))
                return f"{metric} {value:.3f}, {name}"
    return ""


def _in_words(value: dict[str, Any], name: str, of: str) -> str:
    interval = "" if value.get("low") is None else f" ({value['low']:.3f} to {value['high']:.3f})"
    return f"{name} {value['value']:.3f}{interval}" + (f", {of[:1].lower()}{of[1:]}" if of else "")


def _day_of(path: Path) -> str:
    from datetime import datetime

    if not path.is_file():
        return ""
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat(timespec="seconds")
