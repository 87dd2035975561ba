"""What the folder of a run knows beside its predictions."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from medsoft.errors import InputError


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
    """

    path: Path
    config: dict[str, Any]
    versions: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    split_rows: dict[str, int] = field(default_factory=dict)
    excluded: dict[tuple[str, str], int] = field(default_factory=dict)
    log: Path | None = None

    def option(self, group: str, name: str) -> Any:
        """A value of the configuration; None where it is not there."""
        of_group = self.config.get(group)
        return of_group.get(name) if isinstance(of_group, dict) else None

    @property
    def unit(self) -> str:
        """What a row is: image, slide, volume; sample where the run does not say."""
        return str(self.facts.get("data", {}).get("unit", "sample"))


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
            _json(folder / "facts.json"),
            {str(name): int(n) for name, n in split["split"].value_counts(sort=False).items()},
            dict(Counter(zip(errors["stage"], errors["reason"].map(kind_of_reason), strict=True))),
            log if (log := folder / "metrics.csv").is_file() else None,
        )
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot read what this run says of itself: {error}") from error


def kind_of_reason(reason: str) -> str:
    """``duplicate`` of ``duplicate: /a/b.png: the same file as row 3``: the words without names of files."""
    kind = reason.partition(":")[0].strip()
    return kind if len(kind) < 60 and "/" not in kind and "\\" not in kind else "unreadable"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else {}


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Columns of a CSV file as text; no rows where there is no file."""
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=str) for name in columns})
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in columns if name not in frame]:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}")
    return frame
