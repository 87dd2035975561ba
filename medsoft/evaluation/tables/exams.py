"""One answer an exam, or a patient: the rows that are read together (two eyes, several slides) pooled in logits.

    mean   the mean of the rows' logits; the exam's target is that of its rows where they agree, else unknown
    max    the largest logit, for questions that one row can answer for all: is there a lesion anywhere? The exam's
           target is the largest too: positive where a row is, the highest grade, the largest number

Logits are taken from the probabilities, so that a table can be pooled without its model: of a binary question and of
each label the log-odds; of classes the logarithms; of grades the log-odds of P(y > k | y ≥ k), as CORN learns them.
Rows without an exam (or a patient) stand for themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from medsoft.evaluation.metrics.targets import probabilities
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.task import Task
from medsoft.task_types import Pooling

PooledBy = Literal["exam", "patient"]
"""What rows are pooled by."""
Pooled = Mapping[PooledBy, Literal["mean", "max", "none"]]
"""How the rows of each are pooled."""
KEYS: dict[PooledBy, list[str]] = {
    "exam": ["split", "fold", "patient", "exam"],
    "patient": ["split", "fold", "patient"],
}


def has_several(frame: pd.DataFrame, level: PooledBy) -> bool:
    """Whether an exam, or a patient, has several rows in its split and fold."""
    known = frame[frame[level] != ""]
    return bool(known.duplicated(KEYS[level]).any())


def pool_rows(frame: pd.DataFrame, task: Task, how: Pooling, level: PooledBy = "exam") -> pd.DataFrame:
    """A predictions table with one row an exam, or a patient.

    Args:
        frame: a predictions table.
        task: its task.
        how: ``mean`` or ``max``.
        level: what the rows are pooled by.

    Returns:
        In the format of a predictions table. ``id`` is the exam's name, after its patient's and a slash where there is
        one; or the patient's. ``rows`` is how many were pooled. The order is that of each one's first row.
    """
    key = frame[KEYS[level]].agg("\x1f".join, axis=1)
    key = key.where(frame[level] != "", "\x1e" + key + frame["id"])
    group_N, names = pd.factorize(key)
    first = frame.loc[~key.duplicated()]
    pooled = {"mean": np.add, "max": np.maximum}[how]
    logits_NK = task.logits_of(probabilities(frame, task))
    start = 0.0 if how == "mean" else -np.inf
    logits_EK = np.full((len(names), logits_NK.shape[1]), start)
    pooled.at(logits_EK, group_N, logits_NK)
    rows_E = np.bincount(group_N, minlength=len(names))
    if how == "mean":
        logits_EK /= rows_E[:, None]
    name = first[level]
    if level == "exam":
        name = (first["patient"] + "/" + name).where(first["patient"] != "", name)
    return make_predictions(
        task,
        name.where(first[level] != "", first["id"]).tolist(),
        task.predictions_of(logits_EK),
        task.pool_targets(pd.DataFrame(task.target_numbers(frame)), group_N, how),
        patient=first["patient"].tolist(),
        exam=first["exam"].tolist() if level == "exam" else [""] * len(first),
        split=first["split"].tolist(),
        fold=first["fold"].tolist(),
        extra={"rows": rows_E},
    )
