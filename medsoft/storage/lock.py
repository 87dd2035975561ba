"""A lock on an open file, which the operating system takes back when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FAR = 2**30
"""Place of the byte that is locked on Windows, which keeps others from reading what is locked: beyond all content."""
LOOK_SECONDS = 0.05


def lock(descriptor: int, wait: bool = False) -> None:
    """Lock an open file against other processes, until it is closed.

    Args:
        descriptor: of the file; of a folder too, but on Windows, which opens none.
        wait: for the process that holds it, in place of an error.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    while not _locked_on_windows(descriptor):
        if not wait:
            raise BlockingIOError(errno.EAGAIN, "another process holds the lock")
        time.sleep(LOOK_SECONDS)


def share(descriptor: int) -> None:
    """Keep other processes from locking an open file until it is closed; any number of them may share it.

    Where there are no such locks it does nothing: Windows deletes no file that is open.
    """
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def is_same(descriptor: int, file: Path) -> bool:
    """Whether a name is still that of an open file: another process may have removed it before it was locked."""
    try:
        there = file.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(descriptor)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


def _locked_on_windows(descriptor: int) -> bool:
    import msvcrt

    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, FAR, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EDEADLK):
            raise
        return False
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)
    return True
