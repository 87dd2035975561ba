"""The folder of ``medsoft auto``: what was asked, the candidates and what became of them, and which were chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from medsoft.errors import InputError
from medsoft.runs.checkpoint_paths import AUTO
from medsoft.runs.crossval_folder import CrossvalFolder
from medsoft.storage.files import replacing
from medsoft.storage.own_files import read_json_object, value_of

FORMAT = 1

COLUMNS = (
    *("name", "what", "state", "chosen", "metric", "score", "low", "high", "difference", "difference_low"),
    *("difference_high", "seconds", "predicted_seconds", "predicted_gib", "reason", "why"),
)
"""Of ``candidates.csv``."""


class AutoFolder:
    """Names of what ``medsoft auto`` leaves behind, and its state.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / AUTO
        self.config = path / "config.yaml"
        self.split = path / "split.csv"
        self.rows = path / "rows.csv"
        self.table = path / "candidates.csv"
        self.predictions = path / "predictions.csv"
        self.locked = path / "locked.json"
        self.log = path / "log.txt"

    @classmethod
    def existing(cls, path: str | Path) -> AutoFolder:
        """The folder of a call that has begun.

        Raises:
            InputError: it is none.
        """
        folder = cls(Path(path))
        if not folder.state.is_file():
            raise InputError(f"{path}: not a folder of medsoft auto (it has no {AUTO})")
        folder.read()
        return folder

    def read(self) -> dict[str, Any]:
        """The state.

        Raises:
            InputError: it cannot be read.
        """
        state = read_json_object(self.state)
        if value_of(state, "format", int, self.state) != FORMAT:
            raise InputError(f"{self.state}: of another version of medsoft (format {state['format']})")
        for name, kind in (("asked", dict), ("candidates", list), ("seconds", (int, float)), ("chosen", list)):
            value_of(state, name, kind, self.state)
        return state

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the state, whole, and the table of candidates beside it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.state) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **state}, indent=2) + "\n", encoding="utf-8")
        rows = [{column: candidate.get(column) for column in COLUMNS} for candidate in state["candidates"]]
        with replacing(self.table) as temporary:
            pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")

    def write_config(self, config: Mapping[str, Any], path: Path) -> None:
        """Write a configuration."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def candidate_config(self, name: str) -> Path:
        """The configuration of a candidate, which ``fit`` and ``crossval`` take as well."""
        return self.path / "candidates" / f"{name}.yaml"

    def crossval(self, name: str) -> CrossvalFolder:
        """The inner folds of a candidate."""
        return CrossvalFolder(self.path / "candidates" / name)

    def log_of(self, name: str) -> Path:
        """What its trainings have said."""
        return self.path / "candidates" / f"{name}.log"

    def features(self, name: str) -> Path:
        """Of a set of features."""
        return self.path / "features" / name

    def outer(self, number: int) -> AutoFolder:
        """Of one fold of a nested cross-validation."""
        return AutoFolder(self.path / "outer" / f"fold-{number}")

    @property
    def chosen(self) -> list[CrossvalFolder]:
        """The inner folds of the candidates whose models predict.

        Raises:
            InputError: nothing is chosen yet.
        """
        names: Sequence[str] = self.read()["chosen"]
        if not names:
            raise InputError(f"{self.path}: nothing is chosen yet: medsoft auto --resume {self.path}")
        return [self.crossval(name) for name in names]
