"""The rows of a predictions table as the page shows them: what is true, what is said, and how sure and how familiar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.evaluation.abstention import COLUMN, SCORE, abstained
from medsoft.evaluation.metrics.targets import predicted, probabilities, targets
from medsoft.evaluation.tables.predictions import ABOUT_COLUMNS
from medsoft.task import Task

OF_PATIENTS = ("patient", "exam")
"""Columns of a predictions table that say whose the sample is."""

NAMED_AFTER_PATIENTS = ("patient", "subject", "birth", "mrn", "accession", "name")
"""Words in the names of further columns that may say it too."""

Columns = tuple[dict[str, str], ...]


def rows_of(frame: pd.DataFrame, task: Task, patients: bool) -> tuple[list[dict[str, Any]], Columns]:
    """The rows and the columns that are shown.

    Args:
        frame: a predictions table.
        task: what it answers.
        patients: whether columns of patients are shown; otherwise they are in no row.

    Returns:
        A row: ``cells`` by column, and what the filters ask: ``wrong`` (None where nobody knows), ``sure`` (the
        probability of the answer, None without probabilities), ``far`` (whether it is out of distribution, None where
        nobody says) and ``says``. A column: ``name``, ``title`` and ``kind``, text or number.
    """
    columns: list[dict[str, str]] = []
    cells: dict[str, list[Any]] = {}

    def add(name: str, title: str, values: Sequence[Any], kind: str = "number") -> None:
        columns.append({"name": name, "title": title, "kind": kind})
        cells[name] = list(values)

    shown = [name for name in ABOUT_COLUMNS if patients or name not in OF_PATIENTS]
    for name in shown[1:]:
        if (frame[name] != "").any():
            add(name, name, frame[name].tolist(), "text")
    truth, says, sure, wrong = _answers(frame, task)
    for column, values in truth.items():
        if any(value not in ("", None) for value in values):
            add(column, column, values, "text" if task.has_classes else "number")
    if task.has_classes:
        add("says", "says", says, "text")
        add("sure", "p", sure)
    for name in task.p_columns:
        # The two of a yes-or-no question say the same.
        if not (task.has_classes and task.exclusive and name != task.p_columns[-1]):
            add(name, name, _numbers(frame[name]))
    far = _far(frame)
    known = {*ABOUT_COLUMNS, *task.target_columns, *task.p_columns, "task", COLUMN}
    for name in map(str, frame.columns):
        if name in known or (not patients and _names_patients(name)):
            continue
        numbers = pd.to_numeric(frame[name].replace("", np.nan), errors="coerce")
        is_number = bool((numbers.notna() | (frame[name].astype(str) == "")).all() and numbers.notna().any())
        title = "out of distribution" if name == SCORE else name
        add(
            name,
            title,
            _numbers(numbers) if is_number else frame[name].astype(str).tolist(),
            "number" if is_number else "text",
        )
    rows = [
        {
            "cells": {name: values[row] for name, values in cells.items()},
            "says": says[row],
            "sure": sure[row],
            "wrong": wrong[row],
            "far": far[row],
        }
        for row in range(len(frame))
    ]
    return rows, tuple(columns)


def _names_patients(name: str) -> bool:
    return any(word in name.lower() for word in NAMED_AFTER_PATIENTS)


Answers = tuple[dict[str, list[Any]], list[str], list[float | None], list[bool | None]]


def _answers(frame: pd.DataFrame, task: Task) -> Answers:
    """What is true by column, and of each row the answer, its probability, and whether it is wrong."""
    n = len(frame)
    if not task.has_classes:
        truth = {name: _numbers(frame[name]) for name in task.target_columns if name in frame}
        said = task.p_columns and not task.has_masks  # masks are no number that could stand for them all
        says = [_short(value) for value in frame[task.p_columns[0]]] if said else [""] * n
        return truth, says, [None] * n, [None] * n
    target, answer, p_NC = targets(frame, task), predicted(frame, task), probabilities(frame, task)
    if task.several_columns:
        words = [_labels(row, task) for row in target], [_labels(row, task) for row in answer]
        p_N = np.where(answer == 1, p_NC, 1 - p_NC).min(axis=1)  # of the label that is least sure
        known: np.ndarray = np.any(target >= 0, axis=1)
        differs: np.ndarray = np.any((target != answer) & (target >= 0), axis=1)
    else:
        words = [task.classes[t] if t >= 0 else "" for t in target], [task.classes[a] for a in answer]
        p_N = np.take_along_axis(p_NC, answer[:, None], axis=1)[:, 0]
        known, differs = np.asarray(target >= 0), np.asarray(target != answer)
    wrong = [bool(differs[row]) if known[row] else None for row in range(n)]
    return {"target": words[0]}, words[1], _numbers(pd.Series(p_N)), wrong


def _labels(row: npt.NDArray[np.intp], task: Task) -> str:
    return ", ".join(name for name, value in zip(task.classes, row, strict=True) if value == 1) or "none"


def _far(frame: pd.DataFrame) -> list[bool | None]:
    aside = abstained(frame)
    return [None] * len(frame) if aside is None else [bool(value) for value in aside]


def _numbers(values: pd.Series) -> list[float | None]:
    """As JSON has them: None for NaN and what is infinite."""
    return [
        float(value) if math.isfinite(value) else None for value in values.to_numpy(dtype=np.float64, na_value=np.nan)
    ]


def _short(value: float) -> str:
    return f"{value:.4g}"
