"""Makes a table of a folder of DICOM files: one row per series, or per image without a position in the patient."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medsoft.data.dicom.frames import Instance
from medsoft.data.dicom.header import number, numbers, word
from medsoft.data.dicom.pseudonyms import pseudonym
from medsoft.data.dicom.series import choose
from medsoft.data.dicom.stack import stack
from medsoft.errors import ReadError

COLUMNS = (
    "id", "path", "patient", "exam", "kind", "modality", "laterality", "view", "rows", "columns", "slices",
    "time_points", "spacing_x_mm", "spacing_y_mm", "spacing_z_mm", "series_number", "study_uid", "series_uid",
    "frame_of_reference_uid",
)  # fmt: skip
Problems = list[tuple[Path | str, str, str]]
"""Path, stage and reason, as in ``errors.csv``."""


def index_table(
    place: Path,
    instances: Sequence[Instance],
    failed: Sequence[tuple[Path, str]],
    salt: bytes,
    select: Sequence[str] = (),
) -> tuple[pd.DataFrame, Problems]:
    """Make a sample table.

    Args:
        place: the folder or DICOMDIR that was walked.
        instances: its pictures.
        failed: its files that could not be read, with reasons.
        salt: for the names of patients, exams and samples.
        select: as for ``read_volume``, which must then be given it too.

    Returns:
        ``COLUMNS``, sorted by path; and what is not in it: files that cannot be read, copies, series that make no
        volume, loops.
    """
    problems: Problems = [(path, "read", reason) for path, reason in failed]
    rows = []
    groups: dict[str, list[Instance]] = defaultdict(list)
    series_below: dict[Path, set[str]] = defaultdict(set)
    for instance in instances:
        groups[instance.series].append(instance)
        for folder in instance.path.parents:
            series_below[folder].add(instance.series)
    for group in groups.values():
        kept, copies = _without_copies(group)
        problems += [(path, "duplicate", f"is a copy of {first} (the same SOPInstanceUID)") for path, first in copies]
        if any(frame.position and frame.orientation for instance in kept for frame in instance.frames):
            path, root = _path_of_series(place, kept, series_below)
            try:
                _check_neighbours(root, [path for path, _ in failed], [path for path, _ in copies])
                rows.append({"path": path, **_names(kept[0], salt), **_volume(kept, select)})
            except ReadError as error:
                problems.append((path, "index", error.reason))
            continue
        for instance in kept:
            try:
                sample = pseudonym(salt, "image", word(instance.header, "SOPInstanceUID"))
                rows.append({"path": str(instance.path), **_names(instance, salt), **_image(instance), "id": sample})
            except ReadError as error:
                problems.append((instance.path, "index", error.reason))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("path", kind="stable").reset_index(drop=True)
    return table, sorted(problems, key=lambda problem: str(problem[0]))


def _without_copies(group: list[Instance]) -> tuple[list[Instance], list[tuple[Path, Path]]]:
    first: dict[str, Instance] = {}
    copies = []
    for instance in group:
        name = word(instance.header, "SOPInstanceUID") or str(instance.path)
        if name in first:
            copies.append((instance.path, first[name].path))
        else:
            first[name] = instance
    return list(first.values()), copies


def _path_of_series(place: Path, group: list[Instance], series_below: dict[Path, set[str]]) -> tuple[str, Path | None]:
    """What ``read_volume`` reads this series by, and the folder whose files it then looks through, if any."""
    if len(group) == 1:
        return str(group[0].path), None
    name = group[0].series
    if not place.is_dir():
        return f"{place}#{name}", place.parent
    root = Path(os.path.commonpath([instance.path.parent for instance in group]))
    return (str(root) if series_below[root] == {name} else f"{root}#{name}"), root


def _check_neighbours(root: Path | None, failed: list[Path], copies: list[Path]) -> None:
    """Refuse what ``read_volume`` would refuse: files beside the series that may be, or are again, parts of it."""
    if near := _below(root, failed):
        raise ReadError(f"lies beside {near} DICOM files that cannot be read, which may belong to it: see there")
    if near := _below(root, copies):
        raise ReadError(f"has {near} copies of its own images beside it: delete them")


def _below(root: Path | None, paths: list[Path]) -> int:
    return sum(root in path.parents for path in paths)


def _volume(group: list[Instance], select: Sequence[str]) -> dict[str, object]:
    chosen = choose(group, None, select)
    stacked = stack([frame for instance in chosen for frame in instance.frames], select)
    rows, columns = chosen[0].size
    x, y, z = (float((stacked.affine[:3, axis] ** 2).sum() ** 0.5) for axis in range(3))
    sides = {instance.laterality for instance in chosen}
    return {
        "kind": "volume",
        "laterality": (sides.pop() if len(sides) == 1 else None) or "",
        "view": "",
        "rows": rows,
        "columns": columns,
        "slices": len(stacked.frames[0]),
        "time_points": len(stacked.frames),
        "spacing_x_mm": round(x, 6),
        "spacing_y_mm": round(y, 6),
        "spacing_z_mm": round(z, 6),
    }


def _image(instance: Instance) -> dict[str, object]:
    if len(instance.frames) > 1:
        raise ReadError(f"holds {len(instance.frames)} frames without a place in the patient: a loop, not a sample")
    rows, columns = instance.size
    spacing = numbers(instance.header, "PixelSpacing", 2) or numbers(instance.header, "ImagerPixelSpacing", 2)
    return {
        "kind": "image",
        "laterality": instance.laterality or "",
        "view": word(instance.header, "ViewPosition"),
        "rows": rows,
        "columns": columns,
        "slices": 1,
        "time_points": 1,
        "spacing_x_mm": spacing[1] if spacing else None,
        "spacing_y_mm": spacing[0] if spacing else None,
        "spacing_z_mm": None,
    }


def _names(instance: Instance, salt: bytes) -> dict[str, object]:
    header = instance.header
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        if not word(header, keyword):
            raise ReadError(f"does not say its {keyword}")
    series = number(header, "SeriesNumber")
    return {
        "id": pseudonym(salt, "series", instance.series),
        "patient": pseudonym(salt, "patient", word(header, "PatientID")),
        "exam": pseudonym(salt, "exam", word(header, "StudyInstanceUID")),
        "modality": word(header, "Modality"),
        "series_number": "" if series is None else str(int(series)),
        "study_uid": word(header, "StudyInstanceUID"),
        "series_uid": instance.series,
        "frame_of_reference_uid": word(header, "FrameOfReferenceUID"),
    }
