"""Checks volumes for ``medsoft data check``: reads each one, and summarises them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from medsoft.data.images.read import locate
from medsoft.data.tables.problems import Problem
from medsoft.data.volumes.mask import read_mask
from medsoft.data.volumes.read import locate_series, read_volume
from medsoft.data.volumes.rows import VolumeFiles, VolumeRow
from medsoft.data.volumes.volume import Time, check_box, check_varies
from medsoft.errors import ReadError

THREADS = 4  # each holds a volume
LONG = 3.0
"""From how many times as long as wide voxels are worth a note."""

ADVICE = {
    "unreadable volume": "export these volumes again, or delete the rows",
    "constant volume": "export these volumes again, or delete the rows: no model learns from them",
    "other channels": "delete these rows, or name the columns of all phases with path",
    "box outside": "correct the columns of the box: voxels as read, counted from 0",
    "unusable mask": "save these masks on the grids of their volumes, or delete the rows",
}


@dataclass(frozen=True)
class VolumeFacts:
    """What was found in a volume.

    Attributes:
        row: of the table, from 1.
        column: that names it.
        shape: voxels along X, Y and Z.
        spacing_mm: of these.
        channels: 1, or the time points.
        modality: "" where the file does not say it.
        oriented: whether the file says how it lies in the patient.
        forms_differ: whether sform and qform of a NIfTI file lie a little apart.
    """

    row: int
    column: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    channels: int
    modality: str
    oriented: bool
    forms_differ: bool = False


def check_volumes(
    files: VolumeFiles,
    rows: Sequence[int],
    time: Time,
    mask_values: Sequence[int] | None,
    max_voxels: int,
    progress: Callable[[], object],
    select: Sequence[str] = (),
) -> tuple[list[Problem], list[VolumeFacts], dict[int, str]]:
    """Read every volume and mask of these rows.

    Args:
        files: of the table.
        rows: numbers from 1.
        time: as for ``read_volume``.
        mask_values: as for ``read_mask``.
        max_voxels: as for ``read_volume``.
        progress: called after each row.
        select: as for ``read_volume``.

    Returns:
        All problems, and what could be read, both in the order of the rows; and by row what its voxels, mask, box and
        side are known by, where all could be read. Files that are not there are left to ``VolumeFiles.check``.
    """

    def look(number: int) -> tuple[list[Problem], list[VolumeFacts], str]:
        found = _look(number, files.of(number), files.columns, time, mask_values, max_voxels, select)
        progress()
        return found

    pool = ThreadPoolExecutor(THREADS)
    try:
        found = list(pool.map(look, rows))
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all volumes still queued
    facts = [fact for _, several, _ in found for fact in several]
    contents = {row: key for row, (_, _, key) in zip(rows, found, strict=True) if key}
    return [problem for several, _, _ in found for problem in several] + _other_channels(facts), facts, contents


def passed_over(files: VolumeFiles, rows: Sequence[int]) -> Counter[str]:
    """What is passed over in the folders of DICOM series that rows name, each folder counted once."""
    from medsoft.data.dicom.series import find_dicom  # pydicom waits until there are volumes

    names = {path for number in rows for path in files.of(number).paths if path}
    places = {Path(locate_series(locate(name)[0])[0]) for name in names}
    passed: Counter[str] = Counter()
    for place in places:
        if place.is_dir():
            passed += find_dicom(place).passed
    return passed


def _look(
    number: int,
    row: VolumeRow,
    columns: Sequence[str],
    time: Time,
    mask_values: Sequence[int] | None,
    max_voxels: int,
    select: Sequence[str],
) -> tuple[list[Problem], list[VolumeFacts], str]:
    arrays = []
    inside = None
    problems: list[Problem] = []
    facts: list[VolumeFacts] = []

    def wrong(kind: str, message: str) -> None:
        problems.append(Problem(kind, (number,), message, ADVICE[kind]))

    first = next(filter(None, row.paths), "")
    grid = None  # of the first volume, which box and mask belong to
    for column, path in zip(columns, row.paths, strict=True):
        if not _is_there(path):
            continue
        try:
            volume = read_volume(path, time=time, max_voxels=max_voxels, select=select)
        except ReadError as error:
            wrong("unreadable volume", error.reason if len(columns) == 1 else f"{column}: {error.reason}")
            continue
        try:
            check_varies(volume)
        except ReadError as error:
            wrong("constant volume", error.reason if len(columns) == 1 else f"{column}: {error.reason}")
        grid = volume if path == first else grid
        arrays.append(volume.array)
        oriented = volume.meta.get("orientation") != "unknown"
        modality = volume.modality or ""
        size = (volume.shape, volume.spacing_mm, len(volume.array))
        differ = volume.meta.get("forms") == "differ"
        facts.append(VolumeFacts(number, column, *size, modality, oriented, differ))
    if grid is not None and row.box is not None:
        try:
            check_box(row.box, grid.shape)
        except ValueError as error:
            wrong("box outside", str(error))
    if grid is not None and _is_there(row.mask) and row.mask not in row.paths:
        try:
            inside = read_mask(row.mask, grid, mask_values, max_voxels=max_voxels)
        except ReadError as error:
            wrong("unusable mask", error.reason)
    whole = not problems and len(facts) == len(list(filter(None, row.paths))) > 0
    return problems, facts, row.known_by(arrays, inside) if whole else ""


def _is_there(path: str) -> bool:
    return bool(path) and Path(locate_series(locate(path)[0])[0]).exists()


def _other_channels(facts: Sequence[VolumeFacts]) -> list[Problem]:
    expected: dict[str, int] = {}
    problems = []
    for fact in facts:
        first = expected.setdefault(fact.column, fact.channels)
        if fact.channels != first:
            message = f"has {fact.channels} channels or phases, where the first sample has {first}"
            problems.append(Problem("other channels", (fact.row,), message, ADVICE["other channels"]))
    return problems


def volumes_table(facts: Sequence[VolumeFacts]) -> Table:
    """What the volumes of each column are, for the terminal."""
    table = Table("volumes", "files", "channels", "voxels", "spacing in mm", "modality")
    for column in dict.fromkeys(fact.column for fact in facts):
        own = [fact for fact in facts if fact.column == column]
        modalities = Counter(fact.modality or "not said" for fact in own).most_common()
        table.add_row(
            Text(column),
            str(len(own)),
            _range([fact.channels for fact in own]),
            " × ".join(_range(sides) for sides in zip(*(fact.shape for fact in own), strict=True)),
            " × ".join(_range(sides) for sides in zip(*(fact.spacing_mm for fact in own), strict=True)),
            ", ".join(f"{n} {name}" for name, n in modalities),
        )
    return table


def volumes_notes(facts: Sequence[VolumeFacts]) -> list[str]:
    """What is no problem, but should be known before a training."""
    notes = []
    long = [fact for fact in facts if max(fact.spacing_mm) > LONG * min(fact.spacing_mm)]
    if long:
        notes.append(
            f"{len(long)} volumes have voxels more than {LONG:g} times as long as wide; transforms.spacing_mm resamples"
        )
    if unknown := sum(not fact.oriented for fact in facts):
        notes.append(f"{unknown} volumes do not state their orientation in the patient; their axes are taken as RAS+")
    if apart := sum(fact.forms_differ for fact in facts):
        notes.append(f"{apart} NIfTI volumes have an sform and a qform that differ slightly; the sform is used")
    return notes


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}–{high}"
