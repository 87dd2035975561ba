"""Figures of survival: curves of the risk groups, calibration at each time, and AUC(t) and Brier(t) over time."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from medsoft.evaluation.figures.panels import Chart, Panel, with_interval
from medsoft.evaluation.figures.style import GREY, PALETTE, band, explain_marks, write_in_corner
from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.part import Part
from medsoft.evaluation.survival.calibration import CalibrationAt
from medsoft.evaluation.survival.findings import SurvivalFindings
from medsoft.evaluation.survival.product_limit import KaplanMeier
from medsoft.evaluation.survival.risk_groups import RiskGroups

FloatArray = npt.NDArray[np.float64]

LINE, FIRST = 0.075, 0.1
"""Height of a line of the numbers at risk, and where the first stands below 0."""
SEEN = 0.002
"""Steps of a curve that are smaller together are drawn as one: nobody sees them, and each is a point of the file."""
MOST_TICKS = 150
"""More censored samples would hide the curve."""
MOST_PANELS = 4
CLEAR = 1.3
"""Of the largest share in a panel of calibration: where its axes end."""
COLOURS = (PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3], PALETTE[4])


def groups_chart(part: Part) -> Chart | None:
    """Kaplan-Meier curves of the risk groups, with bands, numbers at risk and the log-rank test; None without rows."""
    if (found := part.survival) is None:
        return None
    said = [f"Risk groups: {found.groups.note or found.groups.cut.said}."]
    said.append("Bands: Greenwood, on the scale of log(−log S). Below: the numbers at risk at each time.")
    drawn = [g for g in found.groups.groups if g.curve is not None]
    if 0 < sum(int(g.curve.censored.sum()) for g in drawn if g.curve is not None) <= MOST_TICKS:
        said.append("Ticks: censored.")
    words = "; ".join([*(f"{g.name}: {g.events} events in {g.n}" for g in drawn), found.groups.test.said])
    panel = Panel("", partial(_groups, found=found), words, " ".join(said))
    remark = "" if found.groups.note else found.groups.cut.said
    return Chart("risk_groups", "Survival by risk group", "Survival by risk group", (panel,), remark, height=3.4)


def calibration_chart(part: Part) -> Chart | None:
    """A panel a time: groups of rows, predicted against observed; None where no survival was predicted."""
    if (found := part.survival) is None or not found.calibration:
        return None
    shown = found.calibration
    if len(shown) > MOST_PANELS:
        shown = tuple(shown[round(at)] for at in np.linspace(0, len(shown) - 1, MOST_PANELS))
    panels = []
    for one in shown:
        ratio = part.find("oe_at", time=one.time)
        words = f"observed / expected {with_interval(ratio)}"
        name = f"Calibration {at_time(one.time, found.unit)}"
        panels.append(Panel(name, partial(_calibration, found=one, ratio=ratio), words))
    title = panels[0].name if len(panels) == 1 else "Calibration at stated times"
    return Chart("survival_calibration", "Calibration", title, tuple(panels))


def over_time_chart(part: Part) -> Chart | None:
    """AUC(t), and Brier(t) where survival was predicted, against time; None where neither is defined."""
    found = part.survival
    panels = []
    if found is not None and found.auc is not None:
        at = [e for e in part.estimates if e.metric == "auc_at" and e.value is not None]
        words = "; ".join(f"{at_time(e.time or 0, found.unit)} {with_interval(e)}" for e in at)
        panels.append(Panel("AUC(t)", partial(_auc, found=found, at=at), words or "undefined at the stated times"))
    scores = [e for e in part.estimates if e.metric == "brier_at" and e.value is not None]
    if found is not None and scores:
        words = "; ".join(f"{at_time(e.time or 0, found.unit)} {with_interval(e)}" for e in scores)
        panels.append(Panel("Brier(t)", partial(_brier, found=found, scores=scores, part=part), words))
    if not panels:
        return None
    title = " and ".join(panel.name for panel in panels) + " over time"
    return Chart("over_time", title if len(panels) == 1 else "Over time", title, tuple(panels))


def at_time(time: float, unit: str) -> str:
    """``at 365 days``."""
    return f"at {time:g} {unit}".rstrip()


def _time_label(unit: str) -> str:
    return f"time ({unit})" if unit else "time"


def _groups(axes: Axes, found: SurvivalFindings) -> list[Artist]:
    groups: RiskGroups = found.groups
    handles: list[Artist] = []
    axes.text(0, -FIRST / 2, "at risk", color=GREY, fontsize=8, ha="left", va="center")
    last = max(float(group.curve.time[-1]) for group in groups.groups if group.curve is not None)
    shaded: Artist | None = None
    n_censored = sum(int(g.curve.censored.sum()) for g in groups.groups if g.curve is not None)
    for index, group in enumerate(groups.groups):
        colour, level = COLOURS[index], -FIRST - LINE * index
        for time, n in zip(groups.times, group.at_risk, strict=True):
            side: Any = "left" if time == 0 else "right" if time > 0.97 * last else "center"
            axes.text(time, level, f"{n}", color=colour, fontsize=8, ha=side, va="center")
        if group.curve is None:
            continue
        x, y, low, high = _steps(group.curve)
        shaded = axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0, step="post")
        label = f"{group.name} (n = {group.n}, {group.events} event{'' if group.events == 1 else 's'})"
        handles += axes.plot(x, y, color=colour, drawstyle="steps-post", label=label)
        if 0 < n_censored <= MOST_TICKS:
            there = group.curve.censored > 0
            axes.plot(
                group.curve.time[there],
                group.curve.survival[there],
                color=colour,
                marker="|",
                markersize=5,
                linestyle="",
            )
    if shaded is not None:
        shaded.set_label("pointwise band")
        handles.append(shaded)
    bottom = -FIRST - LINE * len(groups.groups)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(xlim=(-0.01 * last, 1.02 * last), ylim=(bottom, 1.02))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_xticks(groups.times)
    axes.set(xlabel=_time_label(found.unit), ylabel="without the event")
    test = groups.test
    corner = test.said.replace(" (", "\n(") if test.p is not None else "no log-rank test"
    lowest = min(float(g.curve.survival[-1]) for g in groups.groups if g.curve is not None)
    axes.text(
        0.03 if lowest > 0.3 else 0.97,
        0.97 if lowest <= 0.3 else 0.3,
        corner,
        transform=axes.transAxes,
        fontsize=8.5,
        ha="left" if lowest > 0.3 else "right",
        va="top",
    )
    return handles


def _steps(curve: KaplanMeier) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """The curve's corners from time 0, and its band, without steps that nobody can see."""
    kept = [0] if curve.survival[0] < 1 else []
    reached = float(curve.survival[0])
    for at in range(1, len(curve.time)):
        if reached - curve.survival[at] >= SEEN or (curve.survival[at] == 0 and reached > 0):
            kept.append(at)
            reached = float(curve.survival[at])
    last = len(curve.time) - 1
    if last not in kept:
        kept.append(last)
    start = np.array([0.0]), np.array([1.0]), np.array([np.nan]), np.array([np.nan])
    columns = (curve.time, curve.survival, curve.low, curve.high)
    x, y, low, high = (np.concatenate([first, column[kept]]) for first, column in zip(start, columns, strict=True))
    return x, y, low, high


