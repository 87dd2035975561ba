"""Signals that ask for a stop: who answers them, for how long, and the exception that carries the stop out."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

SIGUSR1: int | None = getattr(signal, "SIGUSR1", None)
"""What SLURM is told to send ahead of a job's end; Windows has none."""
SENT_TO_JOBS = tuple(number for number in (SIGUSR1,) if number is not None)
"""What reaches every process of a job, and is for the one that the job has started."""
STOPPING = tuple(number for number in (signal.SIGINT, signal.SIGTERM, SIGUSR1) if number is not None)
"""Signals that ask for a stop: the user's, and those that clusters send ahead of the end of a job."""


class Stopped(BaseException):
    """The user or the cluster asked for a stop, and it was made in order.

    It is no ``Exception``, so that code that catches the errors of single samples lets it pass, and no
    ``KeyboardInterrupt``, which Lightning answers by ending the process.

    Attributes:
        signal: number of the signal that asked; a verb's exit code is 128 more.

    Args:
        signal_number: as the attribute.
        message: what was done before the stop; by default the signal's name.
    """

    def __init__(self, signal_number: int, message: str = "") -> None:
        super().__init__(message or signal.Signals(signal_number).name)
        self.signal = signal_number


@contextmanager
def on_signals(numbers: Iterable[int], do: Callable[[int], None]) -> Iterator[None]:
    """Call a function when one of some signals comes while the block runs; the handlers of before come back after it.

    They come back unless somebody else has set a handler meanwhile, such as Lightning, which restores those of before a
    training ahead of the callbacks' end. Outside of the main thread, where Python allows no handlers, nothing changes.
    Processes that are forked in the block (workers of loaders, pools) do not call it: their parent stops them.

    Args:
        numbers: of the signals.
        do: called in the main thread with the number of the signal; what it raises is raised in the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    own_process = os.getpid()

    def answer(number: int, frame: Any) -> None:
        if os.getpid() == own_process:
            do(number)
        elif number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    try:
        for number in numbers:
            before[number] = signal.signal(number, answer)
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is answer:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python


@contextmanager
def not_for_children(numbers: Iterable[int]) -> Iterator[None]:
    """Keep signals from the processes that threads start which begin in the block; this process answers them after it.

    Threads inherit which signals are blocked, and so do processes, for good, where a handler would be lost. SLURM sends
    SIGUSR1 to every process of a job, which ends those that do not expect it.

    Args:
        numbers: of the signals.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(numbers))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_stops_to_parent() -> None:
    """Let this process, one that works for its parent, go on where the terminal or the cluster asks all for a stop.

    SLURM sends its signals to every process of a job. The parent answers them, and still needs what its processes do,
    for the step at hand. SIGTERM of the parent itself ends this process at once, and so does SIGKILL of anybody.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS and Windows, which no cluster sends signals to
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # Who has sent a signal is told to those alone who wait for it, and it must be blocked meanwhile.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def stopping_at_once() -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM end the block with ``Stopped``; a training in it may answer them meanwhile.

    For verbs of several trainings, all of whose steps must end with the same exit code.

    Yields:
        The numbers of signals that came: one whose exception was lost, as in a destructor, can still be answered.
    """
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        raise Stopped(number)

    with on_signals((signal.SIGINT, signal.SIGTERM), stop):
        yield came
