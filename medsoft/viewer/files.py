"""The cases of files: pictures, volumes and slides in a folder, or named one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsoft.data.dicom.series import SUFFIXES as DICOM
from medsoft.data.features.names import locate_files, without_slide_suffix
from medsoft.errors import InputError
from medsoft.slides.annotations.read import SUFFIXES as OF_ANNOTATIONS
from medsoft.storage.files import open_regular_file
from medsoft.storage.walk import passed_in_words, special_kind, walk
from medsoft.viewer.cases import Case, Kind, Place, is_inside, kind_of_file


def find_files(folder: Path, place: int) -> tuple[Place, list[Case], list[str]]:
    """The cases of a folder and the folders below it.

    Files that a link leads to outside of the folder are left out: what was not named is not shown.

    Args:
        folder: of files.
        place: its index.

    Returns:
        The place, its cases by name, and what was passed over.

    Raises:
        InputError: there is nothing that can be shown.
    """
    found = walk(folder)
    root = folder.resolve()
    inside = [path for path in found.files if is_inside(path, [root])]
    notes = [f"{path}: {reason}" for path, reason in found.problems]
    if outside := len(found.files) - len(inside):
        notes.append(
            f"{folder}: {outside} links lead out of this folder and are left out; name where they lead as well"
        )
    if line := passed_in_words(found.passed):
        notes.append(f"{folder}: {line}")
    dicom = [path for path in inside if path.suffix.lower() in DICOM or (not path.suffix and _is_dicom(path))]
    others = sorted(set(inside) - set(dicom))
    cases = [_case(path, kind, folder, place) for path in others if (kind := kind_of_file(str(path))) != "none"]
    cases += _of_dicom(folder, dicom, place, notes)
    if not cases:
        raise InputError(f"{folder}: holds no run, no slides, and no picture, volume or slide that can be shown")
    cases = with_regions(cases, [path for path in inside if path.suffix.lower() in OF_ANNOTATIONS])
    return Place(folder.resolve().name, folder), sorted(cases, key=lambda case: case.name), notes


def find_file(path: Path, place: int) -> tuple[Place, list[Case], list[str]]:
    """The case of one file.

    Raises:
        InputError: it is of no kind that can be shown.
    """
    if kind := special_kind(path):
        raise InputError(f"{path}: is {kind}, not a file")
    notes: list[str] = []
    if path.suffix.lower() in DICOM or (not path.suffix and _is_dicom(path)):
        cases = _of_dicom(path.parent, [path], place, notes)
    else:
        shown = kind_of_file(str(path))
        cases = [] if shown == "none" else [_case(path, shown, path.parent, place)]
    if not cases:
        raise InputError(notes[0] if notes else f"{path}: is no picture, volume or slide that can be shown")
    return Place(path.name, path.parent), cases, notes


def _case(path: Path, kind: Kind, folder: Path, place: int) -> Case:
    return Case(str(path.relative_to(folder)), kind, place, str(path.absolute()))


def _is_dicom(path: Path) -> bool:
    from medsoft.data.dicom.header import is_dicom  # pydicom waits until there is such a file

    try:
        with open_regular_file(path) as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


def _of_dicom(folder: Path, paths: Sequence[Path], place: int, notes: list[str]) -> list[Case]:
    """Series and pictures, as ``medsoft data index`` tells them apart, and slides."""
    if not paths:
        return []
    from medsoft.data.dicom.index import index_table
    from medsoft.data.dicom.series import read_instances

    slides = [path for path in paths if _is_slide(path)]
    read, failed, _ = read_instances([path for path in paths if path not in slides])
    table, problems = index_table(folder, read, failed, salt=b"")
    shown: dict[str, Kind] = {"volume": "volume", "image": "picture"}
    cases = []
    for path, kind in zip(table["path"], table["kind"], strict=True):
        file, _, series = str(path).partition("#")
        name = str(Path(file).relative_to(folder)) + (f"#{series}" if series else "")
        cases.append(Case(name, shown[kind], place, str(Path(file).absolute()) + (f"#{series}" if series else "")))
    notes += [f"{path}: {reason}" for path, _, reason in problems]
    return cases + [_case(path, "slide", folder, place) for path in slides]


def _is_slide(path: Path) -> bool:
    """Whether a DICOM file is of slide microscopy."""
    from medsoft.data.dicom.header import open_dicom, word
    from medsoft.errors import ReadError

    try:
        with path.open("rb") as file:
            return word(open_dicom(file, pixels=False, tags=["Modality"]), "Modality") == "SM"
    except (OSError, ReadError):
        return False


def annotation_files(path: Path) -> list[Path]:
    """The annotation files of a folder that holds no other files, or the one file; [] of anything else."""
    if path.is_file():
        return [path] if path.suffix.lower() in OF_ANNOTATIONS else []
    files = [inside for inside in sorted(path.iterdir()) if not inside.name.startswith(".")]
    return files if files and all(one.is_file() and one.suffix.lower() in OF_ANNOTATIONS for one in files) else []


def with_regions(cases: Sequence[Case], files: Sequence[Path]) -> list[Case]:
    """The cases, slides among them with the annotation files that are named after them."""
    slides = [index for index, case in enumerate(cases) if case.kind == "slide"]
    paths = [cases[index].path for index in slides]
    ids = [without_slide_suffix(Path(cases[index].name).name) for index in slides]
    found: dict[int, list[Path]] = {}
    for folder in dict.fromkeys(file.parent for file in files):
        for suffix in OF_ANNOTATIONS:
            for index, located in zip(slides, locate_files(folder, paths, ids, (suffix,)), strict=True):
                if located.path in map(str, files):
                    found.setdefault(index, []).append(Path(located.path))
    return [
        replace(case, regions=(*case.regions, *found[index])) if index in found else case
        for index, case in enumerate(cases)
    ]
