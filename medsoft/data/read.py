"""Read one picture as an array, or say in one sentence why not."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medsoft.data.decode import ReadError, decode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MAX_PIXELS", "MIN_SIDE", "ReadError", "check_images", "locate", "npz_array", "npz_shapes", "read_image"]

MAX_PIXELS = 89_478_485
"""Largest picture by default: 256 MiB as 8-bit RGB, where Pillow begins to warn of decompression bombs."""

MIN_SIDE = 2
"""Shortest side in pixels: a side of one pixel is a broken export. Cut tiles of 2 px occur in real sets."""


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, voi: bool = False) -> np.ndarray:
    """Read a picture, upright, as (height, width, channels).

    Grey pictures have 1 channel, colour pictures 3. Palettes, CMYK and YCbCr become RGB; 1-bit pictures become
    0 and 255; the orientation in EXIF data or in the TIFF tag is applied. Transparent parts are shown on white, as
    viewers show them; a fully opaque alpha channel is dropped. A file of several pictures is refused, except for
    the previews behind a phone's photograph (MPO) and the smaller pages behind the first page of a TIFF.

    Args:
        path: a PNG, JPEG, JPEG 2000, BMP, GIF, PPM, WebP, AVIF, TIFF or DICOM file, or ``file.npz#key/index`` for one
            picture of an array (N, H, W) or (N, H, W, C). The arrays of an ``.npz`` stay in memory once read.
        max_pixels: a picture with more pixels is refused from its header, before anything is decoded.
            Pillow's own limit (twice ``PIL.Image.MAX_IMAGE_PIXELS``) is left as it is and holds besides.
        voi: show grey DICOM as the file's own window says; see ``medsoft.data.dicom.picture.decode_picture``.

    Returns:
        (H, W, 1) or (H, W, 3); uint8 or uint16 as stored, other types of number as float32. More than 8 bits of
        colour are kept from PNG and TIFF; from the other formats colour has 8 bits.

    Raises:
        ReadError: the file is missing, damaged, cut short, too large, narrower than ``MIN_SIDE``, not a picture,
            or holds NaN.
    """
    name = os.fspath(path)
    file, key, index = locate(name)

    def check_size(width: int, height: int) -> None:
        if width * height > max_pixels:
            raise ReadError(f"has {width} x {height} pixels, more than the limit of {max_pixels} (max_pixels)")
        if min(width, height) < MIN_SIDE:
            raise ReadError(f"has {width} x {height} pixels: each side must have at least {MIN_SIDE}")

    try:
        if key:
            image = _read_npz(file, key, index, check_size)
        else:
            with Path(file).open("rb") as stream:
                image = decode(stream, check_size, voi)
        return _as_contract(image)
    except ReadError as error:
        raise ReadError(error.reason, name) from error.__cause__
    except Image.DecompressionBombError as error:  # Pillow refuses at twice the number that it names
        allowed = 2 * (Image.MAX_IMAGE_PIXELS or max_pixels)
        limit = f"{max_pixels} (max_pixels)" if max_pixels <= allowed else f"{allowed} of Pillow"
        raise ReadError(f"has more pixels than the limit of {limit}", name) from error
    except MemoryError as error:
        raise ReadError("does not fit into memory", name) from error
    except Exception as error:  # decoders answer hostile bytes with every kind of exception
        if isinstance(error, OSError) and error.errno:  # from the operating system, not from a decoder
            raise ReadError(f"cannot be opened: {error.strerror}", name) from None
        raise ReadError(f"is damaged or cut short ({type(error).__name__}: {error})", name) from error


def check_images(
    paths: Iterable[str],
    *,
    max_pixels: int = MAX_PIXELS,
    voi: bool = False,
    threads: int | None = None,
    progress: Callable[[], object] | None = None,
) -> pd.DataFrame:
    """Decode every picture once and list those that cannot be read.

    Args:
        paths: as for ``read_image``.
        max_pixels: as for ``read_image``.
        voi: as for ``read_image``.
        threads: number of threads; by default as many as Python's thread pool takes.
        progress: called after each picture, for a progress bar.

    Returns:
        One row a failure, in the order of ``paths``: ``path``, ``stage`` (always "read") and ``reason``.
    """
    import pandas as pd  # 60 MiB, which the reading of slides can do without

    def failure(path: str) -> tuple[str, str, str] | None:
        try:
            read_image(path, max_pixels=max_pixels, voi=voi)
        except ReadError as error:
            return path, "read", error.reason
        return None

    failures = []
    pool = ThreadPoolExecutor(threads)
    try:
        for failed in pool.map(failure, paths):
            if failed:
                failures.append(failed)
            if progress:
                progress()
    finally:
        pool.shutdown(cancel_futures=True)  # or Ctrl-C would wait for all pictures still queued
    return pd.DataFrame(failures, columns=["path", "stage", "reason"])


def locate(path: str) -> tuple[str, str, int]:
    """Split ``file.npz#key/index`` into (file, key, index); any other path gives (path, "", 0)."""
    file, _, place = path.rpartition("#")
    key, _, index = place.rpartition("/")
    if file.endswith(".npz") and key and index.isdigit():
        return file, key, int(index)
    return path, "", 0


def npz_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of an ``.npz`` file by key, from their headers: nothing is decompressed.

    Raises:
        OSError, zipfile.BadZipFile, ValueError: not an ``.npz`` file.
    """
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                old = np.lib.format.read_magic(file) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
                shapes[member.removesuffix(".npy")] = read(file)[0]
    return shapes


_npz_lock = threading.Lock()


def _read_npz(file: str, key: str, index: int, check_size: Callable[[int, int], None]) -> np.ndarray:
    shape = _npz_shapes_cached(file).get(key)
    if not shape:
        raise ReadError(f"there is no array {key!r} in the file: {', '.join(_npz_shapes_cached(file))}")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise ReadError(f"the array {key!r} has shape {shape}: pictures are (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    if index >= shape[0]:
        raise ReadError(f"the array {key!r} has {shape[0]} pictures")
    check_size(shape[2], shape[1])
    image: np.ndarray = npz_array(file, key)[index]
    return image


_npz_shapes_cached = lru_cache(maxsize=8)(npz_shapes)


def npz_array(file: str, key: str) -> np.ndarray:
    """An array of an ``.npz`` file, which stays in memory once read; not to be written to."""
    with _npz_lock:  # so that threads do not read the same array at once, each for itself
        return _npz_array(file, key)


@lru_cache(maxsize=8)
def _npz_array(file: str, key: str) -> np.ndarray:
    with np.load(file, allow_pickle=False) as arrays:
        array: np.ndarray = arrays[key]
    return array


def _as_contract(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) of any real type to a writable (H, W, C) of uint8, uint16 or float32."""
    if image.dtype.kind not in "biuf":
        raise ReadError(f"has pixels of type {image.dtype}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ReadError("holds NaN or infinite values")
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif image.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        image = image.astype(np.float32)
    image = image[..., np.newaxis] if image.ndim == 2 else image
    return np.array(image, dtype=image.dtype.newbyteorder("="), order="C")
