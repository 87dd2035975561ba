"""Finds the data of an NRRD file, and checks that there is as much as the header states.

Not pynrrd's reader: it skips as many lines and decompresses as many bytes as the file wants, opens any file of the
system that a header names, and does not look for the end of compressed data.
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np

from medsoft.data.formats.unpacked import check_end, is_gzip, read_exactly, skip, unpacked
from medsoft.errors import ReadError
from medsoft.storage.files import open_regular_file

_NAMES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
TYPES = {name: kind for kind, names in _NAMES.items() for name in names}
"""The format's names of types; ``block`` is no number."""

ENCODINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
TEXTS = ("ascii", "text", "txt")
BYTES_OF_A_TEXT = 64
"""The most that one number written as text may take, with the blanks around it."""


def read_data(header: Any, shape: tuple[int, ...], stream: IO[bytes], packed_bytes: int, path: Path) -> np.ndarray:
    """Read the numbers.

    Args:
        header: of pynrrd.
        shape: as it states.
        stream: behind the header.
        packed_bytes: of the file.
        path: of the header; its data must lie in the same folder or below.

    Returns:
        An array of this shape, of the file's type.

    Raises:
        ReadError: the data is damaged, cut short, longer than stated, elsewhere, or of a kind that is not read.
    """
    kind = _type(header)
    name = _field(header, "data file", "datafile")
    if name is None:
        return _read(header, shape, kind, stream, packed_bytes)
    data = _beside(path, str(name))
    try:
        with open_regular_file(data) as file:
            return _read(header, shape, kind, file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise ReadError(f"has its data in a file that cannot be opened (data file): {error.strerror}") from None


def _beside(path: Path, name: str) -> Path:
    if name.upper().startswith("LIST") or "%" in name:
        raise ReadError("stores its data in several files (data file), which is not read: save it as one .nrrd")
    there = Path(os.path.realpath(path.parent / name))
    folders = [Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent]
    if Path(name).is_absolute() or not any(folder in there.parents for folder in folders):
        raise ReadError("has its data outside the folder of its header (data file): put them beside it")
    return there


def _type(header: Any) -> np.dtype[Any]:
    name = TYPES.get(str(header.get("type", "")).strip().lower())
    if name is None:
        raise ReadError(f"has numbers of type {str(header.get('type'))[:40]!r}, which are not read")
    order = str(header.get("endian", "")).strip().lower()
    if order not in ("little", "big") and name[1] != "1" and str(header.get("encoding", "")).lower() not in TEXTS:
        raise ReadError("does not say the order of its bytes (endian): correct the header")
    return np.dtype({"big": ">"}.get(order, "<") + name)


def _read(header: Any, shape: tuple[int, ...], kind: np.dtype[Any], stream: IO[bytes], packed_bytes: int) -> np.ndarray:
    lines, skipped = (
        int(_field(header, "line skip", "lineskip") or 0),
        int(_field(header, "byte skip", "byteskip") or 0),
    )
    encoding = str(header.get("encoding", "")).strip().lower()
    count = math.prod(shape)
    if lines < 0 or skipped < -1:
        raise ReadError(f"is a damaged NRRD file (line skip {lines}, byte skip {skipped})")
    for _ in range(lines):
        if not stream.readline():
            raise ReadError(f"is a damaged NRRD file: it skips {lines} lines, more than it holds")
    if encoding in TEXTS:
        skip(stream, max(0, skipped), packed_bytes)
        return _from_text(stream, count, kind).reshape(shape, order="F")
    if encoding not in ENCODINGS:
        raise ReadError(f"has data in the encoding {encoding[:20]!r}, which is not read (raw, gzip, bzip2, text)")
    size = count * kind.itemsize
    if skipped == -1:  # the data is what stands at the end
        if ENCODINGS[encoding] or not stream.seekable():
            raise ReadError("is a damaged NRRD file (byte skip -1 is for raw data)")
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, end - size))
        data = read_exactly(stream, size, packed_bytes)
    else:
        packed = ENCODINGS[encoding] or _packed_all_the_same(stream, skipped + size)
        with unpacked(stream, packed) if packed else nullcontext(stream) as inner:
            skip(inner, skipped, packed_bytes)
            data = read_exactly(inner, size, packed_bytes)
            check_end(inner)
    return np.frombuffer(data, kind).reshape(shape, order="F")


def _packed_all_the_same(stream: IO[bytes], size: int) -> str:
    """Whether what is called raw is compressed: it has another size, and begins as gzip does."""
    if not isinstance(stream, BufferedReader):  # the file as a whole was decompressed
        return ""
    start = stream.tell()
    head = stream.read(2)
    stream.seek(start)
    return "gzip" if os.fstat(stream.fileno()).st_size - start != size and is_gzip(head) else ""


def _from_text(stream: IO[bytes], count: int, kind: np.dtype[Any]) -> np.ndarray:
    text = stream.read(count * BYTES_OF_A_TEXT + 1)
    words = text.split() if len(text) <= count * BYTES_OF_A_TEXT else []
    if len(words) != count:
        raise ReadError(f"is damaged or cut short: its header states {count} numbers, and others are there")
    try:
        numbers = np.array([word.decode("ascii") for word in words], dtype=np.float64)
        limits = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
        if kind.kind in "iu" and (numbers % 1 != 0).any():
            raise ReadError("has numbers with fractions where its header states whole ones")
        if ((numbers < limits.min) | (numbers > limits.max)).any():
            raise ReadError("has numbers that its type cannot hold")
        return numbers.astype(kind)
    except ValueError:
        raise ReadError("has text where numbers are expected") from None


def _field(header: Any, *names: str) -> Any:
    """A field that the format lets be written in two ways; None where it is not there."""
    return next((header[name] for name in names if name in header), None)
