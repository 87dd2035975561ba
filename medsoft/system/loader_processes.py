"""Processes that load samples for a training or a prediction."""

from __future__ import annotations

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
