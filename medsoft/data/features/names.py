"""Matches feature files and annotations to slides: by name, and by what a file states of the slide it was made from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from medsoft.data.features.provenance import AnyProvenance, ImageProvenance
from medsoft.data.sample_hash import sample_hash
from medsoft.errors import InputError
from medsoft.storage.hashing import quick_hash

SCANNED = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".dcm", ".czi")
"""What OpenSlide 4 reads."""
PICTURES = (".png", ".jpg", ".jpeg", ".jp2")
"""Pictures that may be slides."""
OF_SLIDES = (*SCANNED, *PICTURES, ".ome.tif", ".ome.tiff")
CHANGED_SLIDE = "the slide's file has another content than the one that these features were made from"
CHANGED_IMAGE = "the image has another content than the one that these features were made from"
OF_BAGS = (".h5", ".hdf5", ".pt", ".npy", ".npz", ".parquet")
"""Suffixes of feature files, the ones that say most first."""


@dataclass(frozen=True)
class Located:
    """The feature file of a row.

    Attributes:
        path: absolute; where there is no such file, the one that was expected; "" where the row names none.
        rivals: positions of other rows whose slides have the same name, where that keeps a file that is there from
            being this row's; ``path`` is then not to be opened.
    """

    path: str
    rivals: tuple[int, ...] = ()


def without_slide_suffix(name: str) -> str:
    """A slide's name without the suffix of a slide; what follows another dot is part of the name (``P1.2``)."""
    known = max((suffix for suffix in OF_SLIDES if name.lower().endswith(suffix)), key=len, default="")
    return name[: len(name) - len(known)] or name


def is_bag_name(name: str) -> bool:
    """Whether a name ends as those of feature files do."""
    return name.lower().endswith(OF_BAGS)


def locate_features(folder: Path, values: Sequence[str], ids: Sequence[str]) -> list[Located]:
    """The feature files of slides in one folder: ``locate_files`` with the suffixes of feature files."""
    return locate_files(folder, values, ids, OF_BAGS)


def locate_files(folder: Path, values: Sequence[str], ids: Sequence[str], suffixes: tuple[str, ...]) -> list[Located]:
    """The files that belong to slides, by exact names, in one folder.

    A file may bear the row's id, the slide's name, or that name without the suffix of a slide, in front of it the
    slide's folders where two slides share a name (``<folder>-<slide>.h5``). A name that several slides of the table
    have belongs to none of them.

    Args:
        folder: of the files.
        values: of each row, the slide's path or name, or the name of such a file, which is then taken as it is.
        ids: of each row; "" where the table names none.
        suffixes: of the files, in small letters, the ones that say most first.

    Raises:
        InputError: the folder cannot be read.
    """

    def is_file_name(name: str) -> bool:
        return name.lower().endswith(suffixes)

    try:
        with os.scandir(folder) as entries:
            there = {entry.name for entry in entries if entry.is_file()}
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be read: {error.strerror}") from None
    slides = {os.path.normpath(value): _names(value) for value in values if value and not is_file_name(value)}
    plain = Counter(name for names in slides.values() for name in names[0])
    longer = Counter(name for names in slides.values() for name in names[1])
    rows_of: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        for name in _names(value)[0] if value and not is_file_name(value) else ():
            rows_of.setdefault(name, []).append(row)

    def file_of(name: str) -> str | None:
        return next((name + suffix for suffix in suffixes if name + suffix in there), None)

    def locate(row: int, value: str, id: str) -> Located:
        if is_file_name(value):
            return Located(os.path.normpath(folder / value))
        if id and (found := file_of(id)):
            return Located(str(folder / found))
        if not value:
            return Located(str(folder / f"{id}{suffixes[0]}") if id else "")
        own, with_folders = _names(value)
        names = [name for name in with_folders if longer[name] == 1 and not plain[name]]
        names += [name for name in own if plain[name] == 1]
        for name in names:
            if found := file_of(name):
                return Located(str(folder / found))
        rivals = {other for name in own if plain[name] > 1 and file_of(name) for other in rows_of[name]} - {row}
        rivals = {other for other in rivals if os.path.normpath(values[other]) != os.path.normpath(value)}
        return Located(
            str(folder / f"{id or without_slide_suffix(PurePath(value).name)}{suffixes[0]}"), (*sorted(rivals),)
        )

    return [locate(row, value, id) for row, (value, id) in enumerate(zip(values, ids, strict=True))]


def _names(value: str) -> tuple[list[str], list[str]]:
    """Names without suffix of a slide's feature file: its own, and those with its folders in front, longest first."""
    parts = [part for part in PurePath(os.path.normpath(value)).parts if part not in ("/", "..")]
    joined = ["-".join(parts[start:]) for start in range(len(parts))]
    both = [[name, without_slide_suffix(name)] for name in joined]
    own = list(dict.fromkeys(both[-1])) if both else []
    return own, list(dict.fromkeys(name for pair in both[:-1] for name in pair))


def why_of_another(said: str, facts: AnyProvenance | None, named: str, slide: Path | None) -> str:
    """In words, why a feature file cannot be that of a slide; "" where nothing stands against it.

    Args:
        said: name of the slide that the file was made from, as it says itself; "" where it does not.
        facts: what medsoft's own files say.
        named: the slide's path or name in the table.
        slide: the slide's file, where it is there to be compared.
    """
    if said and named and not _same_name(said, named):
        return "the file says that it was made from another slide"
    is_image = isinstance(facts, ImageProvenance)
    if facts is not None and slide is not None and facts.quick_hash and (is_image or slide.is_file()):
        try:
            found = sample_hash(slide) if is_image else quick_hash(slide)
        except OSError:
            return ""
        if found != facts.quick_hash:
            return CHANGED_IMAGE if is_image else CHANGED_SLIDE
    return ""


def _same_name(said: str, named: str) -> bool:
    """Whether two names of a slide are one; a suffix that one of them lacks is not compared."""
    one, other = PurePath(said).name, PurePath(named).name
    stems = without_slide_suffix(one), without_slide_suffix(other)
    if one != stems[0] and other != stems[1]:
        return stems[0] == stems[1] and one.lower() == other.lower()
    return stems[0] == stems[1] or one == other
