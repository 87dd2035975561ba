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
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from medsoft.errors import InputError
from medsoft.storage.files import replacing
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
