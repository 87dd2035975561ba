"""Processes that load samples for a training or a prediction."""

from __future__ import annotations

import sys
from types import TracebackType

from medsoft.system.signals import leave_stops_to_parent


def begin_loader_process(worker: int) -> None:
    """What PyTorch calls first in each process of a loader.

    One thread each: OpenCV would take every core in each of them. A stop is its parent's to answer, which loads the
    batches of the step at hand to their end.

    Args:
        worker: its number.
    """
    import cv2

    cv2.setNumThreads(0)
    leave_stops_to_parent()
    sys.excepthook = report_error


def report_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print an error that nobody has caught, unless it is that the parent has left while a sample was handed over.

    Multiprocessing hands samples over in a thread of its own, whose errors come here. A parent that is stopped leaves.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)
