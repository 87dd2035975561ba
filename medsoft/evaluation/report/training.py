"""Learning curves of a run as charts of the report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medsoft.errors import InputError
from medsoft.evaluation.pictures.learning import ERRORS, METRICS, by_epoch
from medsoft.evaluation.report.chart import Chart
from medsoft.evaluation.report.figures import Figure


def learning_figures(log: Path, best: int | None) -> list[Figure]:
    """Losses, and validation metrics, by epoch; none where the log holds none."""
    try:
        epochs = by_epoch(log)
    except InputError:
        return []
    losses = {"train_loss": "training", "val_loss": "validation"}
    figures = [_figure("Loss", "loss", losses, epochs, best, (0.0, None))]
    shown = {name: text for name, text in METRICS.items() if name in epochs}
    if shown:
        figures.append(
            _figure("Validation metrics", "metric", dict(list(shown.items())[:4]), epochs, best, (None, None))
        )
    errors = {name: text for name, text in ERRORS.items() if name in epochs}
    if errors:
        figures.append(_figure("Validation errors", "error", errors, epochs, best, (0.0, None)))
    return figures


def _figure(
    title: str,
    y_label: str,
    columns: dict[str, str],
    epochs: pd.DataFrame,
    best: int | None,
    limits: tuple[float | None, float | None],
) -> Figure:
    lines = {text: epochs[name].dropna() for name, text in columns.items() if name in epochs}
    values = pd.concat(list(lines.values()))
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low)
    low = low - room if limits[0] is None else min(limits[0], low)
    about = ", ".join(f"{text} {line.iloc[-1]:.3f} at the end" for text, line in lines.items())
    x = (float(epochs.index.min()), float(epochs.index.max()))
    chart = Chart(title, about, "epoch", y_label, x=x, y=(low, high + room), size=(420, 320), whole=True)
    legend = []
    if best is not None and x[0] <= best <= x[1]:
        chart.upright(best)
        legend.append(("quiet dot", f"best epoch, {best}"))
    for index, (text, line) in enumerate(lines.items()):
        chart.line(line.index.to_numpy(), line.to_numpy(), f"c{index}")
        if len(line) <= 30:
            for epoch, value in line.items():
                chart.mark(
                    float(str(epoch)), float(value), f"c{index}", f"{text}, epoch {epoch}: {value:.3f}", radius=3
                )
        legend.insert(index, (f"c{index}", text))
    return Figure(title, chart.svg(), tuple(legend))
