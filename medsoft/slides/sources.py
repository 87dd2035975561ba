"""Which slides are meant: files, folders, globs, or one table."""

from __future__ import annotations

import glob
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medsoft.errors import InputError, check_range
from medsoft.slides.resolution import STATED_LIMITS

TABLES = (".csv", ".parquet")
SCANNED = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".dcm", ".czi")
"""What OpenSlide 4 reads."""

LONGEST_ID = 150
"""Bytes: files are named after ids, with more around them while they are written; file systems stop at 255."""

PICTURES = (".png", ".jpg", ".jpeg", ".jp2")


@dataclass(frozen=True)
class SlideSource:
    """A slide to work on.

    Attributes:
        id: unique name: the file's name without suffix, longer by folders where two share it; a table's own id wins.
        path: the file, absolute.
        mpp: the resolution that the user states, µm per level-0 pixel; None: the file says it.
        mpp_origin: "table" or "option" where ``mpp`` is stated, else "".
        row: the slide's row of the table, as text ("" where empty); {} without a table.
    """

    id: str
    path: Path
    mpp: float | None = None
    mpp_origin: str = ""
    row: dict[str, str] = field(default_factory=dict)


def find_slides(
    words: Sequence[str],
    *,
    slide_mpp: float | None = None,
    root: str | Path | None = None,
    path: str = "path",
    id: str | None = None,
    slide_mpp_column: str = "mpp",
    on_error: Literal["error", "skip"] = "error",
) -> list[SlideSource]:
    """Find the slides that the words of a command line name.

    Folders are searched with all folders inside, for the formats of scanners. A folder that holds none of these is
    searched for PNG and JPEG pictures; where it does hold some, such pictures are taken for previews and left out.
    Of a DICOM series, whose levels are files of their own, the first file stands for all.

    Args:
        words: files, folders and globs; or one table, CSV or Parquet, with one row a slide.
        slide_mpp: resolution of level 0 in µm per pixel, for all slides for which the table states none.
        root: folder that relative paths of a table start from; the table's own folder if not given.
        path: the table's column with the files.
        id: the table's column with unique names.
        slide_mpp_column: the table's column with the resolution of level 0 in µm per pixel; may be empty in places.
            The default "mpp" is used where the table has it.
        on_error: "skip" keeps rows of a table whose file is missing: opening it will say so, of that slide alone.

    Returns:
        The slides in the order of the table, or of the words and within folders by name.

    Raises:
        InputError: a word names nothing, a table and something else are named, or rows of the table are wrong; all
            problems are listed.
    """
    if slide_mpp is not None:
        check_range("slide_mpp", slide_mpp, *STATED_LIMITS)
    if not words:
        raise InputError("name slides: files, folders, globs, or one table (.csv, .parquet)")
    tables = [word for word in words if Path(word).suffix.lower() in TABLES]
    if tables and len(words) > 1:
        raise InputError(f"{tables[0]}: name one table, or slides, not both")
    if tables:
        # pandas waits until there is a table.
        from medsoft.slides.slide_table import read_slide_table

        return read_slide_table(
            tables[0], slide_mpp, root=root, path=path, id=id, slide_mpp_column=slide_mpp_column, on_error=on_error
        )
    paths = _named(words)
    origin = "" if slide_mpp is None else "option"
    ids = make_ids(paths)
    return [SlideSource(id, path, slide_mpp, origin) for id, path in zip(ids, paths, strict=True)]


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


def _named(words: Sequence[str]) -> list[Path]:
    """The slides that words name, each once."""
    found: list[Path] = []
    problems: list[str] = []
    left_out: list[Path] = []
    for word in words:
        place = Path(os.path.abspath(word))  # noqa: PTH100 (resolve() would follow links to other names)
        if place.is_dir():
            slides = _in_folder(place, left_out)
            if not slides:
                problems.append(f"{word}: no slides in this folder ({' '.join([*SCANNED, *PICTURES])})")
        elif place.exists():
            slides = [place]
        elif glob.has_magic(word):
            matches = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 (Path.glob refuses absolute patterns)
            slides = [path for match in matches for path in _matched(match, left_out)]
            if not slides:
                problems.append(f"{word}: matches no slide")
        else:
            slides = []
            problems.append(f"{word}: no such file or folder")
        found += slides
    problems += [
        f"{path.name}: the name is not UTF-8: rename it".encode(errors="replace").decode()
        for path in found
        if not _is_utf8(path)
    ]
    if problems:
        raise InputError("\n".join(problems))
    if pictures := set(left_out) - set(found):
        print(
            f"{len(pictures)} PNG or JPEG pictures beside slides are taken for previews and left out, such as "
            f"{min(pictures)}; name pictures themselves where they are slides"
        )
    return list(dict.fromkeys(found))


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _matched(match: str, left_out: list[Path]) -> list[Path]:
    path = Path(os.path.abspath(match))  # noqa: PTH100
    if path.is_dir():
        return _in_folder(path, left_out)
    return [path] if path.suffix.lower() in (*SCANNED, *PICTURES) else []


def _in_folder(folder: Path, left_out: list[Path]) -> list[Path]:
    """The slides in a folder; adds the pictures that are taken for previews to ``left_out``."""
    scanned: list[Path] = []
    pictures: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if name.startswith("."):  # such as ._slide.svs of macOS
                continue
            if suffix in SCANNED:
                scanned.append(Path(place, name))
            elif suffix in PICTURES:
                pictures.append(Path(place, name))
    if not scanned:
        return pictures
    left_out += pictures
    return _first_of_series(scanned)


def _first_of_series(paths: Iterable[Path]) -> list[Path]:
    """Without the second and later files of a DICOM series: OpenSlide finds them from the first."""
    paths = list(paths)
    dicom = defaultdict(list)
    for path in paths:
        if path.suffix.lower() == ".dcm":
            dicom[path.parent].append(path)
    later: set[Path] = set()
    for files in dicom.values():
        if len(files) > 1:
            seen: set[str] = set()
            for file in files:
                series = _series(file)
                if series in seen:
                    later.add(file)
                seen.add(series or str(file))
    return [path for path in paths if path not in later]


def _series(file: Path) -> str | None:
    """The UID of a DICOM file's series; None where OpenSlide finds no slide in it."""
    import openslide

    try:
        with openslide.OpenSlide(file) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except openslide.OpenSlideError:
        return None
