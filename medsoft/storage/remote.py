"""Files of object stores and servers, through fsspec: fetched whole into a folder of this machine, and lent from there.

The folder is bounded. What was lent longest ago goes first, and nothing goes that a process has in use. fsspec has
caches of whole files too, but none with a bound, and none that several processes may clear.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from medsoft.errors import InputError
from medsoft.storage.disk import free_bytes, gib
from medsoft.storage.files import remove_partial_files, replacing
from medsoft.storage.hashing import quick_hash, quick_hash_of
from medsoft.storage.lock import is_same, lock, share

FOLDER = "MEDSOFT_SLIDE_CACHE"
"""Environment variable: the folder, whose files are kept for later runs; without it they end with the process."""
MOST = "MEDSOFT_SLIDE_CACHE_GB"
"""Environment variable: how much the folder may hold, in units of 10⁹ bytes."""
DEFAULT_GB = 50.0
SPARE_BYTES = 2**30
"""Left free on the disk for everybody else."""
IN_USE = ".in-use"
ENTRY = re.compile("[0-9a-f]{32}")
ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", re.ASCII)
STAMPS = ("size", "ETag", "etag", "VersionId", "generation", "md5Hash", "mtime", "LastModified", "created")
"""What stores say of an object that changes with its content; each of them says some."""

T = TypeVar("T")


def is_remote(place: str) -> bool:
    """Whether a word is the address of a file elsewhere, such as ``s3://bucket/a.svs``; not of ``file://``."""
    found = ADDRESS.match(place)
    return found is not None and found[1].lower() != "file"


def without_file_scheme(place: str) -> str:
    """The path that an address ``file:///…`` means; every other word as it is.

    Raises:
        InputError: it names another machine.
    """
    if place[:7].lower() != "file://":
        return place
    parts = urlsplit(place)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{place}: write file:/// with three slashes and the whole path of the file")
    return unquote(parts.path)


def check_address(address: str) -> None:
    """Refuse an address with a password in it, which would stand in tables and logs.

    Raises:
        InputError: it has one; the message does not repeat it.
    """
    if "@" in urlsplit(address).netloc:
        scheme = address.partition("://")[0]
        raise InputError(
            f"{scheme}://…@…: an address with a user or a password would be written into tables and logs: give them to "
            "the driver by its own settings or environment variables"
        )


def shown(address: str) -> str:
    """The address as tables may show it: without what follows a question mark, which signs and permits."""
    return address.partition("?")[0] if address.lower().startswith("http") else address


def as_path(address: str) -> Path:
    """An address as an absolute path that no file has, ``/s3/bucket/a.svs``: what names are made of."""
    scheme, _, rest = shown(address).partition("://")
    return Path("/", scheme.lower(), *[part for part in unquote(rest).split("/") if part not in ("", ".", "..")])


def find_remote(pattern: str) -> list[str]:
    """The addresses that a pattern with ``*``, ``?`` or ``[…]`` matches, sorted.

    Raises:
        OSError: the store cannot be asked; ``strerror`` says why.
    """
    store, name = _store(pattern)
    found = _asked(pattern, lambda: store.glob(name))
    return sorted(str(store.unstrip_protocol(one)) for one in found)


