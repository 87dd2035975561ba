"""What a table says of slides, and the table of their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medsoft.data.tables.labels import read_labels, words
from medsoft.errors import InputError
from medsoft.evaluation.tables.ensemble import mean_of
from medsoft.evaluation.tables.predictions import make_predictions, score_columns
from medsoft.inference.slides.model import SlidePrediction
from medsoft.inference.slides.options import TruthColumns
from medsoft.slides.source import SlideSource
from medsoft.task import Task

CARRIED = ("patient", "exam", "split")


@dataclass(frozen=True)
class Truth:
    """What the user's table says of each slide, in the order of the slides.

    Attributes:
        about: ``patient``, ``exam`` and ``split``, "" where there is none.
        targets: as ``make_predictions`` takes them; None without a label column.
    """

    about: dict[str, list[str]]
    targets: np.ndarray | None


def read_truth(sources: Sequence[SlideSource], task: Task, columns: TruthColumns) -> Truth:
    """Look up what a table says beside the slides' paths.

    Args:
        sources: the slides.
        task: the model's question.
        columns: of the table; of ``patient``, ``exam`` and ``split`` one of that very name may be missing.

    Raises:
        InputError: a column is missing, or labels are no answer to the model's question.
    """
    label, positive = columns.label, columns.positive
    column_of = {name: str(getattr(columns, name)) for name in CARRIED}
    there = set(sources[0].row)
    named = [name for carried, name in column_of.items() if name != carried]
    for name in [*named, *words(label)]:
        if name not in there:
            known = f"the columns are {', '.join(sorted(there))}" if there else "slides were not named by a table"
            raise InputError(f"there is no column {name!r}: {known}")
    about = {carried: [source.row.get(column_of[carried], "") for source in sources] for carried in CARRIED}
    if label is None:
        if positive is not None:
            raise InputError("--positive says which values of a --label are positive: name its column too")
        return Truth(about, None)
    texts = pd.DataFrame({name: [source.row[name] for source in sources] for name in words(label)})
    found = read_labels(texts, task=task.kind, positive=positive, classes=task.classes, required=False)
    if found.problems:
        rows = [f"  row {', '.join(map(str, problem.rows))}: {problem.message}" for problem in found.problems]
        raise InputError("\n".join([f"labels that the model does not know; {found.problems[0].advice}", *rows]))
    return Truth(about, task.targets(found.columns))


def predictions_table(
    task: Task, sources: Sequence[SlideSource], truth: Truth, predictions: Mapping[str, SlidePrediction]
) -> pd.DataFrame | None:
    """The table of the slides that have a prediction, in their order; None where none has one.

    Of an ensemble it is the mean of its members' tables; see ``medsoft.evaluation.tables.ensemble.mean_of``.
    """
    rows = [row for row, source in enumerate(sources) if source.id in predictions]
    if not rows:
        return None
    found = [predictions[sources[row].id] for row in rows]
    p_MNC = np.stack([one.members_MC for one in found], axis=1)
    scores_MN = np.stack([one.ood_scores_M for one in found], axis=1)
    frames = [
        make_predictions(
            task,
            [sources[row].id for row in rows],
            p_NC,
            None if truth.targets is None else truth.targets[rows],
            extra=None if np.isnan(score_N).any() else score_columns(score_N),
            **{name: [values[row] for row in rows] for name, values in truth.about.items()},
        )
        for p_NC, score_N in zip(p_MNC, scores_MN, strict=True)
    ]
    return mean_of(frames, task) if len(frames) > 1 else frames[0]
