"""How far a run over slides has come: a bar on a terminal, and a line a slide everywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from medsoft.slides.folder import Outcome
from medsoft.slides.sources import SlideSource


class SlidesProgress:
    """Counts slides and tiles, and says on standard output what became of each slide."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self._started = time.perf_counter()
        self._slide = ""
        self.slides = 0
        self.failed = 0
        self.tiles = 0

    def begin(self, source: SlideSource, tiles: int) -> None:
        """The tiles of a slide will come now."""
        self._slide = f"{source.id}: {tiles} tiles"
        self._show()

    def advance(self, tiles: int) -> None:
        """So many tiles are done."""
        self.tiles += tiles
        self._show()

    def done(self, source: SlideSource, outcome: Outcome) -> None:
        """A slide is done, whatever became of it."""
        self.slides += 1
        self.failed += outcome.status == "failed"
        self._bar.advance(self._task)
        line = f"{source.id}: {describe(outcome)}"
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show(self) -> None:
        rate = self.tiles / max(1e-9, time.perf_counter() - self._started)
        self._bar.update(self._task, tiles=f"{self.tiles} tiles, {rate:.3g}/s  {self._slide}")


def describe(outcome: Outcome) -> str:
    """One line on what became of a slide."""
    words = [f"{outcome.status} at {outcome.stage}" if outcome.stage else outcome.status]
    words += [f"{outcome.tiles} tiles"] if outcome.tiles else []
    words += [f"{outcome.unreadable} of them unreadable"] if outcome.unreadable else []
    words += [f"{outcome.tissue_mm2:.3g} mm² tissue"] if outcome.tissue_mm2 else []
    line = ", ".join(words) + (f": {outcome.reason}" if outcome.reason else "")
    return line + (f"; look at it: {outcome.warnings}" if outcome.warnings else "")


@contextmanager
def slides_progress(total: int, doing: str) -> Iterator[SlidesProgress]:
    """Show slides done and to do, tiles a second and the time left, while the block runs.

    Args:
        total: number of slides.
        doing: a word for the work, such as "tiling".
    """
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("slides"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[tiles]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield SlidesProgress(bar, bar.add_task(doing, total=total, tiles=""))
