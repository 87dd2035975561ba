"""Saves the tiles of a slide as pictures: files of a folder, or one HDF5 file; all of a slide, or none.

tile_images/<id>/<x>_<y>.png or .jpg, beside them tiles.json; or tile_images/<id>.h5 with ``images`` (N, H, W, 3) uint8
and ``coords`` (N, 2) int64, one tile a chunk. What cannot be read is left out and counted.
"""

from __future__ import annotations

import io
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from medsoft.data.features.hdf5 import dataset, open_hdf5, plain_errors
from medsoft.data.features.new_hdf5 import new_hdf5
from medsoft.errors import BagError, TileError
from medsoft.slides.reading.slide import Slide
from medsoft.slides.tiling.tiling import Tiling
from medsoft.storage.files import MARK

Format = Literal["png", "jpeg", "hdf5"]
SUFFIXES = {"png": "png", "jpeg": "jpg"}
JPEG_QUALITY = 90
RECORD = "tiles.json"
READERS = 2
"""Threads that read tiles of one slide; several slides are worked on at once."""
FASTEST = 1
"""Level of compression: pixels of tissue hardly become smaller with more."""


@dataclass(frozen=True)
class SavedTiles:
    """The saved tiles of a slide.

    Attributes:
        place: the folder or the file.
        paths: of each tile that could be read, within ``place``: a file's name, or ``#images/12``.
        rows: of these tiles in the tiling, (n,) int64.
    """

    place: Path
    paths: list[str]
    rows: np.ndarray


def place_of(folder: Path, id: str, format: Format) -> Path:
    """Where the tiles of a slide are saved."""
    return folder / "tile_images" / (f"{id}.h5" if format == "hdf5" else id)


def saved_tiles(place: Path, tiling: Tiling, format: Format) -> SavedTiles | None:
    """The tiles that are there, if they are those of this tiling in this format; else None."""
    try:
        if format == "hdf5":
            with open_hdf5(place) as file, plain_errors():
                record = json.loads(file.attrs["record"])
                rows = dataset(file, "rows")[()].astype(np.int64)
        else:
            record = json.loads((place / RECORD).read_text(encoding="utf-8"))
            rows = np.array(record.pop("rows"), np.int64)
    except (OSError, BagError, KeyError, ValueError, TypeError, AttributeError):
        return None
    return _saved(place, tiling, rows, format) if record == _record(tiling, format) else None


def save_tiles(slide: Slide, tiling: Tiling, place: Path, format: Format) -> SavedTiles:
    """Read the tiles of an open slide and save them, in place of others.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    write = _write_hdf5 if format == "hdf5" else _write_pictures
    rows = write(slide, tiling, place, format)
    return _saved(place, tiling, rows, format)


def _saved(place: Path, tiling: Tiling, rows: np.ndarray, format: Format) -> SavedTiles:
    if format == "hdf5":
        return SavedTiles(place, [f"#images/{index}" for index in range(len(rows))], rows)
    return SavedTiles(place, [_name(x, y, format) for x, y in tiling.coords_N2_px0[rows]], rows)


def _name(x: int, y: int, format: Format) -> str:
    return f"{x}_{y}.{SUFFIXES[format]}"


def _record(tiling: Tiling, format: Format) -> dict[str, Any]:
    """What decides the saved tiles."""
    return {
        "format": format,
        "slide": tiling.slide,
        "quick_hash": tiling.quick_hash,
        "mpp": tiling.mpp,
        "tile_settings": tiling.settings.as_dict(),
        "regions_from": tiling.regions_from,
        "tiles": len(tiling),
    }


def _tiles(slide: Slide, tiling: Tiling) -> Iterator[tuple[int, np.ndarray]]:
    """Rows and tiles that can be read."""
    settings = tiling.settings
    for row, tile in slide.read_tiles(tiling.coords_N2_px0, settings.tile_px, settings.mpp, READERS):
        if not isinstance(tile, TileError):
            yield row, tile


def _write_pictures(slide: Slide, tiling: Tiling, place: Path, format: Format) -> np.ndarray:
    """A folder under a hidden name, renamed when it is complete."""
    partial = place.with_name(f".{place.name[:40]}{MARK}{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    rows = []
    try:
        for row, tile in _tiles(slide, tiling):
            content = io.BytesIO()
            options = {"quality": JPEG_QUALITY, "subsampling": 0} if format == "jpeg" else {"compress_level": FASTEST}
            Image.fromarray(tile).save(content, format=format, **options)
            x, y = tiling.coords_N2_px0[row]
            (partial / _name(x, y, format)).write_bytes(content.getbuffer())
            rows.append(row)
        record = json.dumps({**_record(tiling, format), "rows": rows}, ensure_ascii=False)
        (partial / RECORD).write_text(record + "\n", encoding="utf-8")
        if place.exists():
            shutil.rmtree(place)
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return np.array(rows, np.int64)


def _write_hdf5(slide: Slide, tiling: Tiling, place: Path, format: Format) -> np.ndarray:
    side = tiling.settings.tile_px
    rows: list[int] = []
    with new_hdf5(place) as (file, check_disk):
        shape = (max(1, len(tiling)), side, side, 3)
        packed = {"chunks": (1, side, side, 3), "compression": "gzip", "compression_opts": FASTEST}
        images = file.create_dataset("images", shape, np.uint8, **packed)
        for row, tile in _tiles(slide, tiling):
            images[len(rows)] = tile
            rows.append(row)
            check_disk()
        images.resize(len(rows), axis=0)
        file.create_dataset("coords", data=tiling.coords_N2_px0[rows].astype(np.int64).reshape(-1, 2))
        file.create_dataset("rows", data=np.array(rows, np.int64))
        file.attrs["record"] = json.dumps(_record(tiling, format), ensure_ascii=False)
    return np.array(rows, np.int64)
