"""Samples whose hazards are known: exponential times, censored at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

WEIGHTS = np.array([1.2, -0.8, 0.5])


def simulate(n: int, seed: int = 0, censoring: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors (n, 3), their log hazards (n,), and times and events (n, 2).

    Args:
        n: samples.
        seed: of all that is random.
        censoring: rate at which samples are lost, in that of a sample of log hazard 0.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    hazard = x @ WEIGHTS
    event, lost = rng.exponential(np.exp(-hazard)), rng.exponential(1 / censoring, n)
    time = np.maximum(np.minimum(event, lost) * 400, 0.01)
    return x, hazard, np.column_stack([time, event <= lost]).astype(np.float64)


def write_survival(folder: Path, n: int, seed: int = 0, per_patient: int = 1) -> tuple[Path, Path]:
    """A sample table (id, patient, days, dead, hazard) and one table of all instances, of bags of one or two."""
    x, hazard, targets = simulate(n, seed)
    rng = np.random.default_rng(seed + 1)
    ids = [f"s{i:03d}" for i in range(n)]
    table = {"path": ids, "patient": [f"P{i // per_patient:03d}" for i in range(n)], "hazard": hazard}
    table |= {"days": targets[:, 0].round(2).clip(0.01), "dead": targets[:, 1].astype(int)}
    rows = [[ids[i], *x[i]] for i in range(n) for _ in range(int(rng.integers(1, 3)))]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_csv(folder / "table.csv", index=False)
    pd.DataFrame(rows, columns=["bag", "a", "b", "c"]).to_csv(folder / "instances.csv", index=False)
    return folder / "table.csv", folder / "instances.csv"


def plain_concordance(risk: np.ndarray, targets: np.ndarray) -> float:
    """Harrell's C by looking at every pair."""
    right, pairs = 0.0, 0
    for i, (time, event) in enumerate(targets):
        for j, (other, happened) in enumerate(targets):
            if event == 1 and (time < other or (time == other and happened == 0)):
                pairs += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / pairs