@contextmanager
def local_file(place: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend the file of this machine that holds what a path or an address names.

    A path is lent as it is. What an address names is fetched first, unless it is here, and is not removed within the
    block. Whether it is still the same is seen by size, ETag, version and date, whichever the store states.

    Raises:
        OSError: it cannot be fetched; ``strerror`` says why. For a path: never.
        InputError: an environment variable is wrong.
    """
    if not is_remote(str(place)):
        yield Path(place)
        return
    with _folder().lend(str(place)) as path:
        yield path


def quick_hash_of_place(place: str | os.PathLike[str]) -> str:
    """``quick_hash`` of a path, or of what an address names: of the file as it would be fetched.

    Of the latter 2 MiB are read at most, where the store gives parts of files; else it is fetched.

    Raises:
        OSError: it cannot be read; ``strerror`` says why.
    """
    address = str(place)
    if not is_remote(address):
        return quick_hash(place)
    store, name = _store(address)
    size = _size(_asked(address, lambda: store.info(name)))

    def read(start: int, count: int) -> bytes:
        end = min(start + count, size)
        part: bytes = store.cat_file(name, start=start, end=end) if end > start else b""
        if len(part) != max(0, end - start):
            raise NotImplementedError  # the server sends the whole of it
        return part

    try:
        return quick_hash_of(size, read)
    except (NotImplementedError, ValueError):
        with local_file(place) as path:
            return quick_hash(path)
    except Exception as error:
        raise _why(address, error) from error


class FetchedFiles:
    """A folder of fetched files, one folder each, named by address and version.

    Args:
        path: the folder.
        most: bytes that it may hold. Files in use at once may be more; none of them is removed.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most = path, most
        self._lock = threading.Lock()
        self._each: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._coming = 0

    @contextmanager
    def lend(self, address: str) -> Iterator[Path]:
        """Lend the file of an address; see ``local_file``."""
        store, name = _store(address)
        info = _asked(address, lambda: store.info(name))
        size, version = _size(info), _version(info)
        key = hashlib.sha256(f"{shown(address)}\n{version}".encode()).hexdigest()[:32]
        entry = self.path / key
        file = entry / (as_path(address).name or "file")
        with self._lock:
            alone = self._each[key]
        with alone:  # one thread fetches, the others wait
            held = _hold(entry)
            try:
                if file.is_file() and file.stat().st_size == size:
                    os.utime(entry)
                else:
                    with self._room(size):
                        self._fetch(address, store, name, file, version)
            except BaseException:
                os.close(held)
                if not file.is_file():
                    _remove(entry)
                raise
        try:
            yield file
        finally:
            os.close(held)

    def clear(self) -> None:
        """Remove all files that no process has in use, and the folder if nothing else is in it."""
        for entry in self._entries():
            _remove(entry)
        with suppress(OSError):
            self.path.rmdir()

    def _fetch(self, address: str, store: Any, name: str, file: Path, version: str) -> None:
        remove_partial_files(file.parent)  # of killed processes
        with replacing(file) as partial:
            _asked(address, lambda: store.get_file(name, str(partial)))
            after = _asked(address, lambda: store.info(name))
            found, size = partial.stat().st_size, _size(after)
            if _version(after) != version:
                raise OSError(errno.EIO, "was replaced in its store while it was fetched: start again")
            if found != size:
                raise OSError(errno.EIO, f"only {found} of its {size} bytes came: start again")

    @contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """Keep room for a file, removing others where that is needed.

        Raises:
            OSError: there is none.
        """
        if size > self.most:
            limit = f"{gib(self.most)} ({MOST})"
            raise OSError(errno.EFBIG, f"is {gib(size)}, more than the folder of fetched slides may hold: {limit}")
        with self._lock:
            need = size + self._coming
            held = {entry: _bytes(entry) for entry in self._entries()}
            total = sum(held.values())
            for entry, own in held.items():
                if total + need <= self.most and free_bytes(self.path) >= need + SPARE_BYTES:
                    break
                if own and _remove(entry):
                    total -= own
            if (free := free_bytes(self.path)) < need + SPARE_BYTES:
                raise OSError(
                    errno.ENOSPC,
                    f"is {gib(size)}, but {gib(free)} are free where slides are fetched to, of which "
                    f"{gib(SPARE_BYTES)} stay free: name a folder on another disk with {FOLDER}",
                )
            self._coming += size
        try:
            yield
        finally:
            with self._lock:
                self._coming -= size

    def _entries(self) -> list[Path]:
        """The folders of files, the one lent longest ago first; nothing else in the folder is ours."""

        def lent(entry: Path) -> float:
            with suppress(OSError):
                return entry.stat().st_mtime
            return 0.0

        there = self.path.iterdir() if self.path.is_dir() else ()
        return sorted((entry for entry in there if ENTRY.fullmatch(entry.name) and entry.is_dir()), key=lent)


def _hold(entry: Path) -> int:
    """Make a folder that no other process removes until what is returned is closed.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        entry.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(entry / IN_USE, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # removed in between
        share(descriptor)
        if is_same(descriptor, entry / IN_USE):
            return descriptor
        os.close(descriptor)


def _remove(entry: Path) -> bool:
    """Remove the folder of a file; False where it is in use."""
    try:
        descriptor = os.open(entry / IN_USE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            lock(descriptor)
            shutil.rmtree(entry)
        finally:
            os.close(descriptor)
    except OSError:  # in use, gone meanwhile, or not ours
        return False
    return True


def _bytes(entry: Path) -> int:
    total = 0
    with suppress(OSError):
        for file in entry.iterdir():
            total += file.stat().st_size
    return total


def _folder() -> FetchedFiles:
    """The folder that the environment variables name.

    Raises:
        InputError: they are wrong.
        OSError: the folder cannot be made, or is another user's.
    """
    text = os.environ.get(MOST, "").strip()
    try:
        most = float(text) if text else DEFAULT_GB
    except ValueError:
        most = 0.0
    if not 0 < most < 1e9:
        raise InputError(f"{MOST}={text}: must be a number above 0, in units of 10⁹ bytes")
    named = os.environ.get(FOLDER, "").strip()
    if named:
        return _made(Path(named).absolute(), int(most * 1e9), True)
    uid = getattr(os, "getuid", lambda: None)()  # Windows has none
    user = os.environ.get("USERNAME", "") if uid is None else uid
    own = Path(tempfile.gettempdir()) / f"medsoft-slides-{user}"
    with suppress(FileExistsError):
        own.mkdir(mode=0o700, parents=True)
    state = own.lstat()
    if not stat.S_ISDIR(state.st_mode) or (uid is not None and state.st_uid != uid):
        raise OSError(errno.EACCES, f"the folder for fetched slides is another user's: name one with {FOLDER}")
    return _made(own, int(most * 1e9), False)


@cache
def _made(path: Path, most: int, kept: bool) -> FetchedFiles:
    made = FetchedFiles(path, most)
    if not kept:
        atexit.register(made.clear)
    return made


def _store(address: str) -> tuple[Any, str]:
    """Fsspec's file system for an address, and the name of the file in it.

    Raises:
        OSError: there is no driver for it, or the driver refuses to begin.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        scheme = address.partition("://")[0]
        raise OSError(errno.ENOSYS, f"{scheme}:// needs fsspec: pip install 'medsoft[remote]'") from None
    store, name = _asked(address, lambda: url_to_fs(address))
    return store, str(name)


def _asked(address: str, ask: Callable[[], T]) -> T:
    """What a store answers; its errors, which are of every kind, become ``OSError``."""
    try:
        return ask()
    except Exception as error:
        raise _why(address, error) from error


def _why(address: str, error: Exception) -> OSError:
    """An error of a store in a sentence without the address, which may hold names and signatures."""
    scheme = address.partition("://")[0]
    kind = type(error).__name__
    text = re.sub(r"\S+://\S+|\?\S+", "…", " ".join(str(error).split()))[:200]
    if isinstance(error, FileNotFoundError):
        return OSError(errno.ENOENT, "there is no such object, or its server cannot be reached")
    if isinstance(error, ImportError) or (isinstance(error, ValueError) and "not known" in text):
        brings = "pip install 'medsoft[remote]' brings those of s3:// and gs://"
        return OSError(errno.ENOSYS, f"{scheme}:// has no driver here ({text}): {brings}")
    if isinstance(error, PermissionError) or re.search("credential|auth|forbidden|denied", f"{kind} {text}", re.I):
        return OSError(
            errno.EACCES, f"its store refuses it ({kind}): check the credentials that the driver of {scheme}:// finds"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return OSError(errno.ENOSPC, f"the disk that slides are fetched to is full: name another with {FOLDER}")
    return OSError(errno.EIO, f"its store does not give it ({kind}{f': {text}' if text else ''})")


def _size(info: dict[str, Any]) -> int:
    if info.get("type") == "directory":
        raise OSError(errno.EISDIR, "is a folder of its store, not a file: name its files, in a table or by a pattern")
    size = info.get("size")
    if size is None:
        raise OSError(errno.EIO, "its server does not say how large it is: fetch it by hand")
    return int(size)


def _version(info: dict[str, Any]) -> str:
    return "\n".join(f"{name}={info[name]}" for name in STAMPS if info.get(name) is not None)
