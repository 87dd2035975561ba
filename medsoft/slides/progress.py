"""Progress of a run over slides: a bar on a terminal, and one line per slide everywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

from rich.progress import Progress, TaskID, TextColumn

from medsoft.slides.encoding import prefetch as ahead
from medsoft.slides.encoding.busy import Busy
from medsoft.slides.folder import SlidesFolder
from medsoft.system.logging import event
from medsoft.system.progress import progress_bar
from medsoft.system.signals import STOPPING, Stopped, on_signals
from medsoft.system.terminal import plain_console


class Named(Protocol):
    """A slide or an image."""

    @property
    def id(self) -> str:
        """Its unique name."""


class Outcome(Protocol):
    """What became of a slide or an image (``SlideStatus``)."""

    @property
    def status(self) -> str:
        """In a word, such as "failed"."""

    @property
    def stage(self) -> str:
        """Where it failed."""

    @property
    def tiles(self) -> int | None:
        """Number of its tiles or tokens."""

    @property
    def unreadable(self) -> int | None:
        """How many of them could not be read."""

    @property
    def seconds(self) -> float | None:
        """That it took."""

    @property
    def kept(self) -> bool:
        """Whether an earlier run did the work."""

    @property
    def is_without_tiles(self) -> bool:
        """Whether nothing was found that could be tiled."""

    @property
    def in_words(self) -> str:
        """One line on what became of it."""


class SlidesProgress:
    """Counts slides and tiles, and says on standard output what became of each slide.

    A stop that is asked for is made here: between two batches of a slide that is encoded, else at once.

    Args:
        bar: on the terminal.
        task: of the bar.
        total: number of slides.
        told: slides, by id, of which nothing is to be said any more.
        words: what slides and tiles are called: ("images", "tokens").
        each: whether a line is written for each; else for those that failed, as there are many.

    Attributes:
        slides: how many are done in this run, whatever became of them.
        failed: how many of these failed.
        without_tiles: on how many of these nothing was found that could be tiled.
        tiles: how many are done.
        kept: slides that an earlier run did.
        busy: how busy reading and the model are, where something is encoded in this process.
    """

    def __init__(
        self,
        bar: Progress,
        task: TaskID,
        total: int,
        told: Collection[str] = (),
        words: tuple[str, str] = ("slides", "tiles"),
        each: bool = True,
    ) -> None:
        self._words, self._each = words, each
        self._bar, self._task, self._total, self._told = bar, task, total, told
        self._started = time.perf_counter()
        self._slide = ""
        self._within = False
        self._asked: int | None = None
        self._asked_at = 0.0
        self.slides = 0
        self.failed = 0
        self.without_tiles = 0
        self.tiles = 0
        self.kept = 0
        self.busy = Busy()

    def ask_to_stop(self, number: int) -> None:
        """A signal came: stop after the batch at hand, or now where there is none or it is the second one."""
        if self._asked is None and self._within:
            self._asked, self._asked_at = number, time.perf_counter()
            print("\nStopping after this batch; interrupt again to stop at once.", file=sys.stderr, flush=True)
            return
        self._stop(number)

    def look(self) -> None:
        """Stop if a signal asked for it, and the batch at hand does not come.

        Between slides a signal stops at once, unless its error was lost, as in a destructor, where Python prints it.
        """
        waited = time.perf_counter() - self._asked_at
        if self._asked is not None and (not self._within or waited > ahead.PATIENCE_SECONDS):
            self._stop(self._asked)

    def _stop(self, number: int) -> NoReturn:
        self._asked = number
        event("stop", "warning", signal=number, done=self.slides, total=self._total, failed=self.failed)
        failed = f", {self.failed} of them failed" if self.failed else ""
        raise Stopped(
            number,
            f"stopped: {self.slides} of {self._total} {self._words[0]} were done in this run{failed}; those at hand "
            "were left out. Run the same command again to continue",
        )

    def begin(self, source: Named, tiles: int) -> None:
        """The tiles of a slide will come now."""
        self._slide = f"{source.id}: {tiles} {self._words[1]}"
        self._within = True
        self._show()

    def advance(self, tiles: int) -> None:
        """So many tiles are done."""
        self.tiles += tiles
        self._show()
        if self._asked is not None:
            self._stop(self._asked)

    def done(self, source: Named, slide_status: Outcome) -> None:
        """A slide is done, whatever became of it."""
        self._within = False
        self.slides += 1
        self.failed += slide_status.status == "failed"
        self.without_tiles += slide_status.is_without_tiles
        self.kept += slide_status.kept
        event(
            self._words[0].removesuffix("s"),
            "error" if slide_status.status == "failed" else "info",
            number=self.slides,
            total=self._total,
            status=slide_status.status,
            stage=slide_status.stage,
            tiles=slide_status.tiles,
            unreadable=slide_status.unreadable,
            seconds=slide_status.seconds,
            kept=slide_status.kept,
            **self._shares(),
        )
        self._bar.advance(self._task)
        if source.id not in self._told and (self._each or slide_status.status == "failed"):
            line = f"{source.id}: {slide_status.in_words}"
            self._bar.console.print(line, soft_wrap=True)
        if self._asked is not None:
            self._stop(self._asked)

    def kept_in_words(self) -> str:
        """What to add to the number of slides: how many of them were left as they are."""
        return f" ({self.kept} kept from earlier runs)" if self.kept else ""

    def _shares(self) -> dict[str, float]:
        """How busy reading and the model were so far; nothing where neither was seen to work here."""
        reading, model = self.busy.shares
        return {"reading_busy": round(reading, 3), "model_busy": round(model, 3)} if model else {}

    def _show(self) -> None:
        rate = self.tiles / max(1e-9, time.perf_counter() - self._started)
        busy = "".join(f", {name.removesuffix('_busy')} {share:.0%}" for name, share in self._shares().items())
        self._bar.update(self._task, tiles=f"{self.tiles} {self._words[1]}, {rate:.3g}/s{busy}  {self._slide}")


def conclude(progress: SlidesProgress, folder: SlidesFolder) -> int:
    """Say at the end of a run what the user has to look at, and whether it was a success.

    A slide without tissue may be an empty one. Where most of a run have none, something is wrong with the run.

    Returns:
        The exit code: 0; 3 where slides failed, or where more than half have nothing that could be tiled.
    """
    if progress.failed:
        print(f"{progress.failed} failed: {folder.errors_csv}")
    if not progress.without_tiles:
        return 3 if progress.failed else 0
    most = 2 * progress.without_tiles > progress.slides
    number = f"{progress.without_tiles} of {progress.slides} slides"
    if not most:
        print(f"No tissue on {number}: look at their pictures in {folder.path / 'overviews'}")
        return 3 if progress.failed else 0
    print(
        f"NO TISSUE ON {number.upper()}: something is wrong with this run.\n"
        f"  Look at the pictures in {folder.path / 'overviews'}, and check the mpp in {folder.slides_csv}.\n"
        "  Pale stain: lower --tissue.min_saturation, --tissue.min_area_um2 or --min-tissue. Blue or green stain: "
        '--tissue.ink "".\n'
        "  Photographs, and regions cut out of slides: --tissue.method everything."
    )
    return 3


@contextmanager
def slides_progress(
    total: int,
    doing: str,
    told: Collection[str] = (),
    words: tuple[str, str] = ("slides", "tiles"),
    each: bool = True,
) -> Iterator[SlidesProgress]:
    """Show slides done and to do, tiles a second and the time left, while the block runs.

    Args:
        total: number of slides.
        doing: a word for the work, such as "tiling".
        told: slides, by id, of which an earlier step has said what became of them.
        words: as for ``SlidesProgress``.
        each: likewise.
    """
    with progress_bar(plain_console(), TextColumn("{task.fields[tiles]}", markup=False)) as bar:
        progress = SlidesProgress(
            bar, bar.add_task(f"{doing} {words[0]}", total=total, tiles=""), total, told, words, each
        )
        event("work", doing=doing, total=total)
        with on_signals(STOPPING, progress.ask_to_stop):
            yield progress
