"""What the user is told in one message: bad input, said before work starts, and work that could not go on."""

from __future__ import annotations

import math

NO_MEMORY = ("not enough memory", "can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What errors without a type of their own say where memory did not suffice."""


class InputError(Exception):
    """The call, its configuration or its data is wrong.

    The command line prints the message on standard error, without a traceback, and exits with 2.
    The message says what is wrong, where, and what to do.
    """


class RunError(Exception):
    """Work that had begun cannot go on: the disk is full, the training has diverged.

    The command line prints the message on standard error, without a traceback, and exits with 1.
    What was finished before is kept.
    """


class Stopped(KeyboardInterrupt):
    """The user or the cluster asked for a stop, and it was made in order; the message says what was done.

    As ``KeyboardInterrupt`` it passes what catches errors of single samples.

    Attributes:
        signal: number of the signal that asked.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


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
