"""Finds the series in a folder or a DICOMDIR, and the files of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pydicom.uid import DeflatedExplicitVRLittleEndian

from medsoft.data.dicom.frames import TAGS, Instance, read_frames
from medsoft.data.dicom.header import (
    MAX_RATIO,
    NO_PIXELS,
    SEGMENTATIONS,
    SMALL_BYTES,
    NoPictureError,
    check_picture,
    is_dicom,
    items,
    open_dicom,
    word,
)
from medsoft.data.dicom.stated import check_declared
from medsoft.data.dicom.tell_apart import is_selected, none_selected
from medsoft.errors import ReadError
from medsoft.storage.walk import Walk, special_kind, walk

SUFFIXES = (".dcm", ".dicom", ".ima")
"""A file with such a name that is not DICOM is damaged; of other names, it is a file that just lies there."""

SERIES_NAME = re.compile(r"[0-9.]+")
SHOWN = 5


def dicom_files(place: Path) -> list[Path]:
    """The DICOM files of a folder and those below it, or those that a DICOMDIR lists (there or not), sorted by name.

    Raises:
        ReadError: the file is no DICOMDIR, or a part of the folder cannot be opened, so that slices may be missing.
    """
    found = find_dicom(place)
    if problems := found.problems:
        path, reason = problems[0]
        place_of_it = path.relative_to(place) if path != place else Path(path.name)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ReadError(f"holds {place_of_it}, which {reason}{more}: what it holds may belong to the series")
    return found.files


def find_dicom(place: Path) -> Walk:
    """What ``dicom_files`` gives, with what was passed over and could not be followed (``medsoft.storage.walk``).

    A DICOMDIR in a folder is left out: what it lists is found there by itself.

    Raises:
        ReadError: the file is no DICOMDIR.
    """
    if kind := special_kind(place):
        raise ReadError(f"is {kind}, not a file")
    if not place.is_dir():
        return Walk(listed_files(place))
    found = walk(place)
    found.keep(lambda path: path.name.upper() != "DICOMDIR" and _may_be_dicom(path))
    return found


def listed_files(dicomdir: Path) -> list[Path]:
    """The files that the records of a DICOMDIR name (PS3.3, F.3).

    Raises:
        ReadError: it is no DICOMDIR, is damaged, or lists nothing.
    """
    dataset = open_dicom(dicomdir)
    names = []
    for record in items(dataset, "DirectoryRecordSequence"):
        try:
            parts = record.get("ReferencedFileID")
        except Exception:  # pydicom converts values when they are asked for
            raise ReadError("is a DICOMDIR that is damaged") from None
        if parts:
            names.append([parts] if isinstance(parts, str) else [str(part) for part in parts])
    if not names:
        raise ReadError("is a DICOM file that lists no files: give a DICOMDIR, or the folder of the files")
    return sorted({_on_this_disk(dicomdir.parent, parts) for parts in names})


def read_instances(
    paths: Iterable[Path], progress: Callable[[], object] | None = None, *, masks: bool = False
) -> tuple[list[Instance], list[tuple[Path, str]], list[tuple[Path, str]]]:
    """Read the headers of files.

    Args:
        paths: the files.
        progress: called after each, for a progress bar.
        masks: whether segmentations are read too.

    Returns:
        What was read; the files that cannot be, with reasons; and the objects that are no pictures (reports, ECGs,
        segmentations), with what they are.
    """
    read, failed, others = [], [], []
    for path in paths:
        try:
            with path.open("rb") as file:
                header = open_dicom(file, pixels=False, tags=TAGS)
                ended = not file.read(1)
            check_picture(header, pixels=False)
            deflated = header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
            size = path.stat().st_size
            check_declared(header, max(SMALL_BYTES, MAX_RATIO * size) if deflated else size)
            # Of a deflated file pydicom reads all at once.
            if ended and not deflated:
                raise ReadError(NO_PIXELS)
            if word(header, "SOPClassUID") in SEGMENTATIONS and not masks:
                raise NoPictureError("is a segmentation, a mask of an image")
            read.append(Instance(path, header, read_frames(header, path)))
        except NoPictureError as error:
            others.append((path, error.reason))
        except ReadError as error:
            failed.append((path, error.reason))
        except OSError as error:
            failed.append((path, f"cannot be opened: {error.strerror}"))
        except Exception as error:  # hostile bytes raise anything, in words that may quote the header
            failed.append((path, f"is a damaged DICOM file ({type(error).__name__})"))
        finally:
            if progress:
                progress()
    return read, failed, others


def choose(instances: Sequence[Instance], series: str | None, select: Sequence[str] = ()) -> list[Instance]:
    """The files of one series, with the frames that are selected.

    Args:
        instances: of a folder.
        series: a SeriesInstanceUID, its beginning, or a SeriesNumber; None where there is one series only.
        select: as ``parse_select`` returns it.

    Raises:
        ReadError: it is not clear which series is meant, no frame is selected, a file is there twice, or the sizes
            differ.
    """
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.series, []).append(instance)
    if series is not None:
        groups = {uid: group for uid, group in groups.items() if _is_named(group[0], series)}
        if not groups:
            raise ReadError(f"holds no series {series}")
    if len(groups) > 1:
        listed = "; ".join(_described(group) for group in list(groups.values())[:SHOWN])
        more = f"; and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
        raise ReadError(
            f"holds {len(groups)} series ({listed}{more}): name one behind the path with # and its number or the "
            "beginning of its SeriesInstanceUID, as in FOLDER#3, or let medsoft data index make the table"
        )
    (chosen,) = groups.values()
    names = Counter(word(instance.header, "SOPInstanceUID") for instance in chosen)
    if twice := sum(1 for name, n in names.items() if n > 1 and name):
        raise ReadError(f"holds {twice} of its {len(names)} images twice (the same SOPInstanceUID): delete the copies")
    chosen = _selected(chosen, select)
    sizes = Counter(instance.size for instance in chosen)
    if len(sizes) > 1:
        listed = ", ".join(f"{n} of {height} x {width}" for (height, width), n in sizes.most_common())
        raise ReadError(f"holds slices of different sizes ({listed}; a localiser among them?): keep those of one size")
    return chosen


def _selected(instances: list[Instance], select: Sequence[str]) -> list[Instance]:
    if not select:
        return instances
    left = [
        replace(instance, frames=[frame for frame in instance.frames if is_selected(frame.keys, select)])
        for instance in instances
    ]
    if not any(instance.frames for instance in left):
        raise none_selected([frame.keys for instance in instances for frame in instance.frames], select)
    return [instance for instance in left if instance.frames]


def _is_named(instance: Instance, series: str) -> bool:
    number = word(instance.header, "SeriesNumber")
    return series == number or instance.series == series or ("." in series and instance.series.startswith(series))


def _described(group: list[Instance]) -> str:
    header = group[0].header
    height, width = group[0].size
    frames = sum(len(instance.frames) for instance in group)
    number = word(header, "SeriesNumber") or "without a number"
    return f"series {number}, {word(header, 'Modality') or 'no modality'}, {frames} of {height} x {width}"


def _may_be_dicom(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:  # nobody knows what it is: reading it says why
        return True


def _on_this_disk(folder: Path, parts: list[str]) -> Path:
    """The listed file; media copied by other systems have names in small letters, or a version behind."""
    path = folder.joinpath(*parts)
    lower = folder.joinpath(*(part.lower() for part in parts))
    return lower if lower.exists() and not path.exists() else path
