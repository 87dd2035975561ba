"""What says that an image or a volume is the one that was seen before: a hash of all its bytes."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from medsoft.data.images.read import locate
from medsoft.data.volumes.read import locate_series
from medsoft.storage.hashing import sha256

LENGTH = 32


def sample_hash(path: str | os.PathLike[str]) -> str:
    """Hash of a sample's content: 32 hexadecimal digits.

    All bytes count, unlike in ``quick_hash``: two volumes of one size may differ in their middle alone. Names do not
    count, but for the place in an ``.npz`` or the number of a series, and the order of a folder's files.

    Args:
        path: of a picture or a volume, as tables name it: a file, ``file.npz#key/index``, a folder of a DICOM series,
            ``FOLDER#series``.

    Raises:
        OSError: it cannot be read.
    """
    name = os.fspath(path)
    file, key, index = locate(name)
    place, part = (file, f"{key}/{index}") if key else locate_series(name)
    files = sorted(one for one in Path(place).rglob("*") if one.is_file()) if Path(place).is_dir() else [Path(place)]
    if not files:
        raise FileNotFoundError(2, "No such file", place)
    hashes = [_of_file(str(one), *_stamp(one)) for one in files]
    return hashes[0][:LENGTH] if len(hashes) == 1 and not part else joined_hash([*hashes, part or ""])


def joined_hash(parts: list[str]) -> str:
    """One hash of several texts, in their order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:LENGTH]


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=16)  # the images of an .npz are asked for one after the other
def _of_file(path: str, size: int, time: int) -> str:
    return sha256(path)
