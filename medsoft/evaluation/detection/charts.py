"""The FROC curve: sensitivity against false positives per image, with a band."""

from __future__ import annotations

from functools import partial

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from medsoft.evaluation.detection.measures import RATES
from medsoft.evaluation.figures.panels import Chart, Panel, on_two_lines, with_interval
from medsoft.evaluation.figures.style import GREY, PALETTE, band, write_in_corner
from medsoft.evaluation.intervals.curve import Curve
from medsoft.evaluation.intervals.estimates import Estimate
from medsoft.evaluation.part import Part

ALL = "all classes"


def froc_chart(part: Part) -> Chart | None:
    """A panel for all classes together, and one a class where there are several; None without a true box."""
    if not part.froc:
        return None
    panels = []
    for name, curve in part.froc.items():
        found = part.find("froc", class_name=name)
        title = name or (ALL if len(part.froc) > 1 else "")
        panels.append(Panel(title, partial(_panel, curve=curve, found=found), f"FROC score {with_interval(found)}"))
    return Chart("froc", "FROC", "Sensitivity against false positives per image", tuple(panels))


def _panel(axes: Axes, curve: Curve, found: Estimate | None) -> list[Artist]:
    handles: list[Artist] = [
        *axes.plot(curve.x, curve.y, color=PALETTE[0], drawstyle="steps-post", label="model", zorder=2.2)
    ]
    if len(curve.low):
        handles.append(band(axes, curve.x, curve.low, curve.high))
    for rate in RATES.values():
        axes.axvline(rate, color=GREY, linewidth=0.5, linestyle=":", zorder=1)
    axes.set_xscale("log", base=2)
    axes.set(xlim=(curve.x[0], curve.x[-1]), ylim=(-0.02, 1.02))
    axes.set(xlabel="false positives per image", ylabel="sensitivity (IoU 0.5)")
    axes.xaxis.set_major_locator(FixedLocator(list(RATES.values())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:.0f}"))
    if found is not None and found.value is not None:
        write_in_corner(axes, on_two_lines("FROC score", found), "lower right")
    return handles
