"""What was chosen on validation predictions, locked: thresholds and recalibration, for each fold and level.

``locked.json`` carries them to other tables: an external test set is read with the thresholds of the first hospital.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsoft.errors import InputError
from medsoft.evaluation.recalibration import Recalibration
from medsoft.evaluation.thresholds import OperatingPoint
from medsoft.task import Task

OPTIMISTIC = "OPTIMISTIC: chosen on these very rows"
"""Mark of a value whose threshold or recalibration comes from the rows that it is about."""


@dataclass(frozen=True)
class Chosen:
    """What one fold's model was given at one level.

    Attributes:
        fold: of the model; "" without folds.
        level: row, exam or patient.
        split: the rows that chose.
        n: how many of them have a target; 0 where nothing was chosen.
        points: thresholds.
        recalibration: None where there is none.
    """

    fold: str
    level: str
    split: str
    n: int
    points: tuple[OperatingPoint, ...] = ()
    recalibration: Recalibration | None = None

    @property
    def thresholds(self) -> dict[tuple[str, str], float | None]:
        """By class and rule."""
        return {(point.class_name, point.rule): point.threshold for point in self.points}

    def chose(self, rule: str, probabilities: str) -> bool:
        """Whether a value by this rule, or of recalibrated probabilities, rests on what was chosen."""
        return bool(probabilities) or rule in {point.rule for point in self.points if point.sensitivity is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        map_ = self.recalibration.to_json() if self.recalibration else None
        about = {"fold": self.fold, "level": self.level, "split": self.split, "n": self.n}
        return {**about, "points": [asdict(point) for point in self.points], "recalibration": map_}


@dataclass(frozen=True)
class Locked:
    """All that was chosen, and for which question."""

    task: Task
    chosen: tuple[Chosen, ...]

    def find(self, fold: str, level: str) -> Chosen:
        """What holds for a fold and level; what was chosen without folds holds for every fold.

        Raises:
            InputError: nothing was chosen for it.
        """
        for wanted in (fold, ""):
            for chosen in self.chosen:
                if chosen.fold == wanted and chosen.level == level:
                    return chosen
        there = ", ".join(f"fold {c.fold!r} by {c.level}" if c.fold else f"by {c.level}" for c in self.chosen)
        asked = f"fold {fold!r} by {level}" if fold else f"by {level}"
        level = self.chosen[0].level
        raise InputError(f"nothing is locked {asked}; there is {there}: --by {level} reads what there is")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": 1,
            "task": self.task.kind,
            "classes": list(self.task.classes),
            "chosen": [chosen.to_json() for chosen in self.chosen],
        }


def read_locked(path: Path | str, task: Task) -> Locked:
    """Read ``locked.json`` for predictions of the same question.

    Raises:
        InputError: it cannot be read, or is about another question.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if (values["task"], tuple(values["classes"])) != (task.kind, task.classes):
            raise InputError(
                f"{path}: locked for {values['task']} with the classes {', '.join(values['classes'])}; the predictions "
                f"are {task.kind} with {', '.join(task.classes)}"
            )
        return Locked(task, tuple(_chosen(part) for part in values["chosen"]))
    except OSError as error:
        raise InputError(f"{path}: cannot read what is locked: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a locked.json of medsoft evaluate ({error!r})") from error


def _chosen(part: dict[str, Any]) -> Chosen:
    map_ = part["recalibration"]
    points = tuple(OperatingPoint(**point) for point in part["points"])
    recalibration = Recalibration.from_json(map_) if map_ else None
    return Chosen(part["fold"], part["level"], part["split"], part["n"], points, recalibration)
