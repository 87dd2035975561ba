"""Learning curves of a training run, from the log that Lightning's CSVLogger writes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medsoft.errors import InputError
from medsoft.evaluation.epochs import best_epoch
from medsoft.evaluation.pictures.style import GREY, PALETTE, caption, new_figure, save, styled

# Where more is better: Brier score, log loss and errors run the other way and would confuse the panel.
METRICS = {
    "val_auroc": "AUROC",
    "val_average_precision": "average precision",
    "val_balanced_accuracy": "balanced accuracy",
    "val_accuracy": "accuracy",
    "val_f1": "F1",
    "val_kappa": "quadratic kappa",
    "val_r2": "R²",
    "val_concordance": "concordance",
}
ERRORS = {"val_mae": "mean absolute error", "val_rmse": "root mean square error"}


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


@styled
def figure_learning_curves(metrics_csv: Path | str, note: str = "", monitor: str | None = None) -> Figure:
    """Losses on the left, validation metrics on the right; arguments and errors as for ``learning_curves``."""
    epochs = by_epoch(Path(metrics_csv))
    monitor = monitor or ("val_auroc" if "val_auroc" in epochs else "val_loss" if "val_loss" in epochs else None)
    if monitor is not None and monitor not in epochs:
        raise InputError(f"{metrics_csv}: no values of {monitor!r}; logged are {', '.join(epochs.columns)}")
    shown = {column: name for column, name in METRICS.items() if column in epochs}
    errors = {column: name for column, name in ERRORS.items() if column in epochs}
    losses = {"train_loss": "training", "val_loss": "validation"}
    panels = [(losses, "loss"), (shown, "validation metric"), (errors, "validation error")]
    panels = [panel for panel in panels if panel[0]]
    figure = new_figure(0.6 + 4 * len(panels), 3.9)
    for index, (columns, y_label) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1, xlabel="epoch", ylabel=y_label)
        _lines(axes, epochs, columns)
    facts = f"{len(epochs)} epochs" if len(epochs) > 1 else "1 epoch"
    if monitor is not None:
        best = best_epoch(epochs, monitor)
        if best is not None:
            facts += f" · best epoch (dotted): {best}, with {monitor} = {float(epochs[monitor].loc[best]):.3f}"
            for axes in figure.axes:
                axes.axvline(best, color=GREY, linestyle=":", linewidth=1)
    caption(figure, "Learning curves, splits: train and val", facts, note)
    return figure


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


def _lines(axes: Axes, epochs: pd.DataFrame, columns: dict[str, str]) -> None:
    marker = "o" if len(epochs) <= 30 else ""
    for colour, (column, name) in zip(PALETTE, columns.items(), strict=False):
        if column in epochs:
            values = epochs[column].dropna()
            axes.plot(values.index, values, color=colour, marker=marker, markersize=3.5, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
