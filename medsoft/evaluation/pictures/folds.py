"""A cross-validation in pictures: the folds below each other with their mean, and their ROC curves in one panel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medsoft.evaluation.across_folds import AcrossFolds, primary
from medsoft.evaluation.part import Part
from medsoft.evaluation.pictures.forest import Row, forest
from medsoft.evaluation.pictures.panels import finish, panels
from medsoft.evaluation.pictures.style import GREY, PALETTE, save, styled
from medsoft.task import Task

NAMES = {"auroc": "AUROC", "kappa": "quadratic kappa", "mae": "mean absolute error"}


def draw_folds(
    across: AcrossFolds,
    parts: Sequence[Part],
    task: Task | None,
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
    mean = across.find(**primary(task))
    if mean is not None and mean.value is not None:
        written.append(_forest(across, own, task, folder / f"folds{suffix}.png", confidence, note))
    if task is not None and any(part.curves for part in own):
        written.append(save(figure_roc_folds(across, own, task, note), folder / f"roc_folds{suffix}.png"))
    return written


def _forest(
    across: AcrossFolds, parts: Sequence[Part], task: Task | None, out: Path, confidence: float, note: str
) -> Path:
    """The primary metric: a line a fold, the mean over folds, and the pooled value."""
    wanted = primary(task)
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
    name = NAMES.get(wanted["metric"], wanted["metric"])
    of = wanted.get("class_name") or wanted.get("average")
    about = _about(across) + (f" · standard deviation of the folds {mean.sd:.3f}" if mean.sd is not None else "")
    label = f"{name}{f' ({of})' if of else ''}, {confidence:.0%} interval"
    title = f"Cross-validation: {name}" + (f" of {of}" if wanted.get("class_name") else "")
    return forest(rows, out, label, title=title, facts=about, note=note, line=mean.value)


@styled
def figure_roc_folds(across: AcrossFolds, parts: Sequence[Part], task: Task, note: str = "") -> Figure:
    """One panel a class: each fold's curve, and their mean sensitivity at each false-positive rate (Fawcett 2006)."""
    names = [name for name in task.classes if any(name in part.curves for part in parts)]
    figure, all_axes = panels(names)
    for axes, name in zip(all_axes, names, strict=True):
        curves = [part.curves[name].roc for part in parts if name in part.curves]
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        for curve in curves:
            axes.plot(curve.x, curve.y, color=PALETTE[0], alpha=0.35, linewidth=0.9)
        axes.plot(curves[0].x, np.mean([curve.y for curve in curves], axis=0), color=PALETTE[0], linewidth=2)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="NW")
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        value = across.find("auroc", class_name=name)
        if value is not None and value.value is not None:
            interval = "" if value.low is None or value.high is None else f"\n({value.low:.2f} to {value.high:.2f})"
            text = f"AUROC {value.value:.2f}, mean of {value.n_folds} folds{interval}"
            axes.text(0.97, 0.05, text, ha="right", va="bottom", transform=axes.transAxes, fontsize=8.5)
    handles = [
        Line2D([], [], color=PALETTE[0], linewidth=2, label="mean over folds"),
        Line2D([], [], color=PALETTE[0], alpha=0.35, linewidth=0.9, label="a fold"),
        Line2D([], [], color=GREY, linestyle=":", label="chance"),
    ]
    title = f"ROC curves of the folds, {names[0]}" if len(names) == 1 else "ROC curves of the folds, class by class"
    finish(figure, title, _about(across), note, handles)
    return figure


def _about(across: AcrossFolds) -> str:
    n = sum(across.n_per_fold.values())
    about = [f"split: {across.split}"] if across.split != "all" else []
    about += [f"{len(across.n_per_fold)} folds", f"n = {n}" + ("" if across.level == "row" else f" {across.level}s")]
    if across.level == "row" and across.n_patients < n:
        about[-1] += f" of {across.n_patients} patients"
    return " · ".join(about)
