"""Distinguishes images at the same position, by echo, b-value and the like, then by time, and selects among them.

Standard elements, those of functional groups (PS3.3, C.8.13.5 and C.7.6.16), and private ones of vendors where what
they hold is published: b-values and directions of diffusion of Siemens, GE and Philips.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import DA, DT, TM

from medsoft.data.dicom.header import items, number, numbers, word
from medsoft.errors import InputError, ReadError

Key = float | str | tuple[float, ...]
"""A number, a word, or a direction."""
Keys = dict[str, Key]

OTHERS = {
    "EchoTime": "echo times",
    "EchoNumbers": "echo numbers",
    "DiffusionBValue": "b-values",
    "DiffusionDirectionality": "kinds of diffusion weighting",
    "DiffusionGradientOrientation": "diffusion directions",
    "InversionTime": "inversion times",
    "FlipAngle": "flip angles",
    "ImageType": "image types",
    "KVP": "tube voltages",
    "ConvolutionKernel": "reconstruction kernels",
}
"""What makes several images of one place and is no time, by keyword; looked at before time."""

POSITIONS = {
    "TemporalPositionIdentifier": "temporal positions",
    "TemporalPositionTimeOffset": "time offsets",
    "TriggerTime": "trigger times",
    "AcquisitionNumber": "acquisitions",
}
"""What tells time points apart, the plainest first."""

CONTRAST = {"ContrastBolusAgent": "states of contrast"}
"""Goes with time: present or absent."""

_OFFSET = " in UTC"
_UNDATED = " without a date"
ACQUIRED = tuple(
    name + offset
    for name in ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime", "AcquisitionTime" + _UNDATED)
    for offset in ("", _OFFSET)
)
"""Clocks that say when an image was taken, in s since a moment that is the same for all of one name."""
CLOCKS = (*ACQUIRED, "ContentTime", "ContentTime" + _OFFSET, "ContentTime" + _UNDATED)
"""All clocks; that of the content says when the image was made of what was taken."""

HALF_DAY_S = 12 * 3600
"""Times without a date tell moments apart while they lie closer than this: no series lasts so long."""

TIME_POINT = "TimePoint"
SELECTABLE = (*OTHERS, *POSITIONS, *CONTRAST, TIME_POINT)
"""What ``select`` may name: keywords of DICOM, and the number of a time point, from 1."""
SHOWN = 5

_SIEMENS, _GE, _GE_DIRECTION = "SIEMENS MR HEADER", "GEMS_PARM_01", "GEMS_ACQU_01"
_PHILIPS, _PHILIPS_DIRECTION = "Philips Imaging DD 001", "Philips MR Imaging DD 001"
_PRIVATE = (
    (_SIEMENS, 0x0019, (0x0C, 0x0E)),
    (_GE, 0x0043, (0x39,)),
    (_GE_DIRECTION, 0x0019, (0xBB, 0xBC, 0xBD)),
    (_PHILIPS, 0x2001, (0x03,)),
    (_PHILIPS_DIRECTION, 0x2005, (0xB0, 0xB1, 0xB2)),
)
_BLOCKS = range(0x10, 0x18)
"""Where private creators put their elements; the standard allows for more, and scanners begin with the first."""
_GE_OFFSET = 1e9
_FRAME_TYPES = (
    "MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence", "XRay3DFrameTypeSequence",
    "ParametricMapFrameTypeSequence",
)  # fmt: skip

TAGS: tuple[str | BaseTag, ...] = (
    *(name for name in (*OTHERS, *POSITIONS, *CONTRAST) if name != "TemporalPositionTimeOffset"),
    "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime", "TimezoneOffsetFromUTC",
    *(Tag(group, block) for _, group, _ in _PRIVATE for block in _BLOCKS),
    *(Tag(group, block << 8 | one) for _, group, ones in _PRIVATE for one in ones for block in _BLOCKS),
)  # fmt: skip
"""Elements of a header that are read for this."""


def read_keys(groups: Sequence[Dataset], header: Dataset) -> Keys:
    """What may tell a frame apart.

    Args:
        groups: its functional groups, its own first.
        header: of the file.

    Raises:
        ReadError: elements have values that make no sense.
    """
    keys: dict[str, Key | None] = {}
    for name in ("EchoTime", "EchoNumbers", "InversionTime", "FlipAngle", "KVP", *POSITIONS):
        keys[name] = number(header, name)
    keys["ImageType"] = _words(header, "ImageType")
    keys["ConvolutionKernel"] = _words(header, "ConvolutionKernel")
    keys["DiffusionDirectionality"] = word(header, "DiffusionDirectionality")
    keys["DiffusionBValue"] = _b_value(header)
    keys["DiffusionGradientOrientation"] = _direction(header)
    keys["ContrastBolusAgent"] = "present" if word(header, "ContrastBolusAgent") else "absent"
    keys |= _clocks(header)
    for item in _of(groups, "MREchoSequence"):
        keys["EchoTime"] = number(item, "EffectiveEchoTime")
    for item in _of(groups, "MRTimingAndRelatedParametersSequence"):
        keys["FlipAngle"] = number(item, "FlipAngle")
    for item in _of(groups, "MRModifierSequence"):
        keys["InversionTime"] = number(item, "InversionTimes")
    for item in _of(groups, "MRDiffusionSequence"):
        keys["DiffusionBValue"] = number(item, "DiffusionBValue")
        keys["DiffusionDirectionality"] = word(item, "DiffusionDirectionality")
        for direction in items(item, "DiffusionGradientDirectionSequence"):
            keys["DiffusionGradientOrientation"] = numbers(direction, "DiffusionGradientOrientation", 3)
    for item in (item for name in _FRAME_TYPES for item in _of(groups, name)):
        keys["ImageType"] = _words(item, "FrameType")
    for item in _of(groups, "CTReconstructionSequence"):
        keys["ConvolutionKernel"] = _words(item, "ConvolutionKernel")
    for item in _of(groups, "CTXRayDetailsSequence"):
        keys["KVP"] = number(item, "KVP")
    for item in _of(groups, "CardiacSynchronizationSequence"):
        keys["TriggerTime"] = number(item, "NominalCardiacTriggerDelayTime")
    for item in _of(groups, "TemporalPositionSequence"):
        keys["TemporalPositionTimeOffset"] = number(item, "TemporalPositionTimeOffset")
    for item in _of(groups, "ContrastBolusUsageSequence"):
        given = word(item, "ContrastBolusAgentAdministered")
        keys["ContrastBolusAgent"] = "present" if given == "YES" else "absent"
    for item in _of(groups, "FrameContentSequence"):
        keys["TemporalPositionIdentifier"] = number(item, "TemporalPositionIndex")
        keys["AcquisitionNumber"] = number(item, "FrameAcquisitionNumber")
        keys |= _clock("FrameAcquisitionDateTime", word(item, "FrameAcquisitionDateTime"), _zone(header))
    return {name: _rounded(value) for name, value in keys.items() if value is not None and value != ""}


def _of(groups: Iterable[Dataset], sequence: str) -> list[Dataset]:
    """Items of a sequence, those of the frame's own groups last, so that they win."""
    return [item for group in reversed(list(groups)) for item in items(group, sequence)]


