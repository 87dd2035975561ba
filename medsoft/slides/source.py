"""A slide to work on, and the unique names of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medsoft.errors import InputError, check_range
from medsoft.parsing.options import Settings
from medsoft.slides.annotations.settings import AnnotationSource
from medsoft.slides.reading.resolution import STATED_LIMITS
from medsoft.storage.remote import shown

LONGEST_ID = 150
"""Bytes: files are named after ids, with more around them while they are written; file systems stop at 255."""


@dataclass(frozen=True)
class SlideSource:
    """A slide to work on.

    Attributes:
        id: unique name: the file's name without suffix, longer by folders where two share it; a table's own id wins.
        path: the file, absolute; of a slide elsewhere a path that no file has, which names are made of.
        mpp: the resolution that the user states, µm per level-0 pixel; None: the file says it.
        mpp_origin: "table" or "option" where ``mpp`` is stated, else "".
        row: the slide's row of the table, as text ("" where empty); {} without a table.
        annotations: the regions that were drawn on it; None where none are known.
        url: address of a slide in an object store or on a server; "" for a file of this machine.
    """

    id: str
    path: Path
    mpp: float | None = None
    mpp_origin: str = ""
    row: dict[str, str] = field(default_factory=dict)
    annotations: AnnotationSource | None = None
    url: str = ""

    @property
    def file(self) -> str | Path:
        """What ``medsoft.storage.remote`` makes a file of this machine of."""
        return self.url or self.path

    @property
    def place(self) -> str:
        """Path or address, as tables show it."""
        return shown(self.url) if self.url else str(self.path)


@dataclass(frozen=True)
class SlideInput(Settings):
    """Which slides to process, and what the command line or a table states about them.

    Attributes:
        slides: Files, folders or globs, or one table (.csv, .parquet, .xlsx) with one row per slide, and addresses of
            slides (s3://bucket/a.svs); predict and heatmap also take feature files.
        slide_mpp: Resolution of the slides' finest level in µm per pixel; overrides what the files state.
        root: Folder or address that relative paths in a table start from; the table's own folder if not given.
        path: Column of the table with the files.
        id: Column of the table with unique ids; taken from the file names if not given.
        slide_mpp_column: Column of the table with the resolution of each slide's finest level in µm per pixel; used if
            the table has it.
        on_error: skip leaves out slides of the table whose files are missing, and lists them in errors.csv.

    Raises:
        InputError: the resolution is out of its range.
    """

    slides: list[str]
    slide_mpp: float | None = None
    root: str | None = None
    path: str = "path"
    id: str | None = None
    slide_mpp_column: str = "mpp"
    on_error: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        if self.slide_mpp is not None:
            check_range("slide_mpp", self.slide_mpp, *STATED_LIMITS)


def make_ids(paths: Sequence[Path]) -> list[str]:
    """A unique name for each file: its name without suffix; longer by its folders where two share it.

    Args:
        paths: absolute, all different.

    Raises:
        InputError: two names stay the same, as ``a-b/c.svs`` and ``a/b-c.svs`` may, or one is too long.
    """
    beside = Counter(path.with_suffix("") for path in paths)
    bases = [path.stem if beside[path.with_suffix("")] == 1 else path.name for path in paths]
    folders = [0] * len(paths)
    while True:
        ids = [
            "-".join([*_last(path.parent.parts[1:], n), base])
            for path, n, base in zip(paths, folders, bases, strict=True)
        ]
        count = Counter(ids)
        longer = [i for i, path in enumerate(paths) if count[ids[i]] > 1 and folders[i] < len(path.parent.parts) - 1]
        if not longer:
            break
        for i in longer:
            folders[i] += 1
    twice = [f"several slides would be called {id!r}" for id, n in count.items() if n > 1]
    long = [f"{id}: a name of more than {LONGEST_ID} bytes" for id in ids if is_too_long(id)]
    if twice or long:
        raise InputError("\n".join([*twice, *long, "Give the slides names of their own: a table with --id COLUMN"]))
    return ids


def is_too_long(id: str) -> bool:
    """Whether files cannot be named so."""
    return len(id.encode(errors="replace")) > LONGEST_ID


def _last(parts: Sequence[str], n: int) -> Sequence[str]:
    return parts[len(parts) - n :]
