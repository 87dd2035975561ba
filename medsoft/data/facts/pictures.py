"""Facts of a picture: colours, darkness, sharpness, size; and of its file: bytes, JPEG quality, resolution, camera."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from medsoft.data.facts.jpeg_quality import jpeg_quality
from medsoft.data.images.decode import FORMATS
from medsoft.data.images.read import locate
from medsoft.storage.files import open_regular_file

Facts = dict[str, float | str]
"""By name: numbers, NaN where unknown, and words, "" where unknown."""

COLOURS = ("red", "green", "blue")
LOOKED_AT = 2**16
"""Pixels that means and deviations are taken of: of more, every so many in each direction."""
SHARPEST_PX = 768
"""Side of the middle part whose sharpness is measured, at the stored resolution."""
DARK, BRIGHT = 0.1, 0.9
FLOOR = 1e-8
_INCH_MM = 25.4
_EXIF_MAKE, _EXIF_MODEL = 0x010F, 0x0110


def picture_facts(path: str, image: np.ndarray) -> Facts:
    """Facts of a picture and its file.

    Args:
        path: that it was read from.
        image: (H, W, 1) or (H, W, 3) as read.
    """
    facts = pixel_facts(image) | file_facts(path)
    facts["bits of the file a pixel"] = _log(8 * _number(facts, "bytes of the file"), image.shape[0] * image.shape[1])
    facts["bytes of the file"] = _log(_number(facts, "bytes of the file"))
    return facts


def pixel_facts(image: np.ndarray) -> Facts:
    """Facts of the pixels (H, W, C). Sizes and sharpness are logarithms; darkness is a share of the pixels.

    Values count from 0 to 1 where they are whole numbers, else as they are. Sharpness is the variance of the Laplacian
    (J. L. Pech-Pacheco et al., ICPR 2000).
    """
    import cv2

    height, width = image.shape[:2]
    step = math.ceil(math.sqrt(max(1.0, height * width / LOOKED_AT)))
    some = image[::step, ::step].astype(np.float32)
    top, left = max(0, (height - SHARPEST_PX) // 2), max(0, (width - SHARPEST_PX) // 2)
    middle = _grey(image[top : top + SHARPEST_PX, left : left + SHARPEST_PX].astype(np.float32))
    if image.dtype.kind in "ui":
        most = np.float32(np.iinfo(image.dtype).max)
        some, middle = some / most, middle / most
    mean_C, deviation_C = some.mean(axis=(0, 1), dtype=np.float64), some.std(axis=(0, 1), dtype=np.float64)
    mean_3, deviation_3 = np.resize(mean_C, 3), np.resize(deviation_C, 3)  # of a grey picture the same three times
    grey = _grey(some)
    brightest = 1.0 if image.dtype == np.uint8 else float(grey.max()) or 1.0
    return {
        **{f"mean of {colour}": float(value) for colour, value in zip(COLOURS, mean_3, strict=True)},
        **{f"deviation of {colour}": float(value) for colour, value in zip(COLOURS, deviation_3, strict=True)},
        "share of dark pixels": float((grey < DARK * brightest).mean()),
        "share of bright pixels": float((grey > BRIGHT * brightest).mean()),
        "sharpness": math.log10(float(cv2.Laplacian(middle, cv2.CV_32F).var()) + FLOOR),
        "height in pixels": _log(height),
        "width in pixels": _log(width),
        "aspect": _log(width, height),
        "bits a value": float(8 * image.dtype.itemsize),
    }


def _grey(image: np.ndarray) -> np.ndarray:
    """(H, W) mean of the channels, several times faster than NumPy's."""
    import cv2

    channels = image.shape[2]
    return cv2.transform(np.ascontiguousarray(image), np.full((1, channels), 1 / channels, np.float32))


def file_facts(path: str) -> Facts:
    """Facts of a picture's file, from its header: ``bytes of the file``, and what its format tells besides.

    Of one picture of an ``.npz``, and of what cannot be opened, all are unknown.
    """
    file, key, _ = locate(path)
    if key:
        return dict(_UNKNOWN)
    try:
        stat = Path(file).stat()
    except OSError:
        return dict(_UNKNOWN)
    return dict(_facts_of_file(file, stat.st_mtime_ns, stat.st_size))


_UNKNOWN: Facts = {
    **dict.fromkeys(("bytes of the file", "JPEG quality", "pixels an inch"), math.nan),
    **dict.fromkeys(("format", "camera"), ""),
}


@lru_cache(maxsize=100_000)  # the folds of a cross-validation ask for the same files
def _facts_of_file(file: str, changed_ns: int, size: int) -> Facts:
    facts = _UNKNOWN | {"bytes of the file": float(size), "format": Path(file).suffix.lower().lstrip(".")}
    try:
        with open_regular_file(file) as stream:
            head = stream.read(132)
            stream.seek(0)
            if head[128:] == b"DICM":
                return facts | _of_dicom(file)
            return facts | _of_header(stream, head)
    except Exception:  # the pixels could be read: a header that hardly can says nothing more
        return facts


def _of_header(stream: object, head: bytes) -> Facts:
    from PIL import Image

    if head[:4] in (b"II*\0", b"MM\0*"):
        return {}
    found: Facts = {}
    with Image.open(stream, formats=FORMATS) as image:  # type: ignore[arg-type]
        if tables := getattr(image, "quantization", None):
            found["JPEG quality"] = jpeg_quality(tables[min(tables)])
        resolution = image.info.get("dpi")
        if isinstance(resolution, tuple) and float(resolution[0]) > 0:
            found["pixels an inch"] = math.log10(float(resolution[0]))
        exif = image.getexif()
        found["camera"] = _words(exif.get(_EXIF_MAKE), exif.get(_EXIF_MODEL))
    return found


def _of_dicom(file: str) -> Facts:
    from medsoft.data.dicom.header import open_dicom

    tags = ("Manufacturer", "ManufacturerModelName", "PixelSpacing", "ImagerPixelSpacing")
    header = open_dicom(file, pixels=False, tags=tags)
    found: Facts = {"camera": _words(header.get("Manufacturer"), header.get("ManufacturerModelName"))}
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    if spacing and float(spacing[0]) > 0:
        found["pixels an inch"] = math.log10(_INCH_MM / float(spacing[0]))
    return found


def scanner_of_dicom(path: str) -> str:
    """Maker and model of the device that a DICOM file, or the first file of a folder, names; "" for none."""
    place = Path(path)
    try:
        file = min((one for one in place.iterdir() if one.is_file()), default=None) if place.is_dir() else place
        return "" if file is None else str(_of_dicom(str(file))["camera"])
    except Exception:  # no DICOM, or one that hardly can be read: nothing is known
        return ""


def _words(*values: object) -> str:
    """Values of a header as one line of text."""
    return " ".join(" ".join(str(value).replace("\0", " ").split()) for value in values if value)


def _number(facts: Facts, name: str) -> float:
    value = facts[name]
    assert isinstance(value, float)
    return value


def _log(value: float, over: float = 1.0) -> float:
    return math.log10(value / over) if value > 0 else math.nan
