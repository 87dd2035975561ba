"""How far a step has come: a bar on a terminal, else a line now and then, so that no long step is silent.

A step that ends at once shows nothing. Everything goes to standard error; machine logs get an event for each long step.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from medsoft.system.logging import event

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

Item = TypeVar("Item")

BAR_SECONDS = 0.5
"""Until a step has a bar on a terminal."""

FIRST_SECONDS = 2.0
"""Until a step has its first line elsewhere."""

LINE_SECONDS = 30.0
"""From one line to the next."""

_under_way = threading.Lock()


@contextmanager
def progress(doing: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show how far a step is while the block runs. A step within another one is part of that one.

    Args:
        doing: the step in words of medsoft's own, such as "reading pictures".
        total: how many parts it has; None where that is not known.

    Yields:
        A function to call after each part; it may be called from several threads.
    """
    one_at_a_time = _under_way
    if _is_further_process() or not one_at_a_time.acquire(blocking=False):
        yield lambda: None
        return
    step = _Step(doing, total)
    shown = threading.Thread(target=step.show, daemon=True)
    shown.start()
    try:
        yield step.advance
    finally:
        step.ended.set()
        shown.join()
        one_at_a_time.release()
        if step.seconds >= FIRST_SECONDS:
            event("step", doing=doing, total=total, seconds=round(step.seconds, 1))


def tracked(items: Iterable[Item], doing: str, total: int | None) -> Iterator[Item]:
    """The items as they come, while it is shown how many are done."""
    with progress(doing, total) as step:
        for item in items:
            yield item
            step()


class _Step:
    def __init__(self, doing: str, total: int | None) -> None:
        self.doing, self.total, self.done = doing, total, 0
        self.ended = threading.Event()
        self._since = time.monotonic()
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._since

    def advance(self) -> None:
        with self._lock:
            self.done += 1

    def show(self) -> None:
        """Runs beside the step, so that one in a single piece is seen too."""
        if sys.stderr.isatty():
            self._draw()
            return
        wait = FIRST_SECONDS
        while not self.ended.wait(wait):
            _say(progress_line(self.doing, self.done, self.total, self.seconds))
            wait = LINE_SECONDS

    def _draw(self) -> None:
        from medsoft.system.terminal import plain_console

        if self.ended.wait(BAR_SECONDS):
            return
        with progress_bar(plain_console(stderr=True)) as bar:
            task = bar.add_task(self.doing, total=self.total, completed=self.done)
            while not self.ended.wait(0.1):
                bar.update(task, completed=self.done)


def progress_bar(console: Console, *columns: ProgressColumn) -> Progress:
    """A bar with the parts done and the time left, which goes when all is done; nothing without a terminal.

    Args:
        console: where it is drawn.
        columns: beside it.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    ours = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*ours, *columns, console=console, transient=True, disable=not console.is_terminal)


def progress_line(doing: str, done: int, total: int | None, seconds: float) -> str:
    """One line on a step, with the time left where that can be said.

    Args:
        doing: the step.
        done: parts that are done.
        total: all parts; None where their number is not known.
        seconds: since it began.
    """
    if total is None:
        return f"{doing}: {in_words(seconds)} so far"
    left = f", about {in_words(seconds / done * (total - done))} left" if done else ""
    return f"{doing}: {done} of {total}{left}"


def in_words(seconds: float) -> str:
    """A time in the largest unit that gives at least two: 90 s, 3 min, 2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


class Pace:
    """When it is time for another line, for work that calls back instead of running in a block."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new step begins."""
        self._since = self._said = time.monotonic()
        self._wait = FIRST_SECONDS

    def line(self, doing: str, done: int, total: int | None) -> str | None:
        """The line that is due now, else None."""
        now = time.monotonic()
        if now - self._said < self._wait:
            return None
        self._said, self._wait = now, LINE_SECONDS
        return progress_line(doing, done, total, now - self._since)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _is_further_process() -> bool:
    """Whether another process of the same training speaks for this one."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("LOCAL_RANK", "RANK"))
