"""What shortcut baselines reach before there is a model: out of fold, on the rows that models are developed on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.evaluate import evaluate_table
from medsoft.evaluation.metrics.table import metric_name
from medsoft.evaluation.settings import Settings
from medsoft.evaluation.shortcuts.judge import WORDS, baseline_tables
from medsoft.task import Task

GUESSING = {"auroc": 0.5, "c_index": 0.5, "kappa": 0.0, "r2": 0.0}
"""What a model reaches that has seen nothing, by metric."""


def out_of_fold(
    facts: pd.DataFrame, patients: npt.NDArray[np.object_], fold_N: npt.NDArray[np.intp], task: Task
) -> dict[str, pd.DataFrame]:
    """Predictions of each row by baselines that learnt from the other folds.

    Args:
        facts: table of facts of N rows (``medsoft.data.facts.table``), with known targets.
        patients: (N,) of the rows.
        fold_N: (N,) fold of each row.
        task: the question.

    Returns:
        By baseline a predictions table with the column ``fold``; without those that a fold could not learn.
    """
    parts: list[dict[str, pd.DataFrame]] = []
    for fold in np.unique(fold_N):
        inside = fold_N == fold
        rows = facts[inside].reset_index(drop=True)
        about = {"patient": patients[inside], "exam": "", "split": "test", "fold": str(fold)}
        frame = rows[["id", *task.target_columns]].assign(**about)
        parts.append(baseline_tables(facts[~inside], rows, frame, task))
    names = [name for name in WORDS if parts and all(name in part for part in parts)]
    return {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in names}


def in_sentences(tables: dict[str, pd.DataFrame], task: Task, settings: Settings) -> list[str]:
    """What each baseline reaches, in plain words: the bar that a model has to clear."""
    said = []
    for name, table in tables.items():
        across = next(iter(evaluate_table(table, task, settings).across), None)
        found = across.find(**task.primary) if across is not None else None
        if found is None or found.value is None:
            continue
        interval = ""
        if found.low is not None and found.high is not None:
            interval = f" ({100 * settings.confidence:g} % interval {found.low:.3f} to {found.high:.3f})"
        value = f"{metric_name(found.metric)} {found.value:.3f}{interval} on {len(table)} rows, out of fold"
        what = f"A simple regression on {WORDS[name]}, without looking at what is shown"
        guesses = found.low is not None and found.low <= GUESSING.get(found.metric, -np.inf)
        end = "this cannot be told from guessing" if guesses else "a model has to be ahead of this"
        said.append(f"{what}, reaches {value}: {end}")
    return said
