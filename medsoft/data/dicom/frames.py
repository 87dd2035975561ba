"""Reads from a file's header the position, time and scaling of each of its frames.

A file of one slice says it once, an enhanced multi-frame file in functional groups, shared or one a frame
(DICOM PS3.3, C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from medsoft.data.dicom import tell_apart
from medsoft.data.dicom.header import count, items, numbers, word
from medsoft.data.dicom.tell_apart import Keys
from medsoft.errors import ReadError

TAGS: tuple[str | BaseTag, ...] = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
    "Modality", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "RescaleType", "Laterality", "ImageLaterality",
    "ViewPosition", "PatientID", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "AccessionNumber", *tell_apart.TAGS,
)  # fmt: skip
"""Elements that are read of a header to sort a series; PatientID and AccessionNumber identify, and are only hashed or
compared."""


@dataclass(frozen=True)
class Frame:
    """One frame, in the standard's patient coordinates (x to the left, y to the back, z to the head) in mm.

    Attributes:
        file: the file that it is in.
        index: its number in that file, from 0.
        position: of the centre of its first pixel; None where the file does not say it.
        orientation: direction cosines of increasing column, then of increasing row.
        spacing: between rows, then between columns, in mm.
        thickness: distance to a neighbour if it were alone, in mm.
        slope: real value = slope × stored value + intercept.
        intercept: see slope.
        keys: what may tell it from frames at the same place; see ``medsoft.data.dicom.tell_apart``.
    """

    file: Path
    index: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float
    intercept: float
    keys: Keys = field(default_factory=dict)


@dataclass(frozen=True)
class Instance:
    """What the header of one file says.

    Attributes:
        path: the file.
        header: its elements, those of ``TAGS`` at least.
        frames: its frames, in the file's order.
    """

    path: Path
    header: Dataset = field(repr=False)
    frames: list[Frame] = field(repr=False)

    @property
    def series(self) -> str:
        """Its SeriesInstanceUID, or "" for a file that says none."""
        return word(self.header, "SeriesInstanceUID")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return count(self.header, "Rows"), count(self.header, "Columns")

    @property
    def laterality(self) -> str | None:
        """L, R or B (both), or None."""
        groups = items(self.header, "PerFrameFunctionalGroupsSequence")[:1]
        groups += items(self.header, "SharedFunctionalGroupsSequence")
        sides = [word(item, "FrameLaterality") for item in _items_of(groups, "FrameAnatomySequence")]
        sides += [word(self.header, "ImageLaterality"), word(self.header, "Laterality")]
        return next((side for side in sides if side in ("L", "R", "B")), None)


def read_frames(header: Dataset, path: Path) -> list[Frame]:
    """The frames of a file, once ``check_declared`` found that it can hold as many as it states.

    Raises:
        ReadError: elements have values that make no sense, such as a RescaleSlope of 0, which would make every pixel
            the same.
    """
    return list(_frames(header, path))


def _frames(header: Dataset, path: Path) -> Iterator[Frame]:
    own, shared = items(header, "PerFrameFunctionalGroupsSequence"), items(header, "SharedFunctionalGroupsSequence")
    for index in range(count(header, "NumberOfFrames")):
        groups = own[index : index + 1] + shared
        measures = [*_items_of(groups, "PixelMeasuresSequence"), header]
        scaling = [*_items_of(groups, "PixelValueTransformationSequence"), header]
        slope, intercept = _or(_one(scaling, "RescaleSlope"), 1.0), _or(_one(scaling, "RescaleIntercept"), 0.0)
        if slope == 0:
            raise ReadError("has a RescaleSlope of 0, which makes every pixel the same: export it again")
        yield Frame(
            path,
            index,
            position=_first([*_items_of(groups, "PlanePositionSequence"), header], "ImagePositionPatient", 3),
            orientation=_first([*_items_of(groups, "PlaneOrientationSequence"), header], "ImageOrientationPatient", 6),
            spacing=_first(measures, "PixelSpacing", 2),
            thickness=_one(measures, "SpacingBetweenSlices") or _one(measures, "SliceThickness"),
            slope=slope,
            intercept=intercept,
            keys=tell_apart.read_keys(groups, header),
        )


def _items_of(groups: list[Dataset], sequence: str) -> list[Dataset]:
    return [item for group in groups for item in items(group, sequence)]


def _first(places: list[Dataset], keyword: str, n: int) -> tuple[float, ...] | None:
    """The element where it stands first."""
    return next((found for place in places if (found := numbers(place, keyword, n))), None)


def _one(places: list[Dataset], keyword: str) -> float | None:
    found = _first(places, keyword, 1)
    return found[0] if found else None


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
