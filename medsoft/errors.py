"""What the user is told in one message: bad input, said before work starts, and work that could not go on."""

from __future__ import annotations

import math


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


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Check an option's value.

    Raises:
        InputError: it lies outside ``low`` to ``high``, or is NaN.
    """
    if not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"between {low:g} and {high:g}"
        raise InputError(f"{name} {value:g} must be {limits}")
