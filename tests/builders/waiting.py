"""Waiting for what another process or thread does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

LIMIT_SECONDS = int(os.environ.get("MEDSOFT_TEST_LIMIT", "600"))
"""Ends a test that hangs, and decides nothing else: a busy machine may be a hundred times as slow as an idle one."""


class Process(Protocol):
    """``subprocess.Popen``, or what is as good."""

    returncode: Any

    def poll(self) -> int | None: ...

    def communicate(self) -> tuple[Any, Any]: ...


def wait_until(true: Callable[[], object], process: Process | None = None) -> None:
    """Wait until something is so; if a process is named that is to bring it about, no longer than it lives."""
    end = time.monotonic() + LIMIT_SECONDS
    while not true():
        if process is not None and process.poll() is not None and not true():
            raise AssertionError(f"the process has ended with {process.returncode}: {process.communicate()}")
        if time.monotonic() > end:
            raise AssertionError("this never came to be")
        time.sleep(0.02)
