"""Files that appear whole or not at all, also where runs on several machines are killed and started again.

And folders that one run at a time works in, and who may read what is written.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path

from medsoft.errors import InputError
from medsoft.storage.lock import is_same, lock
from medsoft.storage.walk import special_kind

MARK = ".partial-"
LOCK = ".medsoft.lock"
"""Hidden file of a folder of results that a run works in; its lock goes with the process."""
MODE = "MEDSOFT_FILE_MODE"
"""Environment variable with the mode of files that are written, such as 0600."""
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
JUST_BEGUN_SECONDS = 10.0
FOREIGN_SECONDS = 24 * 3600.0


def open_regular_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading. Pipes and devices are refused: one would wait for ever, the other never end.

    Raises:
        OSError: it is not there, cannot be read, or is no regular file; ``strerror`` says which.
    """
    path = Path(path)
    if kind := special_kind(path):
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))
    return path.open("rb")


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
                lock(file.fileno())
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


def _lock(descriptor: int, wait: bool = False) -> None:
    try:
        lock(descriptor, wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


_held: dict[Path, int] = {}


def require_writable(path: Path) -> None:
    """Check, before work that takes long, that a folder which may not be there yet can be made and written.

    Raises:
        InputError: it cannot.
    """
    there = path.absolute()
    while not os.path.lexists(there):
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            return
    except OSError as error:
        raise InputError(
            f"{path}: this folder cannot be written ({there}: {error.strerror}); choose another one with --out"
        ) from None


def hold_folder(path: Path, wait: bool = False) -> None:
    """Make a folder, and keep other processes from working in it until ``release_folders`` or the end of this one.

    The lock is the operating system's (flock): it ends with its process, however that ends, so that nothing is left to
    clear away. File systems without locks go on without.

    Args:
        path: the folder.
        wait: for the other process to let go of it, in place of an error.

    Raises:
        InputError: another process works in it.
        OSError: it cannot be made or written.
    """
    path.mkdir(parents=True, exist_ok=True)
    folder = path.resolve()
    if folder in _held:
        return
    file = folder / LOCK
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, wait)
            if is_same(descriptor, file):
                break
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"{path}: another run of medsoft is at work in this folder; wait for its end, or choose another folder "
                "with --out"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another run has ended and removed the file between opening and locking
    _held[folder] = descriptor


def release_folders() -> None:
    """Let go of all folders that this process holds, and remove the files that said so."""
    while _held:
        folder, descriptor = _held.popitem()
        with suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def holding(path: Path, wait: bool = False) -> Iterator[None]:
    """``hold_folder`` for a block; within another of the same folder it changes nothing."""
    before = path.resolve() in _held
    hold_folder(path, wait)
    try:
        yield
    finally:
        if not before and (descriptor := _held.pop(path.resolve(), None)) is not None:
            with suppress(OSError):
                (path / LOCK).unlink(missing_ok=True)
            os.close(descriptor)


def is_empty(folder: Path, *but: str) -> bool:
    """Whether a folder holds nothing but the lock of a run, or is not there.

    Args:
        folder: the folder.
        but: names of what may be in it besides.

    Raises:
        OSError: it cannot be read, or is none.
    """
    try:
        return all(inside.name in (LOCK, *but) for inside in folder.iterdir())
    except FileNotFoundError:
        return True


def apply_file_mode() -> None:
    """Let all files that this process and its children write have at most the mode of ``MEDSOFT_FILE_MODE``.

    Folders may be entered by whoever may read their files. Without the variable the umask of the shell holds.

    Raises:
        InputError: it is no mode, or one by which the owner could not read and write.
    """
    given = os.environ.get(MODE, "").strip()
    if not given:
        return
    try:
        mode = int(given.removeprefix("0o"), 8)
    except ValueError:
        mode = -1
    if mode & ~0o666 or mode & 0o600 != 0o600:
        raise InputError(f"{MODE}={given}: must be the octal mode of files, such as 0600, 0640 or 0660")
    masked = 0o666 & ~mode
    os.umask(masked | (masked & 0o444) >> 2)  # folders of those who may not read cannot be entered
