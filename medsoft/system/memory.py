"""How much memory can be had."""

from __future__ import annotations

from pathlib import Path

import psutil


def total_memory() -> int:
    """Bytes of this machine."""
    return int(psutil.virtual_memory().total)


def available_memory() -> int:
    """Bytes that are free on this machine, or that its container allows where that is less."""
    free = int(psutil.virtual_memory().available)
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()))
    return free
