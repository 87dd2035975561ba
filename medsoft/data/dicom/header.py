"""Opens DICOM files and reads their elements; messages about bad ones never quote a value.

pydicom's warnings and messages may hold names and dates. Here they are switched off, or replaced by a sentence that
names the element alone.
"""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
import zlib
from collections.abc import Sequence
from typing import IO, Any

import pydicom
from pydicom import config, uid
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag

from medsoft.data.dicom import codecs
from medsoft.errors import ReadError
from medsoft.storage.files import open_regular_file

logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").propagate = False
warnings.filterwarnings("ignore", module=r"(pydicom|medsoft\.data\.dicom)\b")
config.settings.reading_validation_mode = config.IGNORE
codecs.register()

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
NO_PIXELS = "holds no pixel data: it is cut short, or its header was saved alone"
SEGMENTATIONS = (uid.SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation and label map segmentation, which pydicom does not know yet (PS3.4, B.5)."""
SMALL_BYTES = 2**26
MAX_RATIO = 200
"""What a deflated file may become: ``SMALL_BYTES``, or so many times its size; images become 2 to 20 times."""
_CHUNK = 2**20
_FIRST_ELEMENT = re.compile(rb"[\x02\x08]\x00[\x00-\x18]\x00(..\x00\x00|[A-Z]{2})", re.DOTALL)
_NEEDED = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
_STANDARD = "1.2.840.10008.5.1.4.1."
"""What the UIDs of the standard's kinds of objects begin with."""
_NO_PICTURES = {
    uid.RTDoseStorage: "is a radiotherapy dose, not an image",
    uid.VLWholeSlideMicroscopyImageStorage: "is a level of a whole slide: read slides with medsoft slides",
    uid.MediaStorageDirectoryStorage: "is a DICOMDIR, the contents of a medium: give it to medsoft data index",
}


class NoPictureError(ReadError):
    """A file is whole and of another kind than pictures: a report, an ECG, a dose."""


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these 132 bytes is DICOM; old files without preamble begin with group 2 or 8."""
    return head[128:132] == b"DICM" or _FIRST_ELEMENT.match(head) is not None


def open_dicom(
    file: str | os.PathLike[str] | IO[bytes],
    *,
    pixels: bool = True,
    tags: Sequence[str | BaseTag] = (),
    before: int = 0,
) -> Dataset:
    """Read a DICOM file.

    Args:
        file: its path, or its bytes.
        pixels: False for the header alone.
        tags: keywords of the elements to read (tags of private ones); all if empty.
        before: read no elements from this group on; 0 for all.

    Raises:
        ReadError: it is no DICOM file, or damaged, or would be inflated without end; the message holds no value of an
            element.
        OSError: the file cannot be opened.
    """
    if isinstance(file, str | os.PathLike):
        with open_regular_file(file) as stream:
            return open_dicom(stream, pixels=pixels, tags=tags, before=before)
    head = file.read(132)
    file.seek(0)
    if not head:
        raise ReadError("is empty (0 bytes)")
    if not is_dicom(head):
        raise ReadError("is not a DICOM file")
    try:
        _check_inflated(file, head)
        wanted: Any = list(tags) or None
        source: Any = file
        if before:
            return read_partial(source, lambda tag, vr, length: tag.group >= before, force=True, specific_tags=wanted)
        return pydicom.dcmread(file, stop_before_pixels=not pixels, force=True, specific_tags=wanted)
    except ReadError:
        raise
    except Exception as error:  # hostile bytes raise anything
        raise ReadError(f"is a damaged DICOM file ({type(error).__name__})") from None


def _check_inflated(file: Any, head: bytes) -> None:
    """Refuse a deflated file that becomes far larger than images do. The file is left at its start.

    Raises:
        ReadError: it becomes more than ``SMALL_BYTES``, and than ``MAX_RATIO`` times its size.
    """
    if head[128:] == b"DICM":
        file.seek(len(head))
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        read = made = 0
        while chunk := file.read(_CHUNK):
            read += len(chunk)
            while chunk:
                made += len(engine.decompress(chunk, _CHUNK))
                chunk = engine.unconsumed_tail
                if made > max(SMALL_BYTES, MAX_RATIO * read):
                    raise ReadError(f"becomes more than {MAX_RATIO} times its size when it is inflated: no image does")
    file.seek(0)


def check_picture(dataset: Dataset, *, pixels: bool = True) -> None:
    """Check that a file holds a picture that can be decoded.

    Args:
        dataset: its header, or all of it.
        pixels: whether the pixel data was read and must be there.

    Raises:
        NoPictureError: another kind of object.
        ReadError: no pixel data, or a header that lacks what decoding needs, as that of a file that is cut short.
    """
    kind = uid.UID(word(dataset, "SOPClassUID") or word(dataset.file_meta, "MediaStorageSOPClassUID"))
    if kind in _NO_PICTURES:
        raise NoPictureError(_NO_PICTURES[kind])
    has_pixels = any(keyword in dataset for keyword in PIXELS)
    if not has_pixels and not word(dataset, "Rows") and "Image" not in kind.name:
        known = kind.name != kind  # pydicom knows the standard's names
        if not known and (kind.startswith(_STANDARD) or _STANDARD.startswith(kind)):  # "" and a part of a UID too
            raise ReadError("is a DICOM object without a picture that does not say what it is: it may be cut short")
        raise NoPictureError(f"is a DICOM object without a picture{f' ({kind.name})' if known else ''}")
    if pixels and not has_pixels:
        raise ReadError(NO_PIXELS)
    if lacking := [keyword for keyword in _NEEDED if not word(dataset, keyword)]:
        raise ReadError(f"is a DICOM file whose header lacks {', '.join(lacking)}")
    if pixels and not word(dataset.file_meta, "TransferSyntaxUID"):
        raise ReadError("is a DICOM file that does not say how its pixels are stored (TransferSyntaxUID)")


def word(dataset: Dataset, keyword: str) -> str:
    """An element as text, "" where it is absent or empty; of several values the first."""
    value = _value(dataset, keyword)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else None
    return "" if value is None else str(value).strip()


def number(dataset: Dataset, keyword: str) -> float | None:
    """An element as a number, None where it is absent or empty; of several values the first."""
    values = numbers(dataset, keyword)
    return values[0] if values else None


def numbers(dataset: Dataset, keyword: str, n: int | None = None) -> tuple[float, ...] | None:
    """An element as numbers, None where it is absent or empty.

    Raises:
        ReadError: it holds no numbers, NaN or infinity, or not ``n`` of them.
    """
    value = _value(dataset, keyword)
    if value is None or value == "" or (not isinstance(value, str | int | float) and not len(value)):
        return None
    values = [value] if isinstance(value, str | int | float) else list(value)
    try:
        found = tuple(map(float, values))
    except (TypeError, ValueError):
        raise ReadError(f"has an invalid value of {keyword}") from None
    if not all(map(math.isfinite, found)):
        raise ReadError(f"has an invalid value of {keyword} (not a finite number)")
    if n is not None and len(found) != n:
        raise ReadError(f"has {len(found)} values of {keyword} in place of {n}")
    return found


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


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where it is absent."""
    return list(_value(dataset, keyword) or [])


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except Exception:  # pydicom converts values when they are asked for
        raise ReadError(f"has an invalid value of {keyword}") from None
