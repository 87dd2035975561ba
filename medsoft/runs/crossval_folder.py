"""The folder of a cross-validation: its plan, its progress, and the locks of its folds."""

from __future__ import annotations

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

from medsoft.data.tables.folds import Design, Fold
from medsoft.errors import InputError, RunError
from medsoft.runs.checkpoint_paths import PLAN
from medsoft.runs.run_folder import RunFolder
from medsoft.runs.table_rows import ROWS, write_rows
from medsoft.storage.files import holding, replacing
from medsoft.storage.hashing import sha256
from medsoft.storage.lock import lock
from medsoft.storage.own_files import read_json_object, value_of

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
        self.rows = path / ROWS
        self.predictions = path / "predictions.csv"
        self.validation = path / "validation.csv"
        self.folds_table = path / "folds.csv"
        self.metrics = path / "metrics.json"
        self.errors = path / "errors.csv"
        self.evaluation = path / "evaluation"
        self.learning_curve = path / "learning_curve.csv"

    @classmethod
    def existing(cls, path: str | Path) -> CrossvalFolder:
        """The folder of a cross-validation that has begun.

        Raises:
            InputError: it is none.
        """
        folder = cls(Path(path))
        if not folder.plan.is_file():
            raise InputError(f"{path}: not the folder of a cross-validation (it has no crossval.json)")
        folder.folds  # noqa: B018 (reads the plan: what is wrong with it is said now)
        return folder

    def begin(
        self,
        design: Design,
        folds: Sequence[Fold],
        ids: Sequence[str],
        config: dict[str, Any],
        rows: pd.DataFrame | None = None,
    ) -> bool:
        """Write down what is to be done; or find it written already, when a fold is another job's.

        Args:
            design: how the table is divided.
            folds: all of them.
            ids: (N,) of the table's rows.
            config: what each fold's training is configured with.
            rows: what the table says; see ``medsoft.runs.table_rows``.

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
        about_design = asdict(design)
        if design.train_fraction == 1:
            del about_design["train_fraction"]  # of which the plans of earlier versions say nothing
        text = json.dumps(
            {
                "format": FORMAT,
                "design": about_design,
                "config": config,
                "folds": [asdict(fold) for fold in planned],
            },
            indent=2,
        )
        try:
            with holding(self.path, wait=True):
                return self._begin(text, config, splits, rows)
        except OSError as error:
            raise InputError(f"{self.path}: this folder cannot be written: {error.strerror or error}") from None

    def _begin(self, text: str, config: dict[str, Any], splits: dict[int, str], rows: pd.DataFrame | None) -> bool:
        begun = self.plan.is_file()
        if begun:
            self._require_same(text)
        elif self.path.exists() and any(not file.name.startswith(".") for file in self.path.iterdir()):
            raise InputError(f"{self.path}: holds files already; choose another folder with --out")
        else:
            if rows is not None:
                write_rows(rows, self.rows)
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
        return begun

    def _require_same(self, text: str) -> None:
        before, now = read_json_object(self.plan), json.loads(text)
        for what in ("design", "config", "folds"):
            if value_of(before, what, (dict, list), self.plan) != now[what]:
                differing = _first_difference(before[what], now[what], what)
                raise InputError(
                    f"{self.path}: holds a cross-validation of other options or data ({differing}); choose another "
                    f"folder with --out, or continue what it holds: medsoft crossval --resume {self.path}"
                )

    @property
    def folds(self) -> list[PlannedFold]:
        """All folds, in order.

        Raises:
            InputError: the plan cannot be read.
        """
        plan = read_json_object(self.plan)
        if value_of(plan, "format", int, self.plan) != FORMAT:
            raise InputError(f"{self.plan}: of another version of medsoft (format {plan['format']})")
        kinds = {"number": int, "repeat": int, "name": str, "seed": int, "n": dict, "sha256": str}
        folds = []
        for number, said in enumerate(value_of(plan, "folds", list, self.plan)):
            if not isinstance(said, dict):
                raise InputError(f"{self.plan}: is damaged: fold {number} is invalid")
            fold = PlannedFold(**{name: value_of(said, name, kind, self.plan) for name, kind in kinds.items()})
            if fold.number != number or not all(isinstance(count, int) for count in fold.n.values()):
                raise InputError(f"{self.plan}: is damaged: fold {number} is invalid")
            folds.append(fold)
        if not folds:
            raise InputError(f"{self.plan}: is damaged: it has no folds")
        return folds

    def part(self, fraction: float) -> CrossvalFolder:
        """The cross-validation of a part of the training data, for a learning curve."""
        return CrossvalFolder(self.path / "learning_curve" / f"{fraction:g}")

    @property
    def parts(self) -> dict[float, CrossvalFolder]:
        """Cross-validations of parts of the training data, by fraction, the smallest first."""
        folder = self.path / "learning_curve"
        if not folder.is_dir():
            return {}
        found = {float(one.name): CrossvalFolder(one) for one in folder.iterdir() if (one / PLAN).is_file()}
        return dict(sorted(found.items()))

    def check_split(self, fold: PlannedFold) -> None:
        """Check that a fold's split file is the one that was written.

        Raises:
            InputError: it is missing, or was altered.
        """
        file = self.split(fold.number)
        try:
            same = sha256(file) == fold.sha256
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from None
        if not same:
            raise InputError(f"{file}: was altered since the cross-validation was planned; restore it, or start again")

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
        path = self.path / "splits" / f".fold-{number}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                lock(file.fileno())
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
