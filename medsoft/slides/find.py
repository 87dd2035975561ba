"""Finds the slides to process: files, folders, globs, addresses, or one table."""

from __future__ import annotations

import glob
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from medsoft.data.features.names import OF_BAGS, PICTURES, SCANNED
from medsoft.errors import InputError
from medsoft.slides.source import SlideInput, SlideSource, make_ids
from medsoft.storage.remote import as_path, check_address, find_remote, is_remote, shown, without_file_scheme
from medsoft.storage.walk import SEEN, Walk, passed_in_words, special_kind, walk, walk_glob
from medsoft.text.sheets import split_sheet

TABLES = (".csv", ".parquet", ".xlsx")


def find_slides(which: SlideInput) -> list[SlideSource]:
    """Find the slides that are meant.

    Folders are searched with all folders inside, links among them (``medsoft.storage.walk``), for the formats of
    scanners; what is passed over is counted in a line. A folder that holds none of these is searched for PNG and JPEG
    pictures; where it does hold some, such pictures are taken for previews and left out. Of a DICOM series, whose
    levels are files of their own, the first file stands for all. Addresses (``s3://bucket/a.svs``) are taken as they
    are: whether something is there is seen when it is opened. Patterns among them ask the store.

    Returns:
        The slides in the order of the table, or of the words and within folders by name. With ``on_error="skip"`` a
        table's rows whose file is missing are among them: opening it will say so, of that slide alone.

    Raises:
        InputError: a word names nothing, a table and something else are named, or rows of the table are wrong; all
            problems are listed.
    """
    if not which.slides:
        raise InputError(f"name slides: files, folders, globs, or one table ({', '.join(TABLES)})")
    tables = [word for word in which.slides if split_sheet(word)[0].suffix.lower() in TABLES]
    if tables and len(which.slides) > 1:
        raise InputError(f"{tables[0]}: name one table, or slides, not both")
    if tables:
        # pandas waits until there is a table.
        from medsoft.slides.slide_table import read_slide_table

        return read_slide_table(which)
    words = [without_file_scheme(word) for word in which.slides]
    urls = _addresses([word for word in words if is_remote(word)])
    here = [word for word in words if not is_remote(word)]
    paths = [*(_named(here) if here else []), *map(as_path, urls)]
    places = ["" for _ in range(len(paths) - len(urls))] + urls
    origin = "" if which.slide_mpp is None else "option"
    return [
        SlideSource(id, path, which.slide_mpp, origin, url=url)
        for id, path, url in zip(make_ids(paths), paths, places, strict=True)
    ]


def _addresses(words: Sequence[str]) -> list[str]:
    """The addresses of slides elsewhere that words name, each once."""
    found: list[str] = []
    problems: list[str] = []
    for word in words:
        check_address(word)
        if glob.has_magic(shown(word)):
            try:
                matching = [one for one in find_remote(word) if one.lower().endswith((*SCANNED, *PICTURES))]
            except OSError as error:
                problems.append(f"{shown(word)}: {error.strerror}")
                continue
            found += matching
            problems += [] if matching else [f"{shown(word)}: matches no slide"]
        elif shown(word).lower().endswith((*SCANNED, *PICTURES)):
            found.append(word)
        elif shown(word).lower().endswith(OF_BAGS):
            problems.append(f"{shown(word)}: feature files are read from this machine: copy it here")
        else:
            problems.append(f"{shown(word)}: is no name of a slide: name files, a pattern such as *.svs, or a table")
    if problems:
        raise InputError("\n".join(problems))
    return list({as_path(url): url for url in found}.values())


def _named(words: Sequence[str]) -> list[Path]:
    """The slides of this machine that words name, each once."""
    found: list[Path] = []
    problems: list[str] = []
    left_out: list[Path] = []
    passed: Counter[str] = Counter()
    for word in words:
        place = Path(os.path.abspath(word))  # noqa: PTH100 (resolve() would follow links to other names)
        if kind := special_kind(place):
            problems.append(f"{word}: is {kind}, not a file")
            continue
        if os.path.isdir(place):  # noqa: PTH112 (Path.is_dir raises where it may not look)
            walked, folders = walk(place), [place]
            nothing = f"{word}: no slides in this folder ({' '.join([*SCANNED, *PICTURES])})"
        elif os.path.exists(place):  # noqa: PTH110
            found.append(place)
            continue
        elif glob.has_magic(word):
            walked, folders = walk_glob(word)
            nothing = f"{word}: matches no slide"
        else:
            problems.append(f"{word}: no such file or folder")
            continue
        walked.keep(lambda path: path.suffix.lower() in (*SCANNED, *PICTURES))
        slides = _slides_among(walked, folders, left_out)
        passed += walked.passed
        # A slide that is passed over without a word is missing from a study.
        problems += [f"{path}: {reason}" for path, reason in walked.unreadable]
        if not slides and not walked.unreadable:
            problems.append(nothing)
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
    found = _each_once(found, passed)
    if line := passed_in_words(passed):
        print(line)
    return found


def _each_once(paths: Iterable[Path], passed: Counter[str]) -> list[Path]:
    """Without files that other words have named, by the same name or by a link; the latter are counted."""
    first: dict[str, Path] = {}
    for path in paths:
        passed[SEEN] += first.setdefault(os.path.realpath(path), path) != path
    return list(first.values())


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _slides_among(walked: Walk, folders: Sequence[Path], left_out: list[Path]) -> list[Path]:
    """The slides among files; of those in folders, pictures beside slides go to ``left_out`` as previews.

    A link that leads nowhere is kept where its name is that of a slide: the slide is missing, and opening it says so.
    """
    paths = sorted(path for path in [*walked.files, *walked.broken] if path.suffix.lower() in (*SCANNED, *PICTURES))
    slides: list[Path] = []
    for path in paths:
        if not any(folder in path.parents for folder in folders):
            slides.append(path)  # matched by itself
    for folder in folders:
        inside = [path for path in paths if folder in path.parents]
        scanned = [path for path in inside if path.suffix.lower() in SCANNED]
        if scanned:
            left_out += [path for path in inside if path.suffix.lower() in PICTURES]
        slides += scanned or inside
    return _first_of_series(dict.fromkeys(slides))


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
