"""What can go wrong: with a call, with work that has begun, and with a single picture, slide or feature file."""

from __future__ import annotations

import math
from dataclasses import dataclass

NO_MEMORY = ("not enough memory", "can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What errors without a type of their own say where memory did not suffice."""


class InputError(Exception):
    """The call, its configuration or its data is wrong.

    The command line prints the message on standard error, without a traceback, and exits with 2.
    The message says what is wrong, where, and what to do.
    """


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the rows of a table.

    Attributes:
        kind: what sort of problem, the heading under which it is listed: "missing file".
        rows: row numbers; 1 is the first row below the header.
        message: what is wrong with these rows.
        advice: what to do, the same for all problems of a kind.
        skippable: whether ``on_error="skip"`` may leave these rows out and go on.
    """

    kind: str
    rows: tuple[int, ...]
    message: str
    advice: str
    skippable: bool = True


class RunError(Exception):
    """Work that had begun cannot go on: the disk is full, the training has diverged.

    The command line prints the message on standard error, without a traceback, and exits with 1.
    What was finished before is kept.
    """


class ReadError(Exception):
    """A picture or a volume cannot be read.

    Attributes:
        reason: what is wrong with the file, without its name.
        path: the file, or ``file.npz#key/index``.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class _OneLineError(Exception):
    """An error whose reason stands in a table: in one line, and without the name of the file.

    Attributes:
        reason: what is wrong, as ``errors.csv`` lists it.
    """

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(self.reason)


class BagError(_OneLineError):
    """A feature file cannot be used, or features cannot be stored in one."""


class SlideError(_OneLineError):
    """A slide cannot be used."""


class TileError(SlideError):
    """A part of a slide cannot be read; the rest of the slide may well be."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: Python's, CUDA's, or that of PyTorch on a processor."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Check an option's value.

    Raises:
        InputError: it lies outside ``low`` to ``high``, or is NaN.
    """
    if not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"between {low:g} and {high:g}"
        raise InputError(f"{name} {value:g} must be {limits}")
