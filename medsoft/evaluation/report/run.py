"""What the folder of a run knows beside its predictions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from medsoft.errors import InputError
from medsoft.evaluation.comparison.pairing import TIME
from medsoft.registry import DEFAULT_NAME
from medsoft.storage.own_files import read_json_object, value_of
from medsoft.task_types import KEPT


@dataclass(frozen=True)
class RunFacts:
    """A run as its files tell it; what an older run did not write is empty.

    Attributes:
        path: the folder.
        config: ``config.yaml``.
        versions: ``versions.json``.
        facts: ``facts.json``: rows, patients and classes of each part, exclusions, the model, the training.
        split_rows: rows of each split in ``split.csv``.
        excluded: (stage, reason) and how many inputs, of ``errors.csv``.
        log: ``metrics.csv`` of a training, if there is one.
        candidates: rows of ``candidates.csv``, of a folder of ``medsoft auto``.
    """

    path: Path
    config: dict[str, Any]
    versions: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    split_rows: dict[str, int] = field(default_factory=dict)
    excluded: dict[tuple[str, str], int] = field(default_factory=dict)
    log: Path | None = None
    candidates: tuple[dict[str, str], ...] = ()

    def option(self, group: str, name: str) -> Any:
        """A value of the configuration; None where it is not there."""
        of_group = self.config.get(group)
        return of_group.get(name) if isinstance(of_group, dict) else None

    @property
    def name(self) -> str:
        """As its configuration names it; else that of its folder, and where that says a time alone, of its table."""
        given = str(self.config.get("name") or "")
        if given and given != DEFAULT_NAME:
            return given
        folder, table = self.path.resolve().name, str(self.facts.get("data", {}).get("table") or "")
        return (Path(table).stem if TIME.fullmatch(folder) else "") or folder

    @property
    def unit(self) -> str:
        """What a row is: image, slide, volume; sample where the run does not say."""
        return str(self.facts.get("data", {}).get("unit", "sample"))

    @property
    def seen_before(self) -> str:
        """The sentence on rows that the model was trained on; "" where there are none, or the run does not say."""
        seen = self.facts.get("data", {}).get("seen_before")
        return str(seen.get("said", "")) if isinstance(seen, dict) else ""

    @property
    def changed_table(self) -> str:
        """The sentence on a table that has changed since the training, and was accepted; "" where none has."""
        changed = self.facts.get("data", {}).get("changed_table")
        if not isinstance(changed, str) or not changed:
            return ""
        return (
            f"The table has changed since the training began, and was accepted as it was ({changed}): the model, and "
            "the choice of its checkpoint, may rest on other rows or labels than these figures"
        )


def read_run(path: str | Path) -> RunFacts:
    """Read what a run's folder says of itself.

    Raises:
        InputError: it is no folder of a run, or a file of it cannot be read.
    """
    folder = Path(path)
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{path}: no folder of a run (it has no config.yaml)")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        split = _table(folder / "split.csv", ("id", "split"))
        errors = _table(folder / "errors.csv", ("stage", "reason"))
        return RunFacts(
            folder,
            config if isinstance(config, dict) else {},
            _json(folder / "versions.json"),
            _facts(folder / "facts.json"),
            {str(name): int(n) for name, n in split["split"].value_counts(sort=False).items()},
            dict(Counter(zip(errors["stage"], errors["reason"].map(kind_of_reason), strict=True))),
            log if (log := folder / "metrics.csv").is_file() else None,
            _candidates(folder / "candidates.csv"),
        )
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot read what this run says of itself: {error}") from error


def kind_of_reason(reason: str) -> str:
    """``duplicate`` of ``duplicate: /a/b.png: the same file as row 3``: the words without names of files."""
    kind = reason.partition(":")[0].strip()
    return kind if len(kind) < 60 and "/" not in kind and "\\" not in kind else "unreadable"


def _candidates(path: Path) -> tuple[dict[str, str], ...]:
    rows = _table(path, ("name", "what", "state", "chosen", "metric", "score", "low", "high", "reason"))
    return tuple({str(name): str(value) for name, value in row.items()} for row in rows.to_dict("records"))


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return read_json_object(path)


def _facts(path: Path) -> dict[str, Any]:
    """``facts.json``, whose parts are named values, and whose counts are numbers."""
    facts = _json(path)
    for name in ("data", "model", "training", KEPT):
        if name in facts:
            value_of(facts, name, dict, path)
    data = facts.get("data", {})
    for about in value_of({"splits": {}, **data}, "splits", dict, path).values():
        if not isinstance(about, dict):
            raise InputError(f"{path}: is damaged: a part of its data is none")
        value_of(about, "rows", int, path)
        value_of(about, "patients", (int, type(None)), path)
        if not all(isinstance(n, int) for n in value_of(about, "classes", dict, path).values()):
            raise InputError(f"{path}: is damaged: its counts are no numbers")
    for name in ("rows", "patients"):
        value_of({name: None, **data}, name, (int, type(None)), path)
    return facts


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Columns of a CSV file as text; no rows where there is no file."""
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=str) for name in columns})
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in columns if name not in frame]:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}")
    return frame
