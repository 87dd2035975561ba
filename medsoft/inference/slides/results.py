"""What a table says of slides, and the table of their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medsoft.data.tables.labels import read_labels, words
from medsoft.data.tables.problems import Problem, TableError
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


def read_truth(cases: Sequence[Case], task: Task, who: PatientColumns, columns: TruthColumns) -> Truth:
    """Look up what a table says beside the slides' paths.

    Args:
        cases: the slides, or the slides of each patient.
        task: the model's question.
        who: names the column of patients.
        columns: of the table; of ``patient``, ``exam`` and ``split`` one of that very name may be missing.

    Raises:
        InputError: a column is missing, or labels are no answer to the model's question.
        TableError: they differ among the slides of a patient that are one bag.
    """
    label, positive = columns.label, columns.positive
    sources = [source for case in cases for source in case.sources]
    column_of = {"patient": who.patient, "exam": columns.exam, "split": columns.split}
    there = set(sources[0].row)
    named = [name for carried, name in column_of.items() if name != carried]
    for name in [*named, *words(label)]:
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
    texts = pd.DataFrame({name: [source.row[name] for source in sources] for name in words(label)})
    found = read_labels(texts, task=task.kind, positive=positive, classes=task.classes, required=False)
    if found.problems:
        rows = [f"  row {', '.join(map(str, problem.rows))}: {problem.message}" for problem in found.problems]
        raise InputError("\n".join([f"labels that the model does not know; {found.problems[0].advice}", *rows]))
    case_of = [number for number, case in enumerate(cases) for _ in case.sources]
    first = ~pd.Series(case_of).duplicated().to_numpy()
    distinct = found.columns.fillna("").astype(str).assign(case=case_of).drop_duplicates()["case"]
    advice = "all slides of a patient are one bag here: correct the table, or predict each by itself with --group slide"
    mixed = [
        Problem("patient", cases[number].rows, "a patient with slides of different labels", advice, False)
        for number in sorted(distinct[distinct.duplicated()].unique())
    ]
    if mixed:
        raise TableError("the table of slides", mixed)
    return Truth(about, task.targets(found.columns[first].reset_index(drop=True)))


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
