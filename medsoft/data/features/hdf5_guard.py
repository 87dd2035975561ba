"""Checks in a separate process whether the HDF5 library can read a file without crashing or hanging.

A damaged B-tree can send the library round in a circle, within a call that never returns. One process for all files
touches each of them first (``medsoft.data.features.hdf5_child``); what was seen to end well is not touched again while
size, time and inode stay. It starts in a sixth of a second, and costs about a millisecond a file.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import stat
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from medsoft.errors import BagError
from medsoft.system.child_processes import child_environment, python_script

CHILD = Path(__file__).with_name("hdf5_child.py")
Key = tuple[int, int, int, int]


class _Guard:
    """The process, and what it has found; each process of medsoft has its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._found: dict[Key, str] = {}

    def check(self, path: Path, key: Key) -> str:
        """Why a file cannot be read; "" where the library comes to an end with it."""
        if key not in self._found:
            with self._lock:
                if key not in self._found:
                    self._found[key] = self._ask(path)
        return self._found[key]

    def _ask(self, path: Path) -> str:
        child = self._child
        if child is None or child.poll() is not None:
            child = self._child = subprocess.Popen(
                python_script(CHILD),
                env=child_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C is for those who can say what they had done
            )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(str(path.absolute())) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except OSError:
            answer = ""
        if answer:
            return ""
        code = child.wait()
        self.close()
        if code == -signal.SIGXCPU:
            return "is damaged: reading its structure comes to no end"
        return f"is damaged: the HDF5 library crashes on it ({_how(code)})"

    def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            child.wait()

    def forget(self) -> None:
        """In a process that was forked: the child belongs to the other one; what is known stays known."""
        self._lock, self._child = threading.Lock(), None


def check_ends(path: Path) -> None:
    """Check that the HDF5 library comes to an end with a file.

    Raises:
        BagError: it does not; or this is no ordinary file.
        OSError: it is not there.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise BagError(
            "is a directory, not a file" if stat.S_ISDIR(found.st_mode) else "is a pipe or a device, not a file"
        )
    if reason := _guard.check(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)):
        raise BagError(reason)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


_guard = _Guard()
atexit.register(_guard.close)
os.register_at_fork(after_in_child=_guard.forget)
