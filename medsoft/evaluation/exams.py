"""One answer an exam: the rows that are read together (two eyes, two views, several lesions) pooled in logits.

    mean   the mean of the rows' logits; the exam's target is that of its rows where they agree, else unknown
    max    the largest logit, for questions that one row can answer for all: is there a lesion anywhere? The exam's
           target is the largest too: positive where a row is, the highest grade, the largest number

Logits are taken from the probabilities, so that a table can be pooled without its model: of a binary question and of
each label the log-odds; of classes the logarithms; of grades the log-odds of P(y > k | y ≥ k), as CORN learns them.
Rows without an exam stand for themselves.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.arrays import probabilities
from medsoft.evaluation.predictions import make_predictions
from medsoft.task import Task

Pooling = Literal["mean", "max"]
FloatArray = npt.NDArray[np.float64]

SMALLEST = 1e-38
"""Of a probability whose logarithm is taken; a softmax in float32 gives no smaller one but 0."""


def has_exams(frame: pd.DataFrame) -> bool:
    """Whether an exam has several rows in its split and fold."""
    known = frame[frame["exam"] != ""]
    return bool(known.duplicated(["split", "fold", "patient", "exam"]).any())


def pool_exams(frame: pd.DataFrame, task: Task, how: Pooling) -> pd.DataFrame:
    """A predictions table with one row an exam.

    Args:
        frame: a predictions table.
        task: its task.
        how: ``mean`` or ``max``.

    Returns:
        In the format of a predictions table. ``id`` is the exam's name, after its patient's and a slash where there is
        one; ``rows`` is how many were pooled. The order is that of each exam's first row.
    """
    key = frame[["split", "fold", "patient", "exam"]].agg("\x1f".join, axis=1)
    key = key.where(frame["exam"] != "", "\x1e" + key + frame["id"])
    group_N, names = pd.factorize(key)
    first = frame.loc[~key.duplicated()]
    pooled = {"mean": np.add, "max": np.maximum}[how]
    logits_NK = _logits(frame, task)
    start = 0.0 if how == "mean" else -np.inf
    logits_EK = np.full((len(names), logits_NK.shape[1]), start)
    pooled.at(logits_EK, group_N, logits_NK)
    rows_E = np.bincount(group_N, minlength=len(names))
    if how == "mean":
        logits_EK /= rows_E[:, None]
    exam = (first["patient"] + "/" + first["exam"]).where(first["patient"] != "", first["exam"])
    return make_predictions(
        task,
        exam.where(first["exam"] != "", first["id"]).tolist(),
        _answers(logits_EK, task),
        _targets(frame, task, group_N, len(names), how),
        patient=first["patient"].tolist(),
        exam=first["exam"].tolist(),
        split=first["split"].tolist(),
        fold=first["fold"].tolist(),
        extra={"rows": rows_E},
    )


def _logits(frame: pd.DataFrame, task: Task) -> FloatArray:
    """(N, K): what is pooled."""
    p_NC = probabilities(frame, task)
    if task.kind == "regression":
        return p_NC
    if task.kind == "binary":
        return _log(p_NC[:, 1:]) - _log(p_NC[:, :1])
    if task.kind == "multilabel":
        return _log(p_NC) - _log(1 - p_NC)
    if task.kind == "multiclass":
        return _log(p_NC)
    beyond_NC = np.cumsum(p_NC[:, ::-1], axis=1)[:, ::-1]  # P(y ≥ k)
    return _log(beyond_NC[:, 1:]) - _log(p_NC[:, :-1])


def _answers(logits_EK: FloatArray, task: Task) -> FloatArray:
    """(E, C) in the order of the task's classes."""
    if task.kind == "regression":
        return logits_EK
    if task.kind == "multiclass":
        shifted = np.exp(logits_EK - logits_EK.max(axis=1, keepdims=True))
        softmax: FloatArray = shifted / shifted.sum(axis=1, keepdims=True)
        return softmax
    p_EK = np.exp(-np.logaddexp(0, -logits_EK))
    if task.kind == "multilabel":
        return p_EK
    not_EK = np.exp(-np.logaddexp(0, logits_EK))
    if task.kind == "binary":
        return np.concatenate([not_EK, p_EK], axis=1)
    reached_EC = np.concatenate([np.ones((len(p_EK), 1)), np.cumprod(p_EK, axis=1)], axis=1)
    ends_EC = np.concatenate([not_EK, np.ones((len(p_EK), 1))], axis=1)
    grades: FloatArray = reached_EC * ends_EC
    return grades


def _targets(frame: pd.DataFrame, task: Task, group_N: npt.NDArray[np.intp], n: int, how: Pooling) -> FloatArray:
    """As ``make_predictions`` takes them; NaN where unknown."""
    values = _numbers(frame, task)
    grouped = pd.DataFrame(values).groupby(group_N)
    highest, lowest = grouped.max(), grouped.min()
    if task.kind == "regression":
        found: Any = grouped.mean() if how == "mean" else highest
    elif how == "mean" or task.kind == "multiclass":
        found = highest.where(highest == lowest)
    else:
        found = highest
        if task.kind == "multilabel":  # absent only where every row says so
            found = highest.where((highest == 1) | (grouped.count().eq(grouped.size(), axis=0)))
    array: FloatArray = found.reindex(range(n)).to_numpy(dtype=np.float64)
    return array if task.kind == "multilabel" else array[:, 0]


def _numbers(frame: pd.DataFrame, task: Task) -> FloatArray:
    """Targets as numbers, (N, 1) or for multilabel (N, L), NaN where unknown."""
    if task.kind == "multilabel":
        return frame[task.target_columns].to_numpy(dtype=np.float64, na_value=np.nan)
    if task.kind == "regression":
        return frame[["target"]].to_numpy(dtype=np.float64)
    index = pd.Index(task.classes).get_indexer(pd.Index(frame["target"])).astype(np.float64)
    return np.where(index < 0, np.nan, index)[:, None]


def _log(p: FloatArray) -> FloatArray:
    logarithm: FloatArray = np.log(np.maximum(p, SMALLEST))
    return logarithm