def _calibration(axes: Axes, found: CalibrationAt, ratio: Estimate | None) -> list[Artist]:
    known = [group for group in found.groups if group.observed is not None]
    observed = [group.observed for group in found.groups if group.observed is not None]
    highest = max([*(group.predicted for group in found.groups), *observed])
    ends = [group.high for group in known if group.high is not None]
    top = CLEAR * max([highest, *ends, 0.05])  # the lines of text stand above all bars
    ideal = axes.plot([0, min(1, top)], [0, min(1, top)], color=GREY, linestyle=":", linewidth=1, label="calibrated")
    bars = [(g.predicted, g.low, g.high) for g in known if g.low is not None and g.high is not None]
    if bars:
        x, low, high = zip(*bars, strict=True)
        axes.vlines(x, low, high, color=PALETTE[0], alpha=0.45, linewidth=1)
    look: dict[str, Any] = {"color": PALETTE[0], "marker": "o", "markersize": 4, "linewidth": 1.2}
    line = axes.plot([g.predicted for g in known], observed, label="groups of rows", **look)[0]
    explain_marks(line, [f"{g.n} rows: predicted {g.predicted:.3f}, observed {g.observed:.3f}" for g in known])
    axes.set(xlim=(-0.02 * top, top), ylim=(-0.02 * top, top), aspect="equal", anchor="NW")
    ticks = [tick for tick in axes.get_yticks() if 0 <= tick <= min(1, top)]
    axes.set(xticks=ticks, yticks=ticks, xlabel="predicted share with the event", ylabel="observed (Kaplan-Meier)")
    write_in_corner(axes, f"observed / expected\n{with_interval(ratio, 2)}", "upper left")
    return [line, *ideal]


