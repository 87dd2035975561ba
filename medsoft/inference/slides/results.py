"""What a table says of slides, and the table of their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medsoft.data.tables.labels import read_labels, words
from medsoft.data.tables.problems import Problem, TableError
from medsoft.data.tables.targets import read_target
from medsoft.errors import InputError
from medsoft.evaluation.tables.ensemble import mean_of
from medsoft.evaluation.tables.predictions import make_predictions, score_columns
from medsoft.inference.slides.agreement import agreement_columns
from medsoft.inference.slides.cases import Case
from medsoft.inference.slides.model import SlidePrediction
from medsoft.inference.slides.options import PatientColumns, TruthColumns
from medsoft.task import Task

CARRIED = ("patient", "exam", "split")


@dataclass(frozen=True)
class Truth:
    """What the user's table says of each case, in the order of the cases.

    Attributes:
        about: ``patient``, ``exam`` and ``split``, "" where there is none.
        targets: as ``make_predictions`` takes them; None without a label column.
    """

    about: dict[str, list[str]]
    targets: np.ndarray | None


def read_truth(
    cases: Sequence[Case],
    task: Task,
    who: PatientColumns,
    columns: TruthColumns,
    trained: Mapping[str, Any] | None = None,
) -> Truth:
    """Look up what a table says beside the slides' paths.

    Args:
        cases: the slides, or the slides of each patient.
        task: the model's question.
        who: names the column of patients.
        columns: of the table; of ``patient``, ``exam`` and ``split`` one of that very name may be missing. Of several
            targets ``label`` names those to score.
        trained: of several targets, how the training read them (the option ``targets``), where that is known.

    Raises:
        InputError: a column is missing, or labels are no answer to the model's question.
        TableError: they differ among the slides of a patient that are one bag.
    """
    label, positive = columns.label, columns.positive
    sources = [source for case in cases for source in case.sources]
    column_of = {"patient": who.patient, "exam": columns.exam, "split": columns.split}
    there = set(sources[0].row)
    named = [name for carried, name in column_of.items() if name != carried]
    if task.parts and positive is not None:
        raise InputError("--positive is for a single target: labels of several are read as in the training")
    asked = (
        _labels_of_targets(task, label, trained or {}) if task.parts else {"": LabelOf(task, words(label), positive)}
    )
    for name in [*named, *(column for one in asked.values() for column in one.columns)]:
        if name not in there:
            known = f"the columns are {', '.join(sorted(there))}" if there else "slides were not named by a table"
            raise InputError(f"there is no column {name!r}: {known}")
    about = {carried: [case.sources[0].row.get(column_of[carried], "") for case in cases] for carried in CARRIED}
    if any(len(case.sources) > 1 for case in cases):
        about["exam"] = [""] * len(cases)  # all specimens of a patient are one bag
    if label is None:
        if positive is not None:
            raise InputError("--positive says which values of a --label are positive: name its column too")
        return Truth(about, None)
    tables = []
    for name, one in asked.items():
        texts = pd.DataFrame({column: [source.row[column] for source in sources] for column in one.columns})
        kind, classes = one.task.kind, one.task.classes
        read = read_labels(texts, task=kind, positive=one.positive, classes=classes, required=False)
        if read.problems:
            rows = [f"  row {', '.join(map(str, problem.rows))}: {problem.message}" for problem in read.problems]
            raise InputError("\n".join([f"labels that the model does not know; {read.problems[0].advice}", *rows]))
        tables.append(read.columns.add_prefix(f"{name}." if name else ""))
    found = pd.DataFrame(task.target_cells(None, len(sources))) if task.parts else pd.DataFrame(index=tables[0].index)
    for table in tables:
        found[table.columns] = table
    case_of = [number for number, case in enumerate(cases) for _ in case.sources]
    first = ~pd.Series(case_of).duplicated().to_numpy()
    distinct = found.fillna("").astype(str).assign(case=case_of).drop_duplicates()["case"]
    advice = "all slides of a patient are one bag here: correct the table, or predict each by itself with --group slide"
    mixed = [
        Problem("patient", cases[number].rows, "a patient with slides of different labels", advice, False)
        for number in sorted(distinct[distinct.duplicated()].unique())
    ]
    if mixed:
        raise TableError("the table of slides", mixed)
    return Truth(about, task.targets(found[first].reset_index(drop=True)))


@dataclass(frozen=True)
class LabelOf:
    """The label columns of a question, and what values of them are positive."""

    task: Task
    columns: list[str]
    positive: Any


def _labels_of_targets(task: Task, label: Any, trained: Mapping[str, Any]) -> dict[str, LabelOf]:
    """By target, of those that are asked for, its label columns as the training has read them.

    Raises:
        InputError: there is no such target.
    """
    found = {}
    for name in words(label):
        own = read_target(name, trained.get(name))
        found[name] = LabelOf(task.part(name).task, list(own.columns), own.reading["positive"])
    return found


def predictions_table(
    task: Task, cases: Sequence[Case], truth: Truth, predictions: Mapping[str, SlidePrediction]
) -> pd.DataFrame | None:
    """The table of the cases that have a prediction, in their order; None where none has one.

    Of an ensemble it is the mean of its members' tables (``medsoft.evaluation.tables.ensemble.mean_of``), and how far
    they agree about the tiles, where they were compared.
    """
    rows = [row for row, case in enumerate(cases) if case.id in predictions]
    if not rows:
        return None
    found = [predictions[cases[row].id] for row in rows]
    p_MNC = np.stack([one.members_MC for one in found], axis=1)
    scores_MN = np.stack([one.ood_scores_M for one in found], axis=1)
    frames = [
        make_predictions(
            task,
            [cases[row].id for row in rows],
            p_NC,
            None if truth.targets is None else truth.targets[rows],
            extra=None if np.isnan(score_N).any() else score_columns(score_N),
            **{name: [values[row] for row in rows] for name, values in truth.about.items()},
        )
        for p_NC, score_N in zip(p_MNC, scores_MN, strict=True)
    ]
    if len(frames) == 1:
        return frames[0]
    return mean_of(frames, task).assign(**agreement_columns([one.agreement for one in found]))
