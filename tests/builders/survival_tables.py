"""Survival tables with known hazards."""

from __future__ import annotations

import numpy as np

from medsoft.evaluation.survival.basis import Outcomes

TIMES = (2.0, 5.0, 8.0)


def outcomes(n: int = 120, seed: int = 0, whole: bool = False) -> tuple[Outcomes, np.ndarray]:
    """Exponential times of log hazard x - ln 10, censored at exponential times and at 25; and x itself.

    Args:
        n: rows.
        seed: of all numbers.
        whole: whether times are whole numbers, and x is rounded, so that there are ties.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    event_time, censoring = rng.exponential(10 * np.exp(-x)), rng.exponential(12, size=n)
    time, event = np.minimum(event_time, censoring), event_time <= censoring
    if whole:
        time, x = np.ceil(time), x.round(1)
    return Outcomes(np.minimum(time, 25.0), event & (time <= 25)), x


def survival_of(x: np.ndarray, times: tuple[float, ...] = TIMES) -> dict[float, np.ndarray]:
    """By time, the chance of being without the event that these hazards give."""
    return {time: np.exp(-time / 10 * np.exp(x)) for time in times}
