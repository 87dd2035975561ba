"""Learning curves of a training run, from the log that Lightning's CSVLogger writes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medsoft.errors import InputError
from medsoft.evaluation.figures.panels import Chart, Panel, figure_of
from medsoft.evaluation.figures.style import GREY, PALETTE, explain_marks, save
from medsoft.evaluation.metrics.epochs import best_epoch
from medsoft.evaluation.metrics.table import HEADLINE, lower_is_better, metric_name, of_family

LOSSES = {"train_loss": "training", "val_loss": "validation"}
# Brier score and log loss run against those of which more is better, and would confuse the panel.
METRICS = {f"val_{name}": metric_name(name) for name in HEADLINE if not lower_is_better(name)}
ERRORS = {f"val_{name}": metric_name(name) for name in HEADLINE if name in of_family("error") and lower_is_better(name)}
FEW_EPOCHS = 30
"""So many have a mark each."""


def learning_curves(metrics_csv: Path | str, out: Path | str, note: str = "", monitor: str | None = None) -> Path:
    """Write the losses and the validation metrics by epoch, the best epoch marked.

    Args:
        metrics_csv: a row a logged step with columns ``epoch``, ``train_loss``, ``val_loss``, ``val_auroc`` ...;
            cells may be empty. Several training losses in an epoch are averaged.
        out: the PNG file.
        note: footer.
        monitor: column that tells the best epoch: its lowest value if it is a loss or a Brier score, otherwise its
            highest. By default ``val_auroc``, or ``val_loss`` where there is none.

    Raises:
        InputError: the log cannot be read, holds no losses, or lacks the monitored column.
    """
    return save(figure_learning_curves(metrics_csv, note, monitor), out)


def figure_learning_curves(metrics_csv: Path | str, note: str = "", monitor: str | None = None) -> Figure:
    """Losses on the left, validation metrics on the right; arguments and errors as for ``learning_curves``."""
    epochs = by_epoch(Path(metrics_csv))
    monitor = monitor or ("val_auroc" if "val_auroc" in epochs else "val_loss" if "val_loss" in epochs else None)
    if monitor is not None and monitor not in epochs:
        raise InputError(f"{metrics_csv}: no values of {monitor!r}; logged are {', '.join(epochs.columns)}")
    about = f"{len(epochs)} epochs" if len(epochs) > 1 else "1 epoch"
    best = None if monitor is None else best_epoch(epochs, monitor)
    if best is not None:
        about += f" · best epoch: {best}, with {monitor} = {float(epochs[monitor].loc[best]):.3f}"
    return figure_of(learning_chart(epochs, best), about, note)


def learning_chart(epochs: pd.DataFrame, best: int | None) -> Chart:
    """Losses, validation metrics and validation errors, each in a panel of its own where they were logged.

    Args:
        epochs: of ``by_epoch``.
        best: the epoch to mark, or None.
    """
    panels = []
    for name, y_label, columns, from_0 in (
        ("Loss", "loss", LOSSES, True),
        ("Validation metrics", "validation metric", METRICS, False),
        ("Validation errors", "validation error", ERRORS, True),
    ):
        lines = {text: epochs[column].dropna() for column, text in columns.items() if column in epochs}
        if lines:
            words = ", ".join(f"{text} {line.iloc[-1]:.3f} at the end" for text, line in lines.items())
            panels.append(Panel(name, partial(_panel, lines=lines, best=best, y_label=y_label, from_0=from_0), words))
    return Chart("learning_curves", "Learning curves", "Learning curves, splits: train and val", tuple(panels))


def rate_curve(
    rates: npt.NDArray[np.float64],
    losses: npt.NDArray[np.float64],
    smooth: npt.NDArray[np.float64],
    chosen: float,
    out: Path,
    note: str = "",
) -> Path:
    """Write the losses of a learning rate range test by the rate, the chosen rate marked.

    Args:
        rates: (N,) rising.
        losses: (N,) of the steps at these rates.
        smooth: (N,) the same, smoothed.
        chosen: the rate to mark.
        out: the PNG file.
        note: footer.
    """

    def draw(axes: Axes) -> list[Artist]:
        handles: list[Artist] = [
            *axes.plot(rates, losses, color=GREY, linewidth=0.8, label="loss of each step"),
            *axes.plot(rates, smooth, color=PALETTE[0], label="smoothed"),
            axes.axvline(chosen, color=PALETTE[1], linestyle=":", label=f"steepest fall, {chosen:g}"),
        ]
        axes.set_xscale("log")
        # Where the loss diverges it would hide all the rest.
        low, high = float(losses.min()), float(smooth[: max(1, len(smooth) // 3)].max())
        axes.set_ylim(min(0.0, low), max(2 * high, low + 1e-6))
        axes.set(xlabel="learning rate", ylabel="training loss")
        return handles

    words = f"{len(rates)} steps from {rates[0]:.3g} to {rates[-1]:.3g}; the loss falls most steeply at {chosen:g}"
    panel = Panel("Loss", draw, words)
    chart = Chart("lr_find", "Learning rate range test", "Learning rate range test, split: train", (panel,))
    return save(figure_of(chart, words, note), out)


def by_epoch(path: Path) -> pd.DataFrame:
    """A row an epoch; columns without any value are left out."""
    try:
        log = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read the training log: {error}") from error
    if "epoch" not in log or not {"train_loss", "train_loss_epoch", "val_loss"} & set(log.columns):
        raise InputError(f"{path}: a training log needs the columns epoch and train_loss or val_loss")
    if "train_loss_epoch" in log:
        log["train_loss"] = log["train_loss_epoch"]
    groups = log.dropna(subset="epoch").astype({"epoch": int}).groupby("epoch")
    # A resumed run may have logged an epoch twice: its last word on the validation split counts.
    epochs = groups.last(numeric_only=True)
    if "train_loss" in log:
        epochs["train_loss"] = groups["train_loss"].mean()
    epochs = epochs.dropna(axis="columns", how="all")
    if not {"train_loss", "val_loss"} & set(epochs.columns):
        raise InputError(f"{path}: the training log holds no losses yet")
    return epochs


def _panel(
    axes: Axes, lines: Mapping[str, pd.Series[float]], best: int | None, y_label: str, from_0: bool
) -> list[Artist]:
    handles: list[Artist] = []
    for colour, (text, line) in zip(PALETTE, lines.items(), strict=False):
        marker = "o" if len(line) <= FEW_EPOCHS else ""
        handles += axes.plot(line.index, line, color=colour, marker=marker, markersize=3.5, label=text)
        if marker:
            said = [f"{text}, epoch {epoch}: {value:.3f}" for epoch, value in line.items()]
            explain_marks(axes.lines[-1], said)
    if from_0 and min(line.min() for line in lines.values()) >= 0:
        axes.set_ylim(bottom=0)
    if best is not None:
        mark = axes.axvline(best, color=GREY, linestyle=":", linewidth=1, label=f"best epoch, {best}")
        handles.append(mark)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="epoch", ylabel=y_label)
    return handles
