"""The folder of a cross-validation: what is to be done, how far it is, and who is at work on a fold."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from medsoft.data.folds import Design, Fold
from medsoft.errors import InputError, RunError
from medsoft.files import replacing
from medsoft.learn.checkpoint_file import PLAN
from medsoft.learn.run_folder import RunFolder

FORMAT = 1


@dataclass(frozen=True)
class PlannedFold:
    """A fold as the folder remembers it; ``sha256`` is that of its split file, the rest as in ``Fold``."""

    number: int
    repeat: int
    name: str
    seed: int
    n: dict[str, int]
    sha256: str


class CrossvalFolder:
    """Names of what a cross-validation leaves behind, and its state.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / PLAN
        self.config = path / "config.yaml"
        self.predictions = path / "predictions.csv"
        self.validation = path / "validation.csv"
        self.folds_table = path / "folds.csv"
        self.metrics = path / "metrics.json"
        self.errors = path / "errors.csv"
        self.evaluation = path / "evaluation"

    @classmethod
    def existing(cls, path: str | Path) -> CrossvalFolder:
        """The folder of a cross-validation that has begun.

        Raises:
            InputError: it is none.
        """
        folder = cls(Path(path))
        if not folder.plan.is_file():
            raise InputError(f"{path}: no folder of a cross-validation (it has no crossval.json)")
        folder.folds  # noqa: B018 (reads the plan: what is wrong with it is said now)
        return folder

    def begin(self, design: Design, folds: Sequence[Fold], ids: Sequence[str], config: dict[str, Any]) -> bool:
        """Write down what is to be done; or find it written already, when a fold is another job's.

        Args:
            design: how the table is divided.
            folds: all of them.
            ids: (N,) of the table's rows.
            config: what each fold's training is configured with.

        Returns:
            Whether it had begun before.

        Raises:
            InputError: the folder holds something else, or a cross-validation of other options or data.
        """
        splits = {fold.number: _split_file(ids, fold.split) for fold in folds}
        planned = [
            PlannedFold(
                fold.number,
                fold.repeat,
                fold.name,
                fold.seed,
                {part: int((fold.split == part).sum()) for part in dict.fromkeys(fold.split.tolist())},
                hashlib.sha256(splits[fold.number].encode()).hexdigest(),
            )
            for fold in folds
        ]
        text = json.dumps(
            {
                "format": FORMAT,
                "design": asdict(design),
                "config": config,
                "folds": [asdict(fold) for fold in planned],
            },
            indent=2,
        )
        begun = self.plan.is_file()
        try:
            if begun:
                self._require_same(text)
            elif self.path.exists() and any(not file.name.startswith(".") for file in self.path.iterdir()):
                raise InputError(f"{self.path}: holds files already; choose another folder with --out")
            else:
                with replacing(self.plan) as temporary:
                    temporary.write_text(text + "\n", encoding="utf-8")
            # The plan decides all else: jobs that begin at once write the same files.
            if not self.config.is_file():
                with replacing(self.config) as temporary:
                    temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
            for number, split in splits.items():
                if not self.split(number).is_file():
                    with replacing(self.split(number)) as temporary:
                        temporary.write_text(split, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self.path}: this folder cannot be written: {error.strerror or error}") from None
        return begun

    def _require_same(self, text: str) -> None:
        before, now = json.loads(self.plan.read_text(encoding="utf-8")), json.loads(text)
        for what in ("design", "config", "folds"):
            if before[what] != now[what]:
                differing = _first_difference(before[what], now[what], what)
                raise InputError(
                    f"{self.path}: holds a cross-validation of other options or data ({differing}); choose another "
                    f"folder with --out, or go on with what it holds: medsoft crossval --resume {self.path}"
                )

    @property
    def folds(self) -> list[PlannedFold]:
        """All folds, in order.

        Raises:
            InputError: the plan cannot be read.
        """
        try:
            plan = json.loads(self.plan.read_text(encoding="utf-8"))
            if plan["format"] != FORMAT:
                raise InputError(f"{self.plan}: of another version of medsoft (format {plan['format']})")
            return [PlannedFold(**fold) for fold in plan["folds"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.plan}: cannot be read: {error}") from None

    def split(self, number: int) -> Path:
        """The split file of a fold."""
        return self.path / "splits" / f"fold-{number}.csv"

    def run(self, number: int) -> RunFolder:
        """The run of a fold."""
        return RunFolder(self.path / f"fold-{number}")

    def log(self, number: int) -> Path:
        """What a fold says when it runs in a process of its own."""
        return self.path / "logs" / f"fold-{number}.log"

    def is_finished(self, number: int) -> bool:
        """Whether a fold is trained, and its parts are predicted and scored."""
        return self.run(number).metrics.is_file()

    @contextmanager
    def working_on(self, number: int) -> Iterator[None]:
        """Keep other processes from a fold; a process that is killed lets go of it.

        Raises:
            RunError: another process is at work on it.
        """
        lock = self.path / "splits" / f".fold-{number}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"fold {number} of {self.path}: another process is at work on it") from None
            yield


def _split_file(ids: Sequence[str], split: np.ndarray) -> str:
    frame = pd.DataFrame({"id": ids, "split": split})
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _first_difference(before: Any, now: Any, name: str) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            if before.get(key) != now.get(key):
                return _first_difference(before.get(key), now.get(key), key if name == "config" else f"{name}.{key}")
    if isinstance(before, list):
        return "other folds: the table or the way it is divided has changed"
    return f"{name} was {before!r}, and is {now!r} now"
