"""What was chosen on validation predictions, locked: thresholds and recalibration, for each fold and level.

``locked.json`` carries them to other tables: an external test set is read with the thresholds of the first hospital.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.abstention import COLUMN, SCORE
from medsoft.evaluation.metrics.recalibration import Recalibration
from medsoft.evaluation.metrics.targets import predicted, probabilities
from medsoft.evaluation.metrics.thresholds import OperatingPoint
from medsoft.evaluation.sound import require_map, require_point
from medsoft.evaluation.survival.risk_groups import RiskCut
from medsoft.evaluation.tables.levels import LEVELS
from medsoft.evaluation.tables.overlap import ChosenRows, Overlap
from medsoft.storage.files import replacing
from medsoft.storage.own_files import require_file
from medsoft.task import Task

LOCKED = "locked.json"
TARGETS = "targets"
"""Folder of what there is of each of several targets alone."""


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
        rows: fingerprints of the rows that chose; None where a file of an earlier version does not have them.
        risk_cut: between risk groups; None where there are none.
    """

    fold: str
    level: str
    split: str
    n: int
    points: tuple[OperatingPoint, ...] = ()
    recalibration: Recalibration | None = None
    rows: ChosenRows | None = None
    risk_cut: RiskCut | None = None

    @property
    def thresholds(self) -> dict[tuple[str, str], float | None]:
        """By class and rule."""
        return {(point.class_name, point.rule): point.threshold for point in self.points}

    def chose(self, rule: str, probabilities: str) -> bool:
        """Whether a value by this rule, or of recalibrated probabilities, rests on what was chosen."""
        return bool(probabilities) or rule in {point.rule for point in self.points if point.sensitivity is not None}

    def require_sound(self, task: Task) -> None:
        """Check that this can be: a file may be whole by its hash, and still hold a temperature of 0.

        Raises:
            ValueError: says what cannot be.
        """
        if not (isinstance(self.fold, str) and isinstance(self.split, str) and self.level in LEVELS):
            raise ValueError(f"a fold, level or split is none: {self.fold!r}, {self.level!r}, {self.split!r}")
        if not isinstance(self.n, int) or self.n < 0:
            raise ValueError(f"{self.n!r} rows have chosen")
        for point in self.points:
            require_point(point, task)
        if self.recalibration is not None:
            require_map(self.recalibration, task)
        if self.risk_cut is not None:
            self.risk_cut.require_sound()

    def overlap(self, known: pd.DataFrame, task: Task) -> Overlap:
        """How many rows of one split, all with a target, are among those that chose here."""
        if self.recalibration is None and all(point.sensitivity is None for point in self.points):
            return Overlap(0, len(known))
        if self.rows is None:
            same_part = len(known) > 0 and bool((known["split"] == self.split).all())
            return Overlap(0, len(known), is_known=not same_part)
        return Overlap(int(self.rows.among(known, task).sum()), len(known))

    def to_json(self, with_rows: bool = True) -> dict[str, Any]:
        """Plain values; ``with_rows`` the fingerprints too, of which there may be thousands."""
        map_ = self.recalibration.to_json() if self.recalibration else None
        about = {"fold": self.fold, "level": self.level, "split": self.split, "n": self.n}
        rows = {"rows": self.rows.to_json()} if with_rows and self.rows is not None else {}
        cut = {"risk_cut": self.risk_cut.to_json()} if self.risk_cut is not None else {}
        return {**about, "points": [asdict(point) for point in self.points], "recalibration": map_, **cut, **rows}


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

    def to_json(self, with_rows: bool = True) -> dict[str, Any]:
        """Plain values, as for ``Chosen``."""
        return {
            "format": 1,
            "task": self.task.kind,
            "classes": list(self.task.classes),
            "chosen": [chosen.to_json(with_rows) for chosen in self.chosen],
        }


