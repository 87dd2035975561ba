"""How far a run over slides has come: a bar on a terminal, and a line a slide everywhere."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from medsoft.errors import Stopped
from medsoft.logs import event
from medsoft.slides.folder import Outcome
from medsoft.slides.sources import SlideSource


class SlidesProgress:
    """Counts slides and tiles, and says on standard output what became of each slide.

    A stop that is asked for is made here: between two batches of a slide that is encoded, else at once.

    Attributes:
        slides: how many are done in this run, whatever became of them.
        failed: how many of these failed.
        tiles: how many are done.
        kept: slides that an earlier run did.
    """

    def __init__(self, bar: Progress, task: TaskID, total: int, told: Collection[str] = ()) -> None:
        self._bar, self._task, self._total, self._told = bar, task, total, told
        self._started = time.perf_counter()
        self._slide = ""
        self._within = False
        self._asked: int | None = None
        self.slides = 0
        self.failed = 0
        self.tiles = 0
        self.kept = 0

    def ask_to_stop(self, number: int) -> None:
        """A signal came: stop after the batch at hand, or now where there is none or it is the second one."""
        if self._asked is None and self._within:
            self._asked = number
            print("\nStopping after this batch; once more to stop at once.", file=sys.stderr, flush=True)
            return
        self._stop(number)

    def _stop(self, number: int) -> NoReturn:
        event("stop", "warning", signal=number, done=self.slides, total=self._total, failed=self.failed)
        failed = f", {self.failed} of them failed" if self.failed else ""
        raise Stopped(
            number,
            f"stopped: {self.slides} of {self._total} slides were done in this run{failed}; those at hand were left "
            "out. Start the same command again to go on",
        )

    def begin(self, source: SlideSource, tiles: int) -> None:
        """The tiles of a slide will come now."""
        self._slide = f"{source.id}: {tiles} tiles"
        self._within = True
        self._show()

    def advance(self, tiles: int) -> None:
        """So many tiles are done."""
        self.tiles += tiles
        self._show()
        if self._asked is not None:
            self._stop(self._asked)

    def done(self, source: SlideSource, outcome: Outcome) -> None:
        """A slide is done, whatever became of it."""
        self._within = False
        self.slides += 1
        self.failed += outcome.status == "failed"
        self.kept += outcome.kept
        event(
            "slide",
            "error" if outcome.status == "failed" else "info",
            number=self.slides,
            total=self._total,
            status=outcome.status,
            stage=outcome.stage,
            tiles=outcome.tiles,
            unreadable=outcome.unreadable,
            seconds=outcome.seconds,
            kept=outcome.kept,
        )
        self._bar.advance(self._task)
        if source.id not in self._told:
            line = f"{source.id}: {describe(outcome)}"
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        if self._asked is not None:
            self._stop(self._asked)

    def kept_in_words(self) -> str:
        """What to add to the number of slides: how many of them were left as they are."""
        return f" ({self.kept} kept from earlier runs)" if self.kept else ""

    def _show(self) -> None:
        rate = self.tiles / max(1e-9, time.perf_counter() - self._started)
        self._bar.update(self._task, tiles=f"{self.tiles} tiles, {rate:.3g}/s  {self._slide}")


def describe(outcome: Outcome) -> str:
    """One line on what became of a slide."""
    words = [f"{outcome.status} at {outcome.stage}" if outcome.stage else outcome.status]
    words += [f"{outcome.tiles} tiles"] if outcome.tiles else []
    words += [f"{outcome.unreadable} of them unreadable"] if outcome.unreadable else []
    words += [f"{outcome.tissue_mm2:.3g} mm² tissue"] if outcome.tissue_mm2 else []
    line = ("kept, " if outcome.kept else "") + ", ".join(words) + (f": {outcome.reason}" if outcome.reason else "")
    return line + (f"; look at it: {outcome.warnings}" if outcome.warnings else "")


@contextmanager
def slides_progress(total: int, doing: str, told: Collection[str] = ()) -> Iterator[SlidesProgress]:
    """Show slides done and to do, tiles a second and the time left, while the block runs.

    Args:
        total: number of slides.
        doing: a word for the work, such as "tiling".
        told: slides, by id, of which an earlier step has said what became of them.
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
        progress = SlidesProgress(bar, bar.add_task(doing, total=total, tiles=""), total, told)
        event("work", doing=doing, total=total)
        with _stopped_in_order(progress):
            yield progress


@contextmanager
def _stopped_in_order(progress: SlidesProgress) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM ask the progress to stop, and SIGUSR1, by which SLURM says that a job's time is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        progress.ask_to_stop(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
