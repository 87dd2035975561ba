"""``reviews.csv``: what a reader said of a model's predictions, and what that makes of the reader.

Columns, all text:

    id, split, fold   as in the predictions table; the last two may be empty
    says              what the model said when the case was reviewed; empty without a prediction
    verdict           agree, disagree or unsure; empty where there is a note alone
    note              text in one line
    time              when it was saved, ISO 8601 with the zone

A reader who agrees gives the model's answer. One who disagrees gives the other answer where there are two; where there
are more, nobody knows which.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.intervals.estimates import wilson
from medsoft.evaluation.metrics.targets import predicted, targets
from medsoft.storage.files import replacing
from medsoft.task import Task
from medsoft.text.csv_text import read_csv_text

REVIEWS = "reviews.csv"
VERDICTS = ("agree", "disagree", "unsure")
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Review:
    """A row of ``reviews.csv``; the attributes are its columns."""

    id: str
    split: str
    fold: str
    says: str
    verdict: str
    note: str
    time: str


COLUMNS = tuple(field.name for field in fields(Review))


def read_reviews(path: Path) -> dict[Key, Review]:
    """The reviews of a file, by id, split and fold, in its order.

    Raises:
        InputError: it cannot be read, lacks a column, has another verdict, or a case twice.
    """
    if path.is_file() and path.read_bytes().count(b"\n") <= 1:  # the header of a file whose reviews were taken back
        return {}
    frame, lines_N = read_csv_text(path, what="table of reviews")
    if missing := [name for name in COLUMNS if name not in frame]:
        raise InputError(f"{path}: no table of reviews: it has no column {', '.join(missing)}")
    found: dict[Key, Review] = {}
    for line, *values in zip(lines_N.tolist(), *(frame[name] for name in COLUMNS), strict=True):
        review = Review(*values)
        if review.verdict not in ("", *VERDICTS):
            raise InputError(f"{path}: line {line}: the verdict is {', '.join(VERDICTS)} or empty")
        key = (review.id, review.split, review.fold)
        if key in found:
            raise InputError(f"{path}: line {line}: a case again (in its split and fold)")
        found[key] = review
    return found


def write_reviews(reviews: Mapping[Key, Review], path: Path) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(review) for review in reviews.values())


@dataclass(frozen=True)
class ReaderRow:
    """A proportion of a reader study; a line of ``reader_study.csv``.

    Attributes:
        split: part of the cases.
        measure: ``agreement`` of the reader with the model; of a yes-or-no question ``reader sensitivity`` and
            ``reader specificity``, and those of the model on the same cases.
        hits: cases that count.
        n: cases that are asked about: reviewed with agree or disagree, and with a target where one is needed.
        value: hits / n.
        low: lower end of its interval, of independent cases.
        high: its upper end.
    """

    split: str
    measure: str
    hits: int
    n: int
    value: float
    low: float
    high: float


def reader_study(
    reviews: Mapping[Key, Review], frame: pd.DataFrame, task: Task, confidence: float
) -> tuple[list[ReaderRow], list[str]]:
    """How far a reader agrees with a model, and how good the reader is where there are two answers.

    Args:
        reviews: of the cases.
        frame: the predictions, as they are now.
        task: what they answer; of one without classes there is no agreement.
        confidence: of the intervals.

    Returns:
        The proportions, split by split; and what was left out, a line each.
    """
    if not task.has_classes or task.several_columns:
        return [], ["reader study: agreement is counted where every sample has one class"]
    keys = list(zip(frame["id"], frame["split"], frame["fold"], strict=True))
    says, truth = predicted(frame, task), targets(frame, task)
    found = [reviews.get(key) for key in keys]
    stale_N = np.array(
        [bool(one and one.says and one.says != task.classes[answer]) for one, answer in zip(found, says, strict=True)]
    )
    verdict_N = np.array([one.verdict if one else "" for one in found], dtype=object)
    decided_N = np.isin(verdict_N, ("agree", "disagree")) & ~stale_N
    agrees_N = verdict_N == "agree"
    rows = []

    def add(split: str, measure: str, hits_N: Any, among_N: Any) -> None:
        hits, n = int((hits_N & among_N).sum()), int(among_N.sum())
        if n:
            rows.append(ReaderRow(split, measure, hits, n, hits / n, *wilson(hits, n, confidence)))

    for split in frame["split"].unique():
        among_N = decided_N & (frame["split"] == split).to_numpy()
        add(split, "agreement", agrees_N, among_N)
        if len(task.classes) == 2 and task.thresholded:
            reader_N = np.where(agrees_N, says, 1 - says)
            for who, answer_N in (("reader", reader_N), ("model", says)):
                add(split, f"{who} sensitivity", answer_N == 1, among_N & (truth == 1))
                add(split, f"{who} specificity", answer_N == 0, among_N & (truth == 0))
    unsure, gone = int((verdict_N == "unsure").sum()), len(set(reviews) - set(keys))
    left = [
        (unsure, "unsure"),
        (int(stale_N.sum()), "of another answer of the model"),
        (gone, "of cases not in the table"),
    ]
    said = ", ".join(f"{n} {what}" for n, what in left if n)
    return rows, [f"reader study: left out are {said}"] if said else []


def write_reader_study(rows: Sequence[ReaderRow], path: Path) -> None:
    """Write ``reader_study.csv``.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(ReaderRow)])
        writer.writerows(astuple(row) for row in rows)
