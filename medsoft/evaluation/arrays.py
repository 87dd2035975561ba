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
    return frame[task.p_columns].to_numpy(dtype=np.float64)


def targets(frame: pd.DataFrame, task: Task) -> npt.NDArray[np.intp]:
    """(N,) indices of the true classes; for multilabel (N, C) of 0 and 1. Unknown is -1."""
    if task.kind == "multilabel":
        columns = [frame[name].to_numpy(dtype=np.intp, na_value=-1) for name in task.target_columns]
        return np.stack(columns, axis=1)
    return pd.Index(task.classes).get_indexer(pd.Index(frame["target"]))


def predicted(frame: pd.DataFrame, task: Task) -> npt.NDArray[np.intp]:
    """The predicted classes, in the form of ``targets``.

    Binary and multilabel: positive where p >= 0.5. Multiclass and ordinal: the most probable class, the first of
    equals (for ordinal not the rounded mean grade: the mean of two peaks is a grade that the model does not believe).
    """
    p_NC = probabilities(frame, task)
    if task.kind == "multilabel":
        return (p_NC >= THRESHOLD).astype(np.intp)
    if task.kind == "binary":
        return (p_NC[:, 1] >= THRESHOLD).astype(np.intp)
    predicted_N: npt.NDArray[np.intp] = p_NC.argmax(axis=1)
    return predicted_N


def has_target(frame: pd.DataFrame, task: Task) -> npt.NDArray[np.bool_]:
    """(N,) whether the row's target is known; for multilabel, that of any label."""
    if task.kind == "regression":
        return frame["target"].notna().to_numpy(dtype=bool)
    known: npt.NDArray[np.bool_] = targets(frame, task) >= 0
    if task.kind == "multilabel":
        known = np.any(known, axis=1)
    return known


def one_against_rest(frame: pd.DataFrame, task: Task) -> list[OneAgainstRest]:
    """The task as yes-or-no questions: one a class or label, for binary that of the positive class alone."""
    p_NC, target, answer = probabilities(frame, task), targets(frame, task), predicted(frame, task)
    questions = []
    for index, name in enumerate(task.classes):
        if task.kind == "binary" and index == 0:
            continue
        if task.kind == "multilabel":
            known, truth, says = target[:, index] >= 0, target[:, index] == 1, answer[:, index] == 1
        else:
            known, truth, says = target >= 0, target == index, answer == index
        questions.append(OneAgainstRest(name, truth[known], p_NC[known, index], says[known], np.flatnonzero(known)))
    return questions
