"""A logistic regression, ridge, or Cox regression on facts of the training part; its predictions of other rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.shortcuts.columns import Columns
from medsoft.task import Task

FloatArray = npt.NDArray[np.float64]

C = 1.0
"""Inverse strength of the penalty on standardised columns: scikit-learn's own. Nothing is chosen, so nothing leaks."""
ALPHA = 1.0
"""Strength of the penalty of the ridge regression, likewise."""
MOST_ROWS = 20_000
"""Training rows that are learnt from: of more, every so many."""
FEWEST = 10
"""Training rows below which there is no baseline."""


def predict_by(train: pd.DataFrame, facts: pd.DataFrame, task: Task, columns: Sequence[str]) -> FloatArray | None:
    """Learn from facts of the training part, and predict other rows.

    Args:
        train: table of facts (``medsoft.data.facts.table``) with the target columns.
        facts: of the N rows to predict.
        task: the question.
        columns: names of the facts to use: numbers are scaled, words become columns.

    Returns:
        (N, C) in the order of ``task.p_columns``; None where there are too few rows, or no fact differs among them.
    """
    known = task.known(train)
    train = train[known].iloc[:: max(1, -(-int(known.sum()) // MOST_ROWS))]
    there = [name for name in columns if name in train]
    kinds = [name for name in there if not pd.api.types.is_numeric_dtype(train[name])]
    to_columns = Columns.of(train, [name for name in there if name not in kinds], kinds)
    if len(train) < FEWEST or not to_columns.names:
        return None
    return _fitted(to_columns(train), task.targets(train), to_columns(facts), task)


def _fitted(train_NK: FloatArray, targets: npt.NDArray[np.generic], x_MK: FloatArray, task: Task) -> FloatArray:
    from sklearn.linear_model import Ridge

    own = task.linear_baseline(train_NK, targets, x_MK, ALPHA)
    if own is not None:
        return own
    if not task.has_classes:
        return np.asarray(Ridge(alpha=ALPHA).fit(train_NK, targets).predict(x_MK), dtype=np.float64)[:, None]
    if not task.several_columns:
        return _probabilities(train_NK, targets.astype(np.int64), x_MK, len(task.classes))
    answers = []
    for label_N in targets.astype(np.float64).T:
        known = np.isfinite(label_N)
        answers.append(_probabilities(train_NK[known], label_N[known].astype(np.int64), x_MK, 2)[:, 1])
    return np.stack(answers, axis=1)


def _probabilities(train_NK: FloatArray, class_N: npt.NDArray[np.int64], x_MK: FloatArray, classes: int) -> FloatArray:
    """(M, classes); a class that the training part lacks has 0."""
    from sklearn.linear_model import LogisticRegression

    found = np.unique(class_N)
    p_MC = np.zeros((len(x_MK), classes))
    if len(found) < 2:
        p_MC[:, found if len(found) else slice(None)] = 1.0 if len(found) else 1 / classes
        return p_MC
    model = LogisticRegression(C=C, max_iter=1000).fit(train_NK, class_N)
    p_MC[:, found] = model.predict_proba(x_MK)
    p_MC /= p_MC.sum(axis=1, keepdims=True)
    return p_MC
