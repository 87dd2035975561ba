"""What the header of a file says of each of its frames: where it lies, when it was taken, how values are scaled.

A file of one slice says it once, an enhanced multi-frame file in functional groups, shared or one a frame
(DICOM PS3.3, C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from medsoft.data.decode import ReadError
from medsoft.data.dicom.header import items, number, numbers, word

TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
    "Modality", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "RescaleType", "Laterality", "ImageLaterality",
    "ViewPosition", "PatientID", "TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "AcquisitionTime",
    "AcquisitionDateTime", "ContentTime", "EchoTime", "DiffusionBValue", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "AccessionNumber",
)  # fmt: skip
"""Elements that are read of a header to sort a series; PatientID and AccessionNumber identify, and are only hashed or
compared."""

TIMES = ("TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "AcquisitionTime", "ContentTime")
"""What tells time points apart, the plainest first."""

OTHERS = {"EchoTime": "echo times", "DiffusionBValue": "b-values"}
"""What also makes several images of one place, and is no time."""


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
        keys: numbers by name that may tell it from frames at the same place (``TIMES``, ``OTHERS``); times in s,
            TriggerTime in ms.
    """

    file: Path
    index: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float
    intercept: float
    keys: dict[str, float] = field(default_factory=dict)


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
        shared = [item for group in _groups(self.header, 0) for item in items(group, "FrameAnatomySequence")]
        sides = [word(item, "FrameLaterality") for item in shared]
        sides += [word(self.header, "ImageLaterality"), word(self.header, "Laterality")]
        return next((side for side in sides if side in ("L", "R", "B")), None)


def read_frames(header: Dataset, path: Path) -> list[Frame]:
    """The frames of a file.

    Raises:
        ReadError: elements have values that make no sense.
    """
    return list(_frames(header, path))


def count(header: Dataset, keyword: str) -> int:
    """An element that counts something: a whole number above 0; NumberOfFrames is 1 where absent.

    Raises:
        ReadError: it is none.
    """
    value = number(header, keyword)
    if value is None and keyword == "NumberOfFrames":
        return 1
    if value is None or value != int(value) or value < 1:
        raise ReadError(f"has an invalid value of {keyword}")
    return int(value)


def _frames(header: Dataset, path: Path) -> Iterator[Frame]:
    for index in range(count(header, "NumberOfFrames")):
        groups = _groups(header, index)
        measures = [*_items_of(groups, "PixelMeasuresSequence"), header]
        scaling = [*_items_of(groups, "PixelValueTransformationSequence"), header]
        yield Frame(
            path,
            index,
            position=_first([*_items_of(groups, "PlanePositionSequence"), header], "ImagePositionPatient", 3),
            orientation=_first([*_items_of(groups, "PlaneOrientationSequence"), header], "ImageOrientationPatient", 6),
            spacing=_first(measures, "PixelSpacing", 2),
            thickness=_one(measures, "SpacingBetweenSlices") or _one(measures, "SliceThickness"),
            slope=_or(_one(scaling, "RescaleSlope"), 1.0),
            intercept=_or(_one(scaling, "RescaleIntercept"), 0.0),
            keys=_keys(groups, header),
        )


def _groups(header: Dataset, index: int) -> list[Dataset]:
    """Functional groups of a frame: its own, then those that all share; none in a file that is not enhanced."""
    own = items(header, "PerFrameFunctionalGroupsSequence")
    return own[index : index + 1] + items(header, "SharedFunctionalGroupsSequence")


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


def _keys(groups: list[Dataset], header: Dataset) -> dict[str, float]:
    keys: dict[str, float | None] = {}
    for content in _items_of(groups, "FrameContentSequence"):
        keys["TemporalPositionIdentifier"] = number(content, "TemporalPositionIndex")
        keys["AcquisitionTime"] = seconds(word(content, "FrameAcquisitionDateTime")[8:])
    for echo in _items_of(groups, "MREchoSequence"):
        keys["EchoTime"] = number(echo, "EffectiveEchoTime")
    for diffusion in _items_of(groups, "MRDiffusionSequence"):
        keys["DiffusionBValue"] = number(diffusion, "DiffusionBValue")
    if not groups:
        plain = ("TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", *OTHERS)
        keys |= {keyword: number(header, keyword) for keyword in plain}
        at = word(header, "AcquisitionTime") or word(header, "AcquisitionDateTime")[8:]
        keys["AcquisitionTime"] = seconds(at)
        keys["ContentTime"] = seconds(word(header, "ContentTime"))
    return {name: value for name, value in keys.items() if value is not None}


def seconds(time: str) -> float | None:
    """A DICOM time, ``HHMMSS.FFFFFF`` with an offset perhaps, as seconds since midnight; None for anything else."""
    digits = time.partition("+")[0].partition("-")[0].strip()
    whole, _, fraction = digits.partition(".")
    if len(whole) != 6 or not (whole + fraction).isdigit():
        return None
    hours, minutes, rest = int(whole[:2]), int(whole[2:4]), int(whole[4:])
    return 3600.0 * hours + 60 * minutes + rest + (float(f"0.{fraction}") if fraction else 0.0)
