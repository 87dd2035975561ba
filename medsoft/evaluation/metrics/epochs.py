"""Which epoch of a training was the best."""

from __future__ import annotations

import pandas as pd

from medsoft.evaluation.metrics.table import lower_is_better


def best_epoch(epochs: pd.DataFrame, monitor: str) -> int | None:
    """The epoch whose checkpoint is kept as the best.

    Of equal values the one with the lowest validation loss counts: on few samples many epochs reach the same AUROC,
    the first of them perhaps with probabilities that have hardly left the start.

    Args:
        epochs: a row an epoch, indexed by the epoch.
        monitor: column that chooses.

    Returns:
        An epoch of the index; None where no epoch has a value.

    Raises:
        InputError: the column is no metric of which more or less is better.
    """
    values = epochs[monitor].dropna()
    if values.empty:
        return None
    best = values.min() if lower_is_better(monitor) else values.max()
    equal = values.index[values == best]
    if "val_loss" in epochs and epochs.loc[equal, "val_loss"].notna().any():
        return int(epochs.loc[equal, "val_loss"].idxmin())
    return int(equal[0])
