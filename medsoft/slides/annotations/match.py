"""Finds the annotation file of each slide: by name, as feature files are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsoft.data.features.names import locate_files
from medsoft.errors import InputError, SlideError
from medsoft.slides.annotations.annotation import listed
from medsoft.slides.annotations.read import SUFFIXES, read_annotations
from medsoft.slides.annotations.settings import RegionOptions
from medsoft.slides.source import SlideSource


def with_annotations(
    sources: Sequence[SlideSource], options: RegionOptions, classes: Sequence[str] = ()
) -> list[SlideSource]:
    """The slides with their annotation files, where regions are named.

    A slide that has no file fails when its regions are needed, or counts as one without regions, as the options say.

    Args:
        sources: the slides.
        options: where the regions are.
        classes: that must exist.

    Raises:
        InputError: there is no such file or folder, no slide has a file, files are not named clearly, or a class exists
            in none of the files.
    """
    if options.regions is None:
        return list(sources)
    place = Path(options.regions)
    if place.is_dir():
        files = _in_folder(place, sources)
    elif not place.exists():
        raise InputError(f"--regions {place}: no such file or folder")
    elif len(sources) == 1:
        files = [place]
    else:
        raise InputError(
            f"--regions {place}: one file cannot be that of {len(sources)} slides: name the folder of their files"
        )
    _check_classes([file for file in files if file is not None], classes)
    return [
        replace(source, annotations=options.source(file and file.absolute()))
        for source, file in zip(sources, files, strict=True)
    ]


def _in_folder(folder: Path, sources: Sequence[SlideSource]) -> list[Path | None]:
    """The file of each slide; None where it has none."""
    paths, ids = [str(source.path) for source in sources], [source.id for source in sources]
    problems: list[str] = []
    found: list[Path | None] = [None] * len(sources)
    for suffix in SUFFIXES:
        for row, located in enumerate(locate_files(folder, paths, ids, (suffix,))):
            if located.rivals:
                others = ", ".join(ids[rival] for rival in located.rivals)
                problems.append(f"{ids[row]}: a {suffix} file bears its name and that of {others}")
            elif Path(located.path).is_file():
                before = found[row]
                if before is not None:
                    problems.append(f"{ids[row]}: two files, {before.name} and {Path(located.path).name}")
                found[row] = Path(located.path)
    if problems:
        raise InputError("\n".join([f"--regions {folder}: it is not clear which file is whose", *problems]))
    if not any(found):
        there = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES))
        shown = f"such as {there[0]}" if there else "none"
        raise InputError(
            f"--regions {folder}: no file is named after a slide ({sources[0].id}{', '.join(SUFFIXES)}); annotation "
            f"files there: {shown}"
        )
    return found


def _check_classes(files: Sequence[Path], classes: Sequence[str]) -> None:
    """Refuse a class that none of the files has; files that cannot be read fail later, with their slides."""
    missing = set(classes)
    there: Counter[str] = Counter()
    for file in files:
        if not missing:
            return
        try:
            there += read_annotations(file).classes
        except SlideError:
            continue
        missing -= there.keys()
    if missing:
        raise InputError(
            f"no region has the class {', '.join(map(repr, sorted(missing)))}; classes in {len(files)} annotation "
            f"{'file' if len(files) == 1 else 'files'}: {listed(there)}"
        )