def _words(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword) or ""
    return value if isinstance(value, str) else "\\".join(map(str, value))


def _rounded(value: Key) -> Key:
    """As an element of limited digits would have it."""
    if isinstance(value, tuple):
        return tuple(round(part, 3) + 0.0 for part in value)
    return value if isinstance(value, str) or abs(value) > HALF_DAY_S else float(f"{value:.6g}")


def _b_value(header: Dataset) -> float | None:
    """In s/mm²: the standard's element, else those of the vendors."""
    if (standard := number(header, "DiffusionBValue")) is not None:
        return standard
    for creator, group, element in ((_SIEMENS, 0x0019, 0x0C), (_GE, 0x0043, 0x39), (_PHILIPS, 0x2001, 0x03)):
        if values := _private(header, creator, group, element):
            # GE adds a billion, below which other settings may stand.
            return values[0] % 1e5 if values[0] >= _GE_OFFSET else values[0]
    return None


def _direction(header: Dataset) -> tuple[float, ...] | None:
    if standard := numbers(header, "DiffusionGradientOrientation"):
        return standard
    siemens = _private(header, _SIEMENS, 0x0019, 0x0E)
    if siemens and len(siemens) == 3:
        return siemens
    for creator, group, elements in _PRIVATE:
        if creator in (_GE_DIRECTION, _PHILIPS_DIRECTION):
            parts = [_private(header, creator, group, element) for element in elements]
            if all(parts):
                return tuple(part[0] for part in parts if part)
    return None


def _private(header: Dataset, creator: str, group: int, element: int) -> tuple[float, ...] | None:
    try:
        value = header.private_block(group, creator)[element].value
    except Exception:  # not there, or of no kind that pydicom converts
        return None
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip("\0 ").split("\\")
    try:
        found = tuple(map(float, [value] if isinstance(value, str | int | float) else value))
    except (TypeError, ValueError):
        return None
    return found if found and all(map(math.isfinite, found)) else None


# --- clocks ---


def _clocks(header: Dataset) -> Keys:
    zone = _zone(header)
    keys = _clock("AcquisitionDateTime", word(header, "AcquisitionDateTime"), zone)
    for name, date in (("AcquisitionTime", "AcquisitionDate"), ("ContentTime", "ContentDate")):
        keys |= _time_of(name, word(header, date), word(header, name), zone)
    return keys


def _zone(header: Dataset) -> str:
    return word(header, "TimezoneOffsetFromUTC")


def _clock(name: str, text: str, zone: str) -> Keys:
    """A DICOM date and time, ``YYYYMMDDHHMMSS.FFFFFF&ZZXX``; nothing where it does not say the second."""
    digits = text.partition("+")[0].partition("-")[0].partition(".")[0]
    if len(digits) != 14:
        return {}
    return _seconds(name, text if len(text) > 5 and text[-5] in "+-" else text + zone)


