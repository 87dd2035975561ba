"""The predictions table of slides: what the user's table says of them beside the probabilities, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medsoft.data.labels import Words, read_labels, words
from medsoft.deploy.slide_model import SlideAnswer
from medsoft.errors import InputError
from medsoft.evaluation.metrics import headline, score_splits, write_metrics
from medsoft.evaluation.predictions import make_predictions, write_predictions
from medsoft.learn.ensemble import mean_of
from medsoft.learn.familiar import score_columns
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.sources import SlideSource
from medsoft.task import Task

CARRIED = ("patient", "exam", "split")


@dataclass(frozen=True)
class Known:
    """What the user's table says of each slide, in the order of the slides.

    Attributes:
        about: ``patient``, ``exam`` and ``split``, "" where there is none.
        targets: as ``make_predictions`` takes them; None without a label column.
    """

    about: dict[str, list[str]]
    targets: np.ndarray | None


def read_known(
    sources: Sequence[SlideSource], task: Task, columns: Mapping[str, str], label: Words, positive: Words
) -> Known:
    """Look up what a table says beside the slides' paths.

    Args:
        sources: the slides.
        task: the model's question.
        columns: name of the column with ``patient``, ``exam`` and ``split``; one of that very name may be missing.
        label: column with the true class, or those of a multilabel task; None: there is none.
        positive: values of the label that make the positive class.

    Raises:
        InputError: a column is missing, or labels are no answer to the model's question.
    """
    there = set(sources[0].row)
    named = [name for carried, name in columns.items() if name != carried]
    for name in [*named, *words(label)]:
        if name not in there:
            known = f"the columns are {', '.join(sorted(there))}" if there else "slides were not named by a table"
            raise InputError(f"there is no column {name!r}: {known}")
    about = {carried: [source.row.get(columns[carried], "") for source in sources] for carried in CARRIED}
    if label is None:
        if positive is not None:
            raise InputError("--positive says which values of a --label are positive: name its column too")
        return Known(about, None)
    texts = pd.DataFrame({name: [source.row[name] for source in sources] for name in words(label)})
    found = read_labels(texts, task=task.kind, positive=positive, classes=task.classes, required=False)
    if found.problems:
        rows = [f"  row {', '.join(map(str, problem.rows))}: {problem.message}" for problem in found.problems]
        raise InputError("\n".join([f"labels that the model does not know; {found.problems[0].advice}", *rows]))
    if task.kind == "regression":
        return Known(about, found.columns["target"].to_numpy(dtype=np.float64))
    if task.kind == "multilabel":
        return Known(about, found.columns.to_numpy(dtype=np.float64))
    index = {name: index for index, name in enumerate(task.classes)}
    return Known(about, np.array([index.get(name, -1) for name in found.columns["target"]]))


def write_answers(
    folder: SlidesFolder,
    task: Task,
    sources: Sequence[SlideSource],
    known: Known,
    answers: Mapping[str, SlideAnswer],
) -> pd.DataFrame | None:
    """Write ``predictions.csv``, and ``metrics.json`` where true classes are known, which are printed too.

    Both are of this call's slides alone: what an earlier call left is replaced, or removed where there is nothing.

    Args:
        folder: where they go.
        task: the question.
        sources: all slides.
        known: of all slides.
        answers: by id, of the slides that have one.

    Returns:
        The predictions table, with the further columns of ``medsoft predict``; None where no slide could be predicted.

    Raises:
        OSError: a file cannot be written.
    """
    metrics = folder.path / "metrics.json"
    rows = [row for row, source in enumerate(sources) if source.id in answers]
    if not rows:
        folder.predictions_csv.unlink(missing_ok=True)
        metrics.unlink(missing_ok=True)
        print("No slide could be predicted.")
        return None
    said = [answers[sources[row].id] for row in rows]
    answers_MNC = np.stack([answer.members_MC for answer in said], axis=1)
    scores_MN = np.stack([answer.ood_scores_M for answer in said], axis=1)
    frames = [
        make_predictions(
            task,
            [sources[row].id for row in rows],
            p_NC,
            None if known.targets is None else known.targets[rows],
            extra=None if np.isnan(score_N).any() else score_columns(score_N),
            **{name: [values[row] for row in rows] for name, values in known.about.items()},
        )
        for p_NC, score_N in zip(answers_MNC, scores_MN, strict=True)
    ]
    frame = mean_of(frames, task) if len(frames) > 1 else frames[0]
    write_predictions(frame, folder.predictions_csv)
    print(f"{len(rows)} of {len(sources)} slides predicted: {folder.predictions_csv}")
    if known.targets is None:
        metrics.unlink(missing_ok=True)
        return frame
    scores = score_splits(frame, task)
    write_metrics(scores, metrics)
    for split, found in scores.items():
        values = [f"{name} {value:.3f}" for name, value in headline(found).items() if value is not None]
        print(f"{split} (n={found['n']}): {', '.join([*values, *found['notes']])}")
    return frame
