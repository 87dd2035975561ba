"""A budget of time: how it is written, and how much of it is left."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from medsoft.errors import InputError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
WRITTEN = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
PIECE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")

FOR_THE_REPORT = 0.05
"""Share of the budget that is kept for predicting the test part and writing the report."""

MORE_TIME = 1.25
"""What is asked for beyond a predicted time: predictions from a few steps were within a quarter."""


def enough(spent: float, more: float) -> float:
    """Seconds of a budget that is enough for what is predicted to take ``more`` seconds after ``spent``."""
    return (spent + more) * MORE_TIME / (1 - FOR_THE_REPORT)


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``1.5h``, ``1h30m`` or ``2d``.

    Raises:
        InputError: it is none of these, or no time at all.
    """
    written = text.strip().lower()
    seconds = sum(float(n) * UNITS[unit] for n, unit in PIECE.findall(written)) if WRITTEN.fullmatch(written) else 0.0
    if seconds <= 0:
        raise InputError(f"--budget {text}: a time such as 90s, 30m, 2h or 1h30m")
    return seconds


def duration_in_words(seconds: float) -> str:
    """``4 s``, ``2 min 10 s``, ``3 h 5 min``; never less than 1 s."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 and whole < 600 else "")
    minutes = round(whole / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def as_option(seconds: float) -> str:
    """A time as ``--budget`` takes it, rounded up: ``45s``, ``12m``, ``3h``."""
    if seconds <= 90:
        return f"{-int(-seconds // 1)}s"
    if seconds <= 5400:
        return f"{-int(-seconds // 60)}m"
    return f"{-int(-seconds // 360) / 10:g}h"


class Clock:
    """How much of a budget is used.

    Args:
        budget: seconds in all.
        spent: seconds that earlier calls have used.
        now: a clock, for tests.
    """

    def __init__(self, budget: float, spent: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self._spent, self._now, self._start = spent, now, now()

    @property
    def spent(self) -> float:
        """Seconds used by this call and those before it."""
        return self._spent + self._now() - self._start

    @property
    def left(self) -> float:
        """Seconds that are left; negative when over."""
        return self.budget - self.spent
