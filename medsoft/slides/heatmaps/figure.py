"""Draws a heatmap: the slide beside its overlay, with colour bar, scale bar and the contributions to the logit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from shapely import Polygon

from medsoft.evaluation.figures.style import DPI, INK, caption, new_figure, save, shortened, styled
from medsoft.slides.heatmaps.heatmap import COLOURS, OPACITY, Heatmap, Pixels

PANEL_INCHES = 5.0
"""Longer side of a panel."""

BAR_INCHES = 0.15
"""Width of the colour bar."""

WIDE = 1.5
"""Slides wider than this many heights are shown one above the other."""


def write_picture(
    path: Path,
    heatmap: Heatmap,
    coloured: Pixels,
    thumbnail: Pixels | None,
    outlines: Sequence[Polygon] = (),
    note: str = "",
) -> Path:
    """Write the picture of a heatmap as PNG.

    Args:
        path: the file.
        heatmap: for the words and scales.
        coloured: the map over the slide (H, W, 3).
        thumbnail: the slide (H, W, 3); without one the map stands alone.
        outlines: polygons to draw over the map, in level-0 pixels.
        note: below the panels.
    """
    return save(figure_heatmap(heatmap, coloured, thumbnail, outlines, note), path)


@styled
def figure_heatmap(
    heatmap: Heatmap,
    coloured: Pixels,
    thumbnail: Pixels | None,
    outlines: Sequence[Polygon] = (),
    note: str = "",
) -> Figure:
    """The picture as a figure; arguments as for ``write_picture``."""
    height, width = coloured.shape[:2]
    inches = PANEL_INCHES / max(height, width)
    panels = 1 if thumbnail is None else 2
    stacked = width > WIDE * height
    rows, columns = (panels, 1) if stacked else (1, panels)
    # Narrow slides still need room for the words above them.
    figure = new_figure(max(columns * width * inches + 1.2, 6.5), rows * (height * inches + 0.4) + 1.1)
    if thumbnail is not None:
        _panel(figure.add_subplot(rows, columns, 1), thumbnail, heatmap)
    axes = figure.add_subplot(rows, columns, panels)
    _panel(axes, coloured, heatmap)
    x, y, view_width, view_height = heatmap.view_px0
    scale = np.array([width, height]) / (view_width, view_height)
    for polygon in outlines:
        for ring in (polygon.exterior, *polygon.interiors):
            closed = (np.asarray(ring.coords) - (x, y)) * scale - 0.5
            axes.plot(*closed.T, color=INK, linewidth=0.7)
    _colour_bar(figure, axes, heatmap, BAR_INCHES / (width * inches))
    facts = logit_in_words(heatmap)
    if heatmap.probability is not None:
        facts = f"P({shortened(heatmap.name, 40, 1)}) = {heatmap.probability:.3f} · {facts}"
    facts = " · ".join(filter(None, (facts, heatmap.unfamiliar)))
    what = f"what each tile adds to the {heatmap.quantity}"
    if heatmap.attention_of:
        what = f"{heatmap.quantity}, which is no contribution to the answer"
    caption(figure, f"{heatmap.id}: {what}", facts, note)
    return figure


def logit_in_words(heatmap: Heatmap) -> str:
    """The logit, or a regression's prediction, and its parts: ``logit 1.20 = bias 0.10 + tiles 1.10``."""
    if heatmap.attention_of:
        return f"logit {heatmap.logit:.2f}".replace("-", "−")
    parts = {**heatmap.parts, f"{len(heatmap.contributions_N):,} tiles": float(heatmap.contributions_N.sum())}
    words = [f"{name} {value:+.2f}".replace("-", "−") for name, value in parts.items()]
    return f"{heatmap.quantity.split()[0]} {heatmap.logit:.2f} = ".replace("-", "−") + ", ".join(words)


def scale_bar_mm(width_mm: float) -> float:
    """The longest of 1, 2 and 5 times a power of ten that is at most a third of the width."""
    power = 10.0 ** math.floor(math.log10(width_mm / 3))
    return next(step * power for step in (5, 2, 1) if step * power <= width_mm / 3 * (1 + 1e-9))


def _panel(axes: Axes, pixels: Pixels, heatmap: Heatmap) -> None:
    height, width = pixels.shape[:2]
    shrunk = PANEL_INCHES * DPI / max(height, width)
    if shrunk < 1:  # Matplotlib's own reduction takes many times the memory
        size = (max(1, round(width * shrunk)), max(1, round(height * shrunk)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    axes.imshow(pixels, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color="#CCCCCC", linewidth=0.5)
    width_mm = heatmap.view_px0[2] * heatmap.mpp / 1000
    length_mm = scale_bar_mm(width_mm)
    y = height + 0.025 * max(height, width)
    axes.plot([0, width * length_mm / width_mm], [y, y], color=INK, linewidth=2, clip_on=False, solid_capstyle="butt")
    axes.annotate(
        f"{length_mm:g} mm",
        (width * length_mm / width_mm, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        annotation_clip=False,
    )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _colour_bar(figure: Figure, axes: Axes, heatmap: Heatmap, width: float) -> None:
    """A bar as high as the map beside it, its width in widths of the map."""
    limit = heatmap.limit
    clipped = bool((np.abs(heatmap.contributions_N) > limit).any())
    bar = figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), COLOURS),
        cax=axes.inset_axes((1 + width, 0.0, width, 1.0)),
        alpha=OPACITY,  # as the map lies over the slide
        extend="both" if clipped else "neither",
    )
    bar.outline.set_visible(False)
    of_what = "" if heatmap.attention_of else "contribution of a tile to the "
    bar.set_label(f"{of_what}{shortened(heatmap.quantity, 49, 1)}")
