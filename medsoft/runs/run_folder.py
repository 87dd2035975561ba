"""The folder of a run: created after all checks have passed, with a record of what made it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import pandas as pd
import yaml

from medsoft import __version__
from medsoft.errors import InputError
from medsoft.evaluation.locked import TARGETS
from medsoft.runs.table_rows import ROWS, write_rows
from medsoft.storage.files import hold_folder, is_empty, release_folders, replacing
from medsoft.storage.own_files import read_json_object

PACKAGES = ("torch", "lightning", "timm", "monai", "albumentations", "scikit-learn", "numpy", "pandas", "pillow")
DETECTOR = "out_of_distribution.safetensors"
ENCODED = "encoded"
"""Features that a prediction made of images first: a folder of ``medsoft encode``, there before the run begins."""
OLD_DETECTOR = "familiar.safetensors"
"""Of version 0.1."""


class RunFolder:
    """Names of what a run leaves behind.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.split = path / "split.csv"
        self.rows = path / ROWS
        self.versions = path / "versions.json"
        self.metrics_table = path / "metrics.csv"
        self.rates = path / "lr_find.csv"
        self.rates_figure = path / "lr_find.png"
        self.metrics = path / "metrics.json"
        self.predictions = path / "predictions.csv"
        self.errors = path / "errors.csv"
        self.facts = path / "facts.json"
        self.evaluation = path / "evaluation"
        self.examples = path / "examples"
        self.report = path / "report.html"
        self.figures = path / "figures"
        self.maps = path / "maps"
        self.masks = path / "masks"
        self.boxes = path / "boxes"
        self.detections = path / "detections.csv"
        self.encoded = path / ENCODED
        self.tensorboard = path / "tensorboard"
        self.shortcut_facts = path / "shortcuts" / "facts.csv"
        self.detector = path / DETECTOR
        self.old_detector = path / OLD_DETECTOR
        self.last = path / "checkpoints" / "last.ckpt"
        self.best = path / "checkpoints" / "best.ckpt"

    @classmethod
    def choose(cls, out: str | None, name: str) -> Self:
        """The folder ``out``, or ``runs/<name>/<time>``, which ``begin`` makes.

        Raises:
            InputError: it holds something already.
        """
        path = Path(out) if out else Path("runs") / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        try:
            taken = not is_empty(path, ENCODED)
        except OSError as error:
            raise InputError(f"{path}: this folder cannot be used: {error.strerror}") from None
        if taken:
            raise InputError(
                f"{path}: holds files already; choose another folder with --out, or continue with --resume"
            )
        return cls(path)

    @classmethod
    def existing(cls, path: str) -> RunFolder:
        """The folder of an earlier run.

        Raises:
            InputError: no run's folder.
        """
        run = cls(Path(path))
        if not run.config.is_file():
            raise InputError(f"{path}: no folder of a run (it has no config.yaml)")
        return run

    def target(self, name: str) -> RunFolder:
        """What there is of one of several targets alone, in the names of a run: predictions, evaluation, report."""
        return RunFolder(self.path / TARGETS / name)

    @property
    def of_target(self) -> str:
        """The target that this is of, of several (``target``); "" for a run."""
        return self.path.name if self.path.parent.name == TARGETS else ""

    @property
    def name(self) -> str:
        """The folder's name; of one of several targets that of the run and its own."""
        return f"{self.path.parents[1].name}, {self.of_target}" if self.of_target else self.path.name

    def pooled_predictions(self, level: str) -> Path:
        """The predictions by exam, or by patient."""
        return self.path / f"predictions_{level}s.csv"

    def pooled_metrics(self, level: str) -> Path:
        """The metrics by exam, or by patient."""
        return self.path / f"metrics_{level}s.json"

    def shortcut_predictions(self, baseline: str) -> Path:
        """What a shortcut baseline predicts of the same rows as the model."""
        return self.shortcut_facts.with_name(f"predictions_{baseline}.csv")

    def begin(
        self,
        verb: str,
        argv: Sequence[str],
        config: dict[str, Any],
        rows: pd.DataFrame | None = None,
        table_rows: pd.DataFrame | None = None,
    ) -> None:
        """Make the folder, with what is to be done: all of it, or nothing is left. Other runs are kept out of it.

        Args:
            verb: of the command line.
            argv: the command line after the verb.
            config: the resolved configuration.
            rows: with id and split, of a run that splits its table.
            table_rows: of a training, what the table says; see ``medsoft.runs.table_rows``.

        Raises:
            InputError: it cannot be written, or another run has begun in it meanwhile.
        """
        new = not self.path.exists()
        try:
            hold_folder(self.path)
            if not is_empty(self.path, ENCODED):
                raise InputError(f"{self.path}: another run has begun in this folder; choose another with --out")
            try:
                self._write_config(config)
                if rows is not None:
                    self._write_split(rows)
                if table_rows is not None:
                    write_rows(table_rows, self.rows)
                self._write_versions(verb, argv)
            except OSError:
                for file in (self.config, self.split, self.rows, self.versions):
                    file.unlink(missing_ok=True)
                release_folders()
                if new:
                    self.path.rmdir()
                raise
        except OSError as error:
            raise InputError(f"{self.path}: this folder cannot be written: {error.strerror or error}") from None

    def go_on(
        self,
        verb: str,
        argv: Sequence[str],
        config: dict[str, Any],
        table_rows: pd.DataFrame | None = None,
        changed: str = "",
    ) -> None:
        """Write down what a resumed run goes on with: its configuration with added options, and the command.

        Args:
            verb: of the command line.
            argv: the command line after the verb.
            config: the resolved configuration.
            table_rows: of a table that has changed, what it says now.
            changed: in words, what has changed in it.
        """
        self._write_config(config)
        if table_rows is not None:
            write_rows(table_rows, self.rows)
        facts = read_json_object(self.versions) if self.versions.is_file() else {}
        now: dict[str, Any] = {
            "command": ["medsoft", verb, *argv],
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "medsoft": __version__,
            "commit": _commit(),
        }
        now |= {"changed_table": changed} if changed else {}
        before = facts.get("resumed")
        facts["resumed"] = [*(before if isinstance(before, list) else []), now]
        with replacing(self.versions) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")

    def _write_config(self, config: dict[str, Any]) -> None:
        with replacing(self.config) as temporary:
            temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def _write_split(self, rows: pd.DataFrame) -> None:
        with replacing(self.split) as temporary:
            rows[["id", "split"]].to_csv(temporary, index=False)

    def _write_versions(self, verb: str, argv: Sequence[str]) -> None:
        """What runs: versions, machine, command and the commit of medsoft's checkout, if it is one."""
        facts = {
            "medsoft": __version__,
            "commit": _commit(),
            "command": ["medsoft", verb, *argv],
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "packages": dict(_versions(PACKAGES)),
        }
        with replacing(self.versions) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")


def _versions(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"


def _commit() -> str | None:
    """The commit of the checkout that medsoft runs from, with a + after local changes; None outside of one."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            ["git", "-C", here, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")
