"""Notes and verdicts of a reader, kept in ``reviews.csv`` beside what was reviewed."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path

from medsoft.errors import InputError
from medsoft.evaluation.comparison.reader_study import REVIEWS, VERDICTS, Review, read_reviews, write_reviews

LONGEST_NOTE = 4000
"""Characters."""


class Reviews:
    """The reviews of one folder. Each change is written at once, whole or not at all.

    Args:
        folder: where ``reviews.csv`` lies, or will.

    Raises:
        InputError: the file is there and is none.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / REVIEWS
        self._lock = threading.Lock()
        self._rows = read_reviews(self.path) if self.path.exists() else {}

    def of(self, key: tuple[str, str, str]) -> Review | None:
        """The review of a case, by its id, split and fold."""
        return self._rows.get(key)

    def save(self, key: tuple[str, str, str], says: str, verdict: str, note: str) -> Review | None:
        """Keep a review, in place of an earlier one; without verdict and note there is none any more.

        What another viewer has written into the file meanwhile stays.

        Args:
            key: id, split and fold.
            says: what the model says of the case, "" where nobody has asked it.
            verdict: one of ``VERDICTS``, or "".
            note: text.

        Raises:
            ValueError: another verdict, or a note that is too long.
            InputError: the file has been damaged meanwhile.
            OSError: the file cannot be written.
        """
        note = " ".join(note.replace("\0", "").split())
        if verdict not in ("", *VERDICTS):
            raise ValueError(f"a verdict is {', '.join(VERDICTS)}, or none")
        if len(note) > LONGEST_NOTE:
            raise ValueError(f"a note has at most {LONGEST_NOTE} characters")
        with self._lock:
            rows = read_reviews(self.path) if self.path.exists() else {}
            rows.pop(key, None)
            review = None
            if verdict or note:
                time = datetime.now().astimezone().isoformat(timespec="seconds")
                review = rows[key] = Review(*key, says, verdict, note, time)
            write_reviews(rows, self.path)
            self._rows = rows
        return review


def open_reviews(folder: Path) -> Reviews:
    """The reviews of a folder.

    Raises:
        InputError: ``reviews.csv`` is damaged, and says what to do.
    """
    try:
        return Reviews(folder)
    except InputError as error:
        raise InputError(f"{error}; move it away, and the viewer begins a new one") from None
