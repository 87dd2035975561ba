"""The predictions table as arrays, and which class counts as predicted: shared by the numbers and the pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.task import Task

THRESHOLD = 0.5
"""A binary prediction, and each label of a multilabel one, is positive where its probability reaches this."""


@dataclass(frozen=True)
class OneAgainstRest:
    """One yes-or-no question of a task, over the rows whose target is known.

    Attributes:
        name: the class or label that a yes stands for.
        truth: (n,) whether the row has it.
        p: (n,) its predicted probability.
        predicted: (n,) whether the predicted class is this one.
        rows: (n,) positions in the table.
    """

    name: str
    truth: npt.NDArray[np.bool_]
    p: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.intp]


def probabilities(frame: pd.DataFrame, task: Task) -> npt.NDArray[np.float64]:
    """(N, C) predicted probabilities in class order."""
    # Column by column: pandas takes a hundred times as long to pick several at once from a short table.
    return np.stack([frame[name].to_numpy(dtype=np.float64) for name in task.p_columns]).T


def targets(frame: pd.DataFrame, task: Task) -> npt.NDArray[np.intp]:
    """(N,) indices of the true classes; (N, C) of 0 and 1 where each label has a column. Unknown is -1."""
    if task.several_columns:
        columns = [frame[name].to_numpy(dtype=np.intp, na_value=-1) for name in task.target_columns]
        return np.stack(columns, axis=1)
    classes = pd.Index(list(task.classes), dtype=object)
    return classes.get_indexer(pd.Index(frame["target"].to_numpy(dtype=object), dtype=object))


def predicted(frame: pd.DataFrame, task: Task) -> npt.NDArray[np.intp]:
    """The predicted classes, in the form of ``targets``.

    Where thresholds decide: positive where p >= 0.5. Else the most probable class, the first of equals (of grades not
    the rounded mean: the mean of two peaks is a grade that the model does not believe).
    """
    p_NC = probabilities(frame, task)
    if task.thresholded:
        positive_NC = (p_NC >= THRESHOLD).astype(np.intp)
        return positive_NC if task.several_columns else positive_NC[:, 1]
    predicted_N: npt.NDArray[np.intp] = p_NC.argmax(axis=1)
    return predicted_N


def one_against_rest(frame: pd.DataFrame, task: Task) -> list[OneAgainstRest]:
    """The task as yes-or-no questions, one for each class or label that is asked about; none without classes."""
    if not task.has_classes:
        return []
    p_NC, target, answer = probabilities(frame, task), targets(frame, task), predicted(frame, task)
    questions = []
    for name in task.asked_classes:
        index = task.classes.index(name)
        if task.several_columns:
            known, truth, says = target[:, index] >= 0, target[:, index] == 1, answer[:, index] == 1
        else:
            known, truth, says = target >= 0, target == index, answer == index
        questions.append(OneAgainstRest(name, truth[known], p_NC[known, index], says[known], np.flatnonzero(known)))
    return questions
