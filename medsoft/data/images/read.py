"""Reads one image as an array, or says in one sentence why it cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medsoft.data.formats.arrays import npz_array, npz_shapes
from medsoft.data.images.decode import decode
from medsoft.errors import BagError, ReadError
from medsoft.registry import find_reader
from medsoft.storage.files import open_regular_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "ReadError",
    "check_images",
    "is_constant",
    "locate",
    "npz_array",
    "npz_shapes",
    "read_image",
    "read_sample",
]

MAX_PIXELS = 89_478_485
"""Largest picture by default: 256 MiB as 8-bit RGB, where Pillow begins to warn of decompression bombs."""

CONSTANT = "has the same value in every"
"""Begins what is said of pictures and volumes that show nothing."""

TILE = "tile="
"""Begins what follows the # of a slide's path where a tile of it is the picture."""

MIN_SIDE = 2
"""Shortest side in pixels: a side of one pixel is a broken export. Cut tiles of 2 px occur in real sets."""


def read_image(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    voi: bool = False,
    note: Callable[[str], object] | None = None,
) -> np.ndarray:
    """Read a picture, upright, as (height, width, channels).

    Grey pictures have 1 channel, colour pictures 3. Palettes, CMYK and YCbCr become RGB; 1-bit pictures become
    0 and 255; the orientation in EXIF data or in the TIFF tag is applied. Transparent parts are shown on white, as
    viewers show them; a fully opaque alpha channel is dropped. A file of several pictures is refused, except for
    the previews behind a phone's photograph (MPO) and the smaller pages behind the first page of a TIFF.

    Args:
        path: a PNG, JPEG, JPEG 2000, BMP, GIF, PPM, WebP, AVIF, TIFF or DICOM file; ``file.npz#key/index`` for one
            picture of an array (N, H, W) or (N, H, W, C), and ``file.h5#key/index`` for one of a dataset (N, H, W, C);
            or ``slide#tile=x,y,size,mpp`` for a tile of a slide, as ``medsoft slides tile --save-tiles table`` writes
            it. The arrays of an ``.npz`` stay in memory once read.
        max_pixels: a picture with more pixels is refused from its header, before anything is decoded.
            Pillow's own limit (twice ``PIL.Image.MAX_IMAGE_PIXELS``) is left as it is and holds besides.
        voi: show grey DICOM as the file's own window says; see ``medsoft.data.dicom.image.decode_picture``.
        note: called with what was done to the picture that its user should know, such as resampling.

    Returns:
        (H, W, 1) or (H, W, 3); uint8 or uint16 as stored, other types of number as float32. More than 8 bits of
        colour are kept from PNG and TIFF; from the other formats colour has 8 bits.

    Raises:
        ReadError: the file is missing, no regular file, damaged, cut short, too large, narrower than ``MIN_SIDE``,
            not a picture, or holds NaN. Every checksum that a format has is compared, and JPEG is decoded strictly.
    """
    name = os.fspath(path)
    file, key, index = locate(name)

    def check_size(width: int, height: int) -> None:
        if width * height > max_pixels:
            raise ReadError(f"has {width} x {height} pixels, more than the limit of {max_pixels} (max_pixels)")
        if min(width, height) < MIN_SIDE:
            raise ReadError(f"has {width} x {height} pixels: each side must have at least {MIN_SIDE}")

    try:
        if key.startswith(TILE):
            image = find_reader("tile")(file, key.removeprefix(TILE))
            check_size(image.shape[1], image.shape[0])
        elif key:
            read = _read_npz if file.endswith(".npz") else _read_hdf5
            image = read(file, key, index, check_size)
        else:
            with open_regular_file(file) as stream:
                image = decode(stream, check_size, voi, note)
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


def read_sample(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    voi: bool = False,
    note: Callable[[str], object] | None = None,
) -> np.ndarray:
    """As ``read_image``, of a picture that is a sample of a table.

    Raises:
        ReadError: as there, or the picture has one value only and shows nothing.
    """
    image = read_image(path, max_pixels=max_pixels, voi=voi, note=note)
    if is_constant(image):
        raise ReadError(f"{CONSTANT} pixel: it shows nothing", os.fspath(path))
    return image


def is_constant(array: np.ndarray, axes: int = 2) -> bool:
    """Whether an array is the same everywhere along its first axes: 2 of a picture, 3 of a volume."""
    first = array[(slice(1),) * axes]
    return bool((array[::7, ::7] == first).all() and (array == first).all())  # most differ in the first few


def check_images(
    paths: Iterable[str],
    *,
    max_pixels: int = MAX_PIXELS,
    voi: bool = False,
    threads: int | None = None,
    progress: Callable[[], object] | None = None,
    seen: Callable[[str, np.ndarray], object] | None = None,
    notes: list[str] | None = None,
) -> pd.DataFrame:
    """Decode every picture once and list those that cannot be read, or show nothing.

    Args:
        paths: as for ``read_image``.
        max_pixels: as for ``read_image``.
        voi: as for ``read_image``.
        threads: number of threads; by default as many as Python's thread pool takes.
        progress: called after each picture, for a progress bar.
        seen: called with the path and the pixels of each picture that can be read, in any order and in any thread.
        notes: takes what was done to pictures, once a picture.

    Returns:
        One row a failure, in the order of ``paths``: ``path``, ``stage`` (always "read") and ``reason``.
    """
    import pandas as pd  # 60 MiB, which the reading of slides can do without

    def failure(path: str) -> tuple[str, str, str] | None:
        try:
            image = read_sample(path, max_pixels=max_pixels, voi=voi, note=None if notes is None else notes.append)
            if seen:
                seen(path, image)
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
    """Split a path that names one picture of a file.

    Returns:
        (file, key, index) of ``file.npz#key/index`` and ``file.h5#key/index``; (file, "tile=…", 0) of a tile of a
        slide; of any other path (path, "", 0).
    """
    file, _, place = path.rpartition("#")
    if file and place.startswith(TILE):
        return file, place, 0
    key, _, index = place.rpartition("/")
    if file.endswith((".npz", ".h5")) and key and index.isdigit():
        return file, key, int(index)
    return path, "", 0


def _read_hdf5(file: str, key: str, index: int, check_size: Callable[[int, int], None]) -> np.ndarray:
    from medsoft.data.features.hdf5 import dataset, open_hdf5, plain_errors  # h5py waits until there is such a file

    try:
        with open_hdf5(Path(file)) as opened:
            images = dataset(opened, key)
            if images.ndim != 4 or images.shape[3] not in (1, 3):
                raise ReadError(
                    f"the dataset {key!r} has shape {images.shape}: pictures are (N, H, W, 1) or (N, H, W, 3)"
                )
            if index >= images.shape[0]:
                raise ReadError(f"the dataset {key!r} has {images.shape[0]} pictures")
            check_size(images.shape[2], images.shape[1])
            with plain_errors(f"picture {index} of {key!r} cannot be read"):
                image: np.ndarray = images[index]
            return image
    except BagError as error:
        raise ReadError(error.reason) from None


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


_npz_shapes_cached = lru_cache(maxsize=8)(npz_shapes)  # of a table with a row for each of its pictures


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