def read_locked(path: Path | str, task: Task) -> Locked:
    """Read ``locked.json`` for predictions of the same question.

    Raises:
        InputError: it cannot be read, is about another question, or holds what cannot be (a temperature of 0).
    """
    require_file(Path(path))
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if (values["task"], tuple(values["classes"])) != (task.kind, task.classes):
            raise InputError(
                f"{path}: locked for {values['task']} with the classes {', '.join(values['classes'])}; the predictions "
                f"are {task.kind} with {', '.join(task.classes)}"
            )
        chosen = tuple(_chosen(part) for part in values["chosen"])
        if not chosen:
            raise ValueError("nothing is locked")
        for part in chosen:
            part.require_sound(task)
        return Locked(task, chosen)
    except OSError as error:
        raise InputError(f"{path}: cannot read what is locked: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"it says nothing of {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: not a locked.json of medsoft evaluate: {why}") from error


def _chosen(part: dict[str, Any]) -> Chosen:
    map_ = part["recalibration"]
    points = tuple(OperatingPoint(**point) for point in part["points"])
    recalibration = Recalibration.from_json(map_) if map_ else None
    rows = ChosenRows.from_json(part["rows"]) if "rows" in part else None
    cut = RiskCut.from_json(part["risk_cut"]) if "risk_cut" in part else None
    return Chosen(part["fold"], part["level"], part["split"], part["n"], points, recalibration, rows, cut)


ABOUT = ("id", "patient", "exam", "split")


FURTHER = (SCORE, COLUMN)
"""Carried along where there are any: a decision of a model that abstains is none."""


def decide(frame: pd.DataFrame, task: Task, locked: Locked) -> pd.DataFrame:
    """Apply what was locked to a predictions table, row by row.

    Thresholds were chosen on the probabilities as the model gives them, and are applied to these. Recalibrated
    probabilities stand beside them, for a reader who takes them as frequencies.

    Args:
        frame: a predictions table.
        task: its task.
        locked: for this task.

    Returns:
        ``id``, ``patient``, ``exam`` and ``split``, ``ood_score`` and ``abstain`` where there are any;
        ``recalibrated_<class>`` where there is a recalibration. Of a binary or multilabel task for each class and rule
        ``<class>, <rule>, p >= <threshold>`` of 0 and 1; of a multiclass or ordinal task ``decision``, the class that
        the model holds for most probable. Of a survival task ``risk_group``.

    Raises:
        InputError: nothing was locked for rows.
    """
    chosen = locked.find("", "row")
    columns: dict[str, object] = {name: frame[name] for name in (*ABOUT, *FURTHER) if name in frame}
    if task.has_risk_groups:
        cut = chosen.risk_cut
        names = np.array(cut.names if cut is not None else [""], dtype=object)
        columns["risk_group"] = names[cut.group(frame["risk"].to_numpy(np.float64))] if cut is not None else ""
        return pd.DataFrame(columns)
    p_NC = probabilities(frame, task)
    if chosen.recalibration is not None:
        better_NC = chosen.recalibration.apply(p_NC, task)
        columns |= {f"recalibrated_{name}": better_NC[:, index] for index, name in enumerate(task.classes)}
    if not task.thresholded:
        columns["decision"] = [task.classes[index] for index in predicted(frame, task)]
    for point in chosen.points:
        if point.threshold is not None:
            p_N = p_NC[:, task.classes.index(point.class_name)]
            name = f"{point.class_name}, {point.rule}, p >= {point.threshold:.6g}"
            columns[name] = (p_N >= point.threshold).astype(np.int64)
    return pd.DataFrame(columns)


def read_locks(folder: Path, task: Task) -> dict[str, Locked]:
    """What lies in a folder, by target; "" for a single question, and of several those in ``targets/<name>``.

    Raises:
        InputError: as for ``read_locked``.
    """
    files = {one.name: (folder / TARGETS / one.name / LOCKED, one.task) for one in task.parts}
    files = files or {"": (folder / LOCKED, task)}
    return {name: read_locked(file, own) for name, (file, own) in files.items() if file.is_file()}


def decide_each(frame: pd.DataFrame, task: Task, locks: Mapping[str, Locked]) -> pd.DataFrame:
    """What ``decide`` makes of each target, in columns that begin with its name; of a single question as it is."""
    if not task.parts:
        return decide(frame, task, locks[""])
    about = [name for name in (*ABOUT, *FURTHER) if name in frame]
    tables = [frame[about]]
    for one in task.parts:
        if one.name in locks:
            own = decide(task.frame_of(one.name, frame), one.task, locks[one.name])
            tables.append(own.drop(columns=about).add_prefix(one.prefix))
    return pd.concat(tables, axis=1)


def write_decisions(frame: pd.DataFrame, path: Path) -> None:
    """Write a table of ``decide``.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
