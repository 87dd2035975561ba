"""One look for all pictures: restrained, legible in print, and safe for colour-blind readers."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from medsoft.storage.files import replacing
from medsoft.task import Task

DPI = 200
INK, GREY, FAINT = "#222222", "#767676", "#E6E6E6"
# Paul Tol's "muted" scheme (personal.sron.nl/~pault), told apart with any colour vision; darkest first.
PALETTE = ("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#DDCC77", "#44AA99", "#AA4499", "#999933")
LINE_STYLES = ("-", "--", ":", "-.")  # a tenth class gets the first colour again, dashed

_RC: Any = {  # Matplotlib types the keys as one long Literal
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a class name or an id is a dollar sign
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "figure.facecolor": "white",
}

MARKS = "marks:"
"""How the id of an artist begins that says what its marks are; see ``explain_marks``."""

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Let a function that makes a figure do so in the common look, and leave Matplotlib's settings as they were."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with rc_context(_RC):
            return draw(*args, **kwargs)

    return inside


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (sizes in inches) whose layout keeps labels, legends and captions apart."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def save(figure: Figure, out: Path | str) -> Path:
    """Write the figure as PNG, whole or not at all, grown or cropped to what it holds."""
    with replacing(Path(out)) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
    return Path(out)


def caption(figure: Figure, title: str, facts: str, note: str = "") -> None:
    """Title and facts above the panels, the note below them."""
    width = int(figure.get_figwidth() * 13)  # characters of the title's size in an inch
    lines = [textwrap.fill(line, width) for line in (title, facts) if line]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)
    if note:
        # The figure's x label is the only text below the panels for which the layout makes room.
        figure.supxlabel(textwrap.fill(note, int(width * 1.3)), x=0.01, ha="left", fontsize=7.5, color=GREY)


def write_below(figure: Figure, note: str) -> None:
    """Write a note below the figure's lower edge, clear of a legend there: ``save`` grows the picture to hold it."""
    text = textwrap.fill(note, int(figure.get_figwidth() * 13 * 1.3))
    figure.text(0.01, -0.01, text, ha="left", va="top", fontsize=7.5, color=GREY)


def band(axes: Axes, x: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> Artist:
    """The pointwise bootstrap band of a curve in the first colour, with its name for the legend."""
    label = "bootstrap band, pointwise"
    return axes.fill_between(x, low, high, color=PALETTE[0], alpha=0.16, linewidth=0, label=label)


def explain_marks(line: Artist, texts: Sequence[str]) -> None:
    """Say what each mark of a line is: the report shows it where a pointer rests on the mark; a PNG cannot."""
    line.set_gid(MARKS + json.dumps(list(texts), ensure_ascii=False))


def write_in_corner(
    axes: Axes, text: str, corner: Literal["upper left", "upper right", "lower left", "lower right"]
) -> None:
    """Write lines of text into a corner of a panel."""
    vertical, horizontal = corner.split()
    x, y = 0.03 if horizontal == "left" else 0.97, 0.97 if vertical == "upper" else 0.05
    aligned: Any = {"ha": horizontal, "va": "top" if vertical == "upper" else "bottom"}
    axes.text(x, y, text, transform=axes.transAxes, fontsize=8.5, **aligned)


def facts(frame: pd.DataFrame, task: Task) -> str:
    """Which rows a picture shows: split, number, folds, and how many were left out."""
    known_N = task.known(frame)
    splits = [name for name in frame["split"].unique() if name]
    folds = [name for name in frame["fold"].unique() if name]
    parts = [f"split: {', '.join(splits)}"] if splits else []
    parts += [f"fold {folds[0]}" if len(folds) == 1 else f"{len(folds)} folds together"] if folds else []
    parts += [f"n = {known_N.sum()}"]
    parts += [f"{(~known_N).sum()} without target left out"] if not known_N.all() else []
    return " · ".join(parts)


def looks(task: Task) -> list[tuple[str, str]]:
    """Colour and line style of each class: an ordered scale for ordered classes."""
    n = len(task.classes)
    if task.ordered:
        # The yellow end of the scale does not show on white.
        return [(to_hex(colormaps["viridis"](0.88 * index / max(n - 1, 1))), "-") for index in range(n)]
    return [
        (PALETTE[index % len(PALETTE)], LINE_STYLES[index // len(PALETTE) % len(LINE_STYLES)]) for index in range(n)
    ]


def shortened(name: str, width: int = 24, lines: int = 2) -> str:
    """A name in at most ``lines`` lines of ``width`` characters; it may break after a "_", the rest is an ellipsis."""
    text = textwrap.wrap(name.replace("_", "_ "), width, max_lines=lines, placeholder=" …")
    return "\n".join(text).replace("_ ", "_") or name


def longest_line(names: Sequence[str]) -> int:
    """Characters of the longest line of all names."""
    return max((len(line) for name in names for line in name.split("\n")), default=0)
