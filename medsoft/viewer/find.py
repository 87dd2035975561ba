"""Finds what is behind the words of ``medsoft view``: runs, folders of slides, folders of files, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsoft.errors import InputError
from medsoft.viewer.cases import Case, Collection, Place
from medsoft.viewer.files import annotation_files, find_file, find_files, with_regions
from medsoft.viewer.results import find_results, is_results


def find_cases(paths: Sequence[str], patients: bool = False) -> Collection:
    """All cases that are named.

    A folder of annotation files, or one such file, is no place of its own: its regions are drawn on the slides after
    which the files are named.

    Args:
        paths: folders of runs, of ``medsoft slides``, or of files; or files.
        patients: whether columns of patients are shown.

    Raises:
        InputError: a path is not there, or holds nothing that can be shown; all such paths are listed.
    """
    if not paths:
        raise InputError("name what to view: the folder of a run, a folder of slides or of images, or files")
    places: list[Place] = []
    cases: list[Case] = []
    notes: list[str] = []
    regions: list[Path] = []
    problems: list[str] = []
    for word in dict.fromkeys(paths):
        path = Path(word)
        if not path.exists():
            problems.append(f"{word}: no such file or folder")
            continue
        if found := annotation_files(path):
            regions += found
            continue
        try:
            if path.is_dir():
                is_known = is_results(path)
                place, inside, said = (
                    find_results(path, len(places), patients) if is_known else find_files(path, len(places))
                )
            else:
                place, inside, said = find_file(path, len(places))
        except InputError as error:
            problems.append(str(error))
            continue
        places.append(place)
        cases += inside
        notes += said
    if not problems and not cases:
        problems.append("these files hold regions alone: name the slides too")
    if problems:
        raise InputError("\n".join(problems))
    return Collection(places, with_regions(cases, regions), notes)
