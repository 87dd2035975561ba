"""A cross-validation in pictures: the folds below each other with their mean, and their ROC curves in one panel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from medsoft.evaluation.comparison.across_folds import AcrossFolds
from medsoft.evaluation.figures.forest import Row, forest
from medsoft.evaluation.figures.panels import Chart, Panel, figure_of
from medsoft.evaluation.figures.style import GREY, PALETTE, save, write_in_corner
from medsoft.evaluation.intervals.curve import Curve
from medsoft.evaluation.metrics.table import metric_name
from medsoft.evaluation.part import Part
from medsoft.task import Task


def draw_folds(
    across: AcrossFolds,
    parts: Sequence[Part],
    task: Task,
    folder: Path,
    suffix: str,
    confidence: float,
    note: str = "",
) -> list[Path]:
    """Draw what there is material for: ``folds<suffix>.png`` and ``roc_folds<suffix>.png``.

    Returns:
        The files written.
    """
    own = [part for part in parts if (part.split, part.level) == (across.split, across.level) and part.n]
    written = []
    mean = across.find(**task.primary)
    if mean is not None and mean.value is not None:
        written.append(_forest(across, own, task, folder / f"folds{suffix}.png", confidence, note))
    if any(part.curves for part in own):
        figure = figure_of(roc_folds_chart(across, own, task), describe_folds(across), note)
        written.append(save(figure, folder / f"roc_folds{suffix}.png"))
    return written


def _forest(across: AcrossFolds, parts: Sequence[Part], task: Task, out: Path, confidence: float, note: str) -> Path:
    """The primary metric: a line a fold, the mean over folds, and the pooled value."""
    wanted = task.primary
    mean = across.find(**wanted)
    assert mean is not None
    rows = []
    for part in parts:
        own = part.find(**wanted)
        values = (own.value, own.low, own.high) if own else (None, None, None)
        rows.append(Row(f"fold {part.fold}", *values, size=f"n = {part.n}"))
    rows.append(Row("mean over folds", mean.value, mean.low, mean.high, f"{mean.n_folds} folds"))
    pooled = (mean.pooled, mean.pooled_low, mean.pooled_high)
    rows.append(Row("pooled (mixes models)", *pooled, size=f"n = {sum(across.n_per_fold.values())}", faint=True))
    name = metric_name(wanted["metric"])
    of = wanted.get("class_name") or wanted.get("average")
    about = describe_folds(across) + (
        f" · standard deviation of the folds {mean.sd:.3f}" if mean.sd is not None else ""
    )
    label = f"{name}{f' ({of})' if of else ''}, {confidence:.0%} interval"
    title = f"Cross-validation: {name}" + (f" of {of}" if wanted.get("class_name") else "")
    return forest(rows, out, label, title=title, facts=about, note=note, line=mean.value)


def roc_folds_chart(across: AcrossFolds, parts: Sequence[Part], task: Task) -> Chart:
    """A panel a class: each fold's curve, and their mean sensitivity at each false-positive rate (Fawcett 2006)."""
    panels = []
    for name in task.asked_classes:
        curves = [part.curves[name].roc for part in parts if name in part.curves]
        if curves:
            value = across.find("auroc", class_name=name)
            words = "AUROC undefined"
            if value is not None and value.value is not None:
                interval = "" if value.low is None or value.high is None else f"\n({value.low:.2f} to {value.high:.2f})"
                words = f"AUROC {value.value:.2f}, mean of {value.n_folds} folds{interval}"
            panels.append(Panel(name, partial(_curves, curves=curves, text=words), words.replace("\n", " ")))
    names = [panel.name for panel in panels]
    title = f"ROC curves of the folds, {names[0]}" if len(names) == 1 else "ROC curves of the folds, class by class"
    return Chart("roc_folds", "ROC curves of the folds", title, tuple(panels))


def _curves(axes: Axes, curves: Sequence[Curve], text: str) -> list[Artist]:
    mean = np.mean([curve.y for curve in curves], axis=0)
    handles: list[Artist] = [*axes.plot(curves[0].x, mean, color=PALETTE[0], linewidth=2, label="mean over folds")]
    for curve in curves:
        line = axes.plot(curve.x, curve.y, color=PALETTE[0], alpha=0.35, linewidth=0.9, label="a fold")
    handles += line
    handles += axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="chance")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="NW")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity")
    write_in_corner(axes, text, "lower right")
    return handles


def describe_folds(across: AcrossFolds) -> str:
    """Which samples a figure of several folds shows."""
    n = sum(across.n_per_fold.values())
    about = [f"split: {across.split}"] if across.split != "all" else []
    about += [f"{len(across.n_per_fold)} folds", f"n = {n}" + ("" if across.level == "row" else f" {across.level}s")]
    if across.level == "row" and across.n_patients < n:
        about[-1] += f" of {across.n_patients} patients"
    return " · ".join(about)
