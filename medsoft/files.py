"""Files that appear whole or not at all, also where runs on several machines are killed and started again."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

MARK = ".partial-"
JUST_BEGUN_SECONDS = 10.0
FOREIGN_SECONDS = 24 * 3600.0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary name beside ``path``, of an empty file; it takes its own name when the block ends well.

    The folder is created. When the block raises, the temporary file is removed and an older ``path`` stays as it was.

    Raises:
        OSError: the folder or the file cannot be written; ``filename`` is set, which a full disk leaves open.
    """
    with partial_file(path) as file:
        yield Path(str(file.name))


@contextmanager
def partial_file(path: Path) -> Iterator[FileIO]:
    """Lend a file with a hidden name beside ``path``; it is renamed when the block ends well, once it is on the disk.

    Two runs that write the same file each have a name of their own (processes in containers share their numbers, so
    the number alone would not do); the one that ends last leaves its file whole. When the block raises, nothing
    remains. A killed run leaves its hidden file: see ``remove_partial_files``.

    Raises:
        OSError: the folder or the file cannot be written; ``errno`` and ``filename`` are set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are readable by their owner alone, and results are shared within groups.
    # A part of the name only: the whole of a long one would leave no room for the rest.
    partial = path.with_name(f".{path.stem[:40]}{MARK}{socket.gethostname()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        with partial.open("x+b", buffering=0) as file:  # the lock that goes with it tells others that this run lives
            try:
                _lock(file.fileno())
                yield file
                os.fsync(file.fileno())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        if error.filename in (None, str(partial)):  # what the caller does in the block may fail at other files
            error.filename = str(path)
        raise


def remove_partial_files(folder: Path) -> list[Path]:
    """Remove hidden files that killed runs left in a folder; those of runs that still live stay.

    A file goes if no process holds its lock, and it was not touched for 10 s (between its making and its lock) or, as
    some cluster file systems keep locks to one machine, for a day if another machine made it. File systems without
    locks: nothing is removed.

    Returns:
        What was removed.
    """
    removed = []
    for partial in sorted(folder.glob(f".*{MARK}*")):
        try:
            idle = time.time() - partial.stat().st_mtime
            if idle < (JUST_BEGUN_SECONDS if _is_own(partial) else FOREIGN_SECONDS):
                continue
            with partial.open("rb+") as file:  # for writing: NFS locks for writers only
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
        except OSError:  # locked, gone meanwhile, not ours to remove, or no locks here
            continue
        removed.append(partial)
    return removed


def own_partial_files(folder: Path) -> list[Path]:
    """Hidden files that runs on this machine write to at the moment, or have left."""
    return [partial for partial in sorted(folder.glob(f".*{MARK}*")) if _is_own(partial)]


def _is_own(partial: Path) -> bool:
    return partial.name.rpartition(MARK)[2].startswith(f"{socket.gethostname()}-")


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL):
            raise