def _time_of(name: str, date: str, time: str, zone: str) -> Keys:
    """A time with its date, or without one where there is none."""
    try:
        clock = TM(time) if time else None
        day = DA(date) if date else None
    except (ValueError, TypeError, OverflowError):
        return {}
    if clock is None:
        return {}
    if day is None:
        return {name + _UNDATED: _since_ever(datetime.combine(datetime.min.date(), clock))}
    return _seconds(name, f"{day:%Y%m%d}{clock:%H%M%S.%f}{zone}")


def _seconds(name: str, text: str) -> Keys:
    try:
        read = DT(text)
        moment: datetime = datetime.combine(read.date(), read.timetz())
        if moment.tzinfo is None:
            return {name: _since_ever(moment)}
        return {name + _OFFSET: _since_ever(moment.astimezone(UTC).replace(tzinfo=None))}
    except (ValueError, TypeError, AttributeError, OverflowError):
        return {}


def _since_ever(moment: datetime) -> float:
    return (moment - datetime.min).total_seconds()


# --- what differs, and the choice ---


def differences(places: Iterable[Sequence[Keys]], names: Iterable[str]) -> dict[str, list[Key | None]]:
    """Elements with several values at one place, and all of their values; None of an image that lacks it.

    Args:
        places: what tells the images of each place apart.
        names: which of it is looked at.
    """
    places = list(places)
    found = {}
    for name in names:
        if any(len({keys.get(name) for keys in place}) > 1 for place in places):
            values = {keys.get(name) for place in places for keys in place}
            found[name] = sorted(values, key=lambda value: (value is None, str(type(value)), value or 0))
    return found


def listed(found: dict[str, list[Key | None]]) -> str:
    """Names and numbers of values, and the first values themselves, which are settings of the scanner."""
    names = OTHERS | POSITIONS | CONTRAST
    texts = []
    for name, values in found.items():
        shown = [shown_value(value) for value in values[:SHOWN]] + ["..."] * (len(values) > SHOWN)
        texts.append(f"{len(values)} {names[name]} ({name}: {', '.join(shown)})")
    return ", ".join(texts)


def shown_value(value: Key | None) -> str:
    """A value as ``select`` takes it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "\\".join(f"{part:g}" for part in value)
    return value if isinstance(value, str) else f"{value:.6g}"


def how_to_choose(name: str, value: Key | None) -> str:
    """The option that chooses among several images of a place."""
    text = f"{name}={shown_value(value)}"
    text = f"'{text}'" if "\\" in text else text
    return f"choose with the option select (fit: --data.select {text}; data check and index: --select {text})"


def parse_select(select: str | Sequence[str] | None) -> tuple[str, ...]:
    """Check the words of the option ``select``.

    Args:
        select: ``EchoTime=20``, or several of the kind; None for none.

    Raises:
        InputError: a word is no NAME=VALUE, or names nothing that ``SELECTABLE`` holds.
    """
    words = (select,) if isinstance(select, str) else tuple(select or ())
    for text in words:
        name, equals, value = text.partition("=")
        if not equals or not value or name not in SELECTABLE or (name == TIME_POINT and not value.isdigit()):
            raise InputError(f"select {text!r}: write NAME=VALUE, as in EchoTime=20; names: {', '.join(SELECTABLE)}")
    return words


def is_selected(keys: Keys, select: Sequence[str]) -> bool:
    """Whether an image has all the values that are asked for; time points are left to ``time_point``."""
    pairs = [text.partition("=")[::2] for text in select]
    return all(_has(keys.get(name), value) for name, value in pairs if name != TIME_POINT)


def time_point(select: Sequence[str]) -> int | None:
    """The number of the time point that is asked for, from 1."""
    found = [int(text.partition("=")[2]) for text in select if text.startswith(f"{TIME_POINT}=")]
    return found[-1] if found else None


def _has(value: Key | None, text: str) -> bool:
    if value is None or text.lower() == "none":
        return value is None and text.lower() == "none"
    if isinstance(value, str):
        return text.upper() in (value.upper(), *value.upper().split("\\"))
    parts = text.replace(",", "\\").split("\\")
    own = value if isinstance(value, tuple) else (value,)
    tolerance = 1e-3 if isinstance(value, tuple) else 1e-6
    try:
        return len(parts) == len(own) and all(
            math.isclose(float(part), one, rel_tol=1e-5, abs_tol=tolerance)
            for part, one in zip(parts, own, strict=True)
        )
    except ValueError:
        return False


def none_selected(everything: Sequence[Keys], select: Sequence[str]) -> ReadError:
    """Why nothing is left of a series."""
    for text in select:
        name, _, value = text.partition("=")
        values = {keys.get(name) for keys in everything}
        if name != TIME_POINT and not any(_has(one, value) for one in values):
            there = sorted(shown_value(one) for one in values)
            more = ["..."] * (len(there) > SHOWN)
            return ReadError(f"has no image with {text}; its values of {name}: {', '.join([*there[:SHOWN], *more])}")
    return ReadError(f"has no image with {' and '.join(select)}")
