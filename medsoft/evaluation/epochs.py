"""Which epoch of a training was the best."""

from __future__ import annotations

import pandas as pd

LOWER_IS_BETTER = ("loss", "brier", "log_loss", "mae", "rmse")
"""Metrics of which a lower value is better; all others are better when higher."""


def best_epoch(epochs: pd.DataFrame, monitor: str) -> int | None:
    """The epoch whose checkpoint is kept as the best.

    Of equal values the one with the lowest validation loss counts: on few samples many epochs reach the same AUROC,
    the first of them perhaps with probabilities that have hardly left the start.

    Args:
        epochs: a row an epoch, indexed by the epoch.
        monitor: column that chooses.

    Returns:
        An epoch of the index; None where no epoch has a value.
    """
    values = epochs[monitor].dropna()
    if values.empty:
        return None
    best = values.min() if monitor.endswith(LOWER_IS_BETTER) else values.max()
    equal = values.index[values == best]
    if "val_loss" in epochs and epochs.loc[equal, "val_loss"].notna().any():
        return int(epochs.loc[equal, "val_loss"].idxmin())
    return int(equal[0])
