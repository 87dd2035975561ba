"""The one walk over folders: what is followed, what is passed over, and what is said of it.

Links to folders are followed. A folder that was walked already, by its device and inode, is not walked again, so that
loops end and nothing is found twice; real folders come before links to them. What systems leave behind (AppleDouble
``._*``, .DS_Store, Thumbs.db, …), hidden names, FIFOs and devices are passed over and counted. Folders that cannot be
opened and links that lead nowhere are problems, which the caller has to say.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CLUTTER = {".ds_store": ".DS_Store", "thumbs.db": "Thumbs.db", "ehthumbs.db": "Thumbs.db", "desktop.ini": "desktop.ini"}
"""Files that macOS and Windows leave in folders, by their names in small letters."""

CLUTTER_FOLDERS = ("__macosx", "$recycle.bin", "system volume information", "@eadir", "lost+found")
"""Folders that systems and network storage make, in small letters; what they hold are copies, previews and waste."""

APPLEDOUBLE, HIDDEN, SPECIAL, SEEN, OTHER = (
    "AppleDouble (._*)",
    "hidden",
    "FIFO, socket or device",
    "reached again by a link",
    "of another kind",
)
NOWHERE = "is a link that leads nowhere"

Problem = tuple[Path, str]
Identity = tuple[int, int]


@dataclass
class Walk:
    """What a walk has found.

    Attributes:
        files: regular files and links to them, sorted.
        passed: how many entries were passed over, by what they are.
        broken: links that lead nowhere.
        unreadable: folders that cannot be opened, and why.
    """

    files: list[Path] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    broken: list[Path] = field(default_factory=list)
    unreadable: list[Problem] = field(default_factory=list)

    @property
    def problems(self) -> list[Problem]:
        """Paths that could not be followed, with reasons that complete a sentence."""
        return sorted([*self.unreadable, *((path, NOWHERE) for path in self.broken)])

    def keep(self, is_wanted: Callable[[Path], bool]) -> None:
        """Keep some of the files, and count the others as passed over."""
        kept = [path for path in self.files if is_wanted(path)]
        if len(kept) < len(self.files):
            self.passed[OTHER] += len(self.files) - len(kept)
        self.files = kept

    def add(self, other: Walk) -> None:
        """Join another walk to this one; its files come behind."""
        self.files += other.files
        self.passed += other.passed
        self.broken += other.broken
        self.unreadable += other.unreadable


def passed_in_words(passed: Counter[str]) -> str:
    """One line that counts what was passed over; "" where nothing was."""
    if not passed.total():
        return ""
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(passed.items()) if number)
    return f"Passed over: {passed.total()} ({kinds})"


def kind_of_clutter(name: str, *, is_folder: bool = False) -> str | None:
    """What an entry of this name is, where it is passed over for its name alone."""
    if name.startswith("._"):
        return APPLEDOUBLE
    lower = name.lower()
    if is_folder and lower in CLUTTER_FOLDERS:
        return name
    if not is_folder and lower in CLUTTER:
        return CLUTTER[lower]
    if name.startswith("."):
        return HIDDEN
    return None


def special_kind(path: Path) -> str | None:
    """What a path is that is neither a file nor a folder: "a FIFO", …; None for files, folders and what is not there.

    Opening a FIFO waits for a writer, perhaps for ever: ask before opening what a user names.
    """
    mode = status.st_mode if (status := _status(path)) else 0
    kinds = {stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket", stat.S_ISBLK: "a device", stat.S_ISCHR: "a device"}
    return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), None)


def walk(folder: Path) -> Walk:
    """The files of a folder and of all folders below it.

    Args:
        folder: where to begin; it may be a link, and its own name decides nothing.

    Returns:
        What is there. Where the folder itself cannot be opened, ``unreadable`` says so.
    """
    return _walk_all([folder])


def walk_glob(pattern: str) -> tuple[Walk, list[Path]]:
    """The files that a pattern names, and the folders that it names, whose files are among them.

    ``*``, ``?`` and ``[…]`` match within a name and ``**`` any number of folders, as in Python's ``glob``. Links are
    followed, and what is passed over is the same, as in ``walk``.

    Returns:
        The files, those of matched folders included; and the matched folders.
    """
    parts = Path(os.path.abspath(pattern)).parts  # noqa: PTH100 (resolve() would follow links to other names)
    depth = parts.index("**") if "**" in parts else len(parts)
    starts = sorted(Path(match) for match in glob.glob(str(Path(*parts[:depth]))))  # noqa: PTH207 (takes absolute ones)
    if depth == len(parts):
        found = Walk()
        named = [path for path in starts if not _is(path, stat.S_ISDIR)]
        folders = []
        for path in starts:
            if _is(path, stat.S_ISDIR) and (kind := kind_of_clutter(path.name, is_folder=True)):
                found.passed[_counted(kind, is_folder=True)] += 1
            elif _is(path, stat.S_ISDIR):
                folders.append(path)
        found.add(_walk_all(folders))
        known = set(found.files)
        _sort_in(found, [path for path in named if path not in known])
        return found, folders
    found = _walk_all([start for start in starts if _is(start, stat.S_ISDIR)])
    matched: set[Path] = set()

    def is_named(path: Path) -> bool:
        start = next(start for start in starts if start in path.parents)
        names = path.relative_to(start).parts
        for length in range(1, len(names)):
            if _matches(names[:length], parts[depth:]):
                matched.add(start.joinpath(*names[:length]))
        return any(folder in matched for folder in path.parents) or _matches(names, parts[depth:])

    found.files = [path for path in found.files if is_named(path)]
    found.broken = [path for path in found.broken if is_named(path)]
    return found, sorted(matched)


def _walk_all(folders: Iterable[Path]) -> Walk:
    found = Walk()
    walked: set[Identity] = set()
    links: list[Path] = []
    linked_files: list[Path] = []
    for folder in folders:
        _walk_real(folder, found, walked, links, linked_files)
    while links:  # real folders first: a link to one of them must not give its files another name
        _walk_real(links.pop(0), found, walked, links, linked_files)
    known = {identity for path in found.files if (identity := _identity(path))} if linked_files else set()
    for path in sorted(linked_files):
        identity = _identity(path)
        if identity in known:
            found.passed[SEEN] += 1
            continue
        found.files.append(path)
        if identity:
            known.add(identity)
    found.files.sort()
    return found


def _walk_real(folder: Path, found: Walk, walked: set[Identity], links: list[Path], linked_files: list[Path]) -> None:
    """Walk a folder without following links, which are added to ``links`` and ``linked_files``."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        identity = _identity(place)
        if identity in walked:
            found.passed[SEEN] += 1
            continue
        if identity:
            walked.add(identity)
        try:
            with os.scandir(place) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable.append((place, f"cannot be opened: {error.strerror}"))
            continue
        inner: list[Path] = []
        for entry in listed:
            path = place / entry.name
            is_folder = _is(path, stat.S_ISDIR) if entry.is_symlink() else entry.is_dir()
            if kind := kind_of_clutter(entry.name, is_folder=is_folder):
                found.passed[_counted(kind, is_folder=is_folder)] += 1
            elif is_folder:
                (links if entry.is_symlink() else inner).append(path)
            elif entry.is_symlink() and _is(path, stat.S_ISREG):
                linked_files.append(path)
            else:
                _sort_in(found, [path])
        waiting += reversed(inner)


def _sort_in(found: Walk, paths: Iterable[Path]) -> None:
    """Put paths that are no folders where they belong."""
    for path in paths:
        if kind := kind_of_clutter(path.name):
            found.passed[_counted(kind)] += 1
        elif special_kind(path):
            found.passed[SPECIAL] += 1
        elif _leads_nowhere(path):
            found.broken.append(path)
        else:
            found.files.append(path)


def _leads_nowhere(path: Path) -> bool:
    if not path.is_symlink():
        return False
    try:
        path.stat()
    except OSError as error:  # what may not be looked at is left for whoever opens it to say
        return error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
    return False


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    status = _status(path)
    return status is not None and kind(status.st_mode)


def _identity(path: Path) -> Identity | None:
    status = _status(path)
    return None if status is None else (status.st_dev, status.st_ino)


def _counted(kind: str, *, is_folder: bool = False) -> str:
    return f"{kind} {'folder' if is_folder else 'file'}" if kind == HIDDEN else kind


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern, of which ``**`` stands for any number."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[number:], patterns[1:]) for number in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])
