"""Survival tables with known hazards."""

from __future__ import annotations

import numpy as np
import pandas as pd

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


def predictions(
    n: int = 80,
    seed: int = 0,
    split: str = "test",
    fold: str = "",
    known: float = 1.0,
    times: tuple[float, ...] = TIMES,
) -> pd.DataFrame:
    """A predictions table of a model that knows the log hazard up to noise.

    Args:
        n: rows, each of a patient of its own.
        seed: of the rows.
        split: of all rows.
        fold: of all rows.
        known: how much of the log hazard it knows: 1 all of it, 0 nothing.
        times: at which it predicts survival.
    """
    rows, x = outcomes(n, seed)
    risk = known * x + 0.3 * np.random.default_rng(seed + 1000).normal(size=n)
    names = [f"{split}{fold}-{i}" for i in range(n)]
    columns = {"id": names, "patient": [f"p-{name}" for name in names], "exam": "", "split": split, "fold": fold}
    columns |= {"task": "survival", "time": rows.time, "event": rows.event.astype(int), "risk": risk}
    columns |= {f"s_{time:g}": values for time, values in survival_of(risk, times).items()}
    return pd.DataFrame(columns)