def _auc(axes: Axes, found: SurvivalFindings, at: list[Estimate]) -> list[Artist]:
    curve = found.auc
    assert curve is not None
    handles: list[Artist] = [*axes.plot(curve.x, curve.y, color=PALETTE[0], label="AUC(t)", zorder=2.2)]
    if len(curve.low):
        handles.append(band(axes, curve.x, curve.low, curve.high))
    handles.append(axes.axhline(0.5, color=GREY, linestyle=":", linewidth=1, label="chance"))
    if at:
        look: dict[str, Any] = {"color": PALETTE[1], "marker": "o", "markersize": 4.5, "linestyle": "", "zorder": 3}
        times, values = [e.time for e in at], [e.value for e in at]
        marks = axes.plot(np.array(times, np.float64), np.array(values, np.float64), label="stated times", **look)[0]
        explain_marks(marks, [f"{at_time(e.time or 0, found.unit)}: {with_interval(e)}" for e in at])
        handles.append(marks)
    lowest = min([float(np.nanmin(curve.y)), *([float(curve.low.min())] if len(curve.low) else [])])
    axes.set(ylim=(min(0.4, lowest - 0.02), 1.02), xlabel=_time_label(found.unit), ylabel="AUC(t)")
    return handles


def _brier(axes: Axes, found: SurvivalFindings, scores: list[Estimate], part: Part) -> list[Artist]:
    times = np.array([e.time for e in scores], np.float64)
    values = np.array([e.value for e in scores], np.float64)
    handles: list[Artist] = []
    bars = [(e.time, e.low, e.high) for e in scores if e.low is not None and e.high is not None]
    if bars:
        x, low, high = (np.array(column, np.float64) for column in zip(*bars, strict=True))
        axes.vlines(x, low, high, color=PALETTE[0], alpha=0.45, linewidth=1)
    line = axes.plot(times, values, color=PALETTE[0], marker="o", markersize=4, label="the model")[0]
    explain_marks(line, [f"{at_time(e.time or 0, found.unit)}: {with_interval(e)}" for e in scores])
    handles.append(line)
    if found.null_brier:
        x_null = np.array(list(found.null_brier), np.float64)
        look: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.1, "marker": "s", "markersize": 4}
        handles += axes.plot(x_null, list(found.null_brier.values()), label="the same survival for all", **look)
    highest = max([*values, *found.null_brier.values(), *(bar[2] or 0 for bar in bars)])
    axes.set(ylim=(0, 1.15 * highest or 1), xlabel=_time_label(found.unit), ylabel="Brier(t)")
    whole = part.find("integrated_brier")
    if whole is not None and whole.value is not None:
        write_in_corner(axes, f"integrated {with_interval(whole)}".replace(" (", "\n("), "lower right")
    return handles
