"""The file that keeps a tiling: HDF5 with ``coords`` (N, 2) int64, ``tissue`` (N) float32, and facts as attributes.

Where artefacts were measured, ``quality/sharpness``, ``fold``, ``bubble`` and ``pen`` (N) float32 are there too; of a
model's measures, ``quality/artefact_CLASS``.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np

from medsoft import __version__
from medsoft.data.features.hdf5 import corners_px0, dataset, open_hdf5, plain_errors
from medsoft.errors import BagError, InputError, SlideError
from medsoft.slides.folder import write_whole
from medsoft.slides.quality.measure import CAUSES, TileQuality
from medsoft.slides.tiling.settings import TileSettings
from medsoft.slides.tiling.tiling import Tiling

FORMAT = "medsoft tiles"
VERSION = 2
"""2: with the bounds of the slide."""


def write_tiling(path: Path, tiling: Tiling) -> None:
    """Write a tiling, whole or not at all.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    # In memory first: HDF5 loses what the operating system says of a full disk.
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.create_dataset("coords", data=tiling.coords_N2_px0.astype(np.int64))
        file.create_dataset("tissue", data=tiling.tissue_N.astype(np.float32))
        if tiling.quality is not None:
            for name, values_N in tiling.quality.columns.items():
                file.create_dataset(f"quality/{name}", data=values_N.astype(np.float32))
            file.attrs["left_out"] = json.dumps(
                {"tiles": tiling.quality.tiles_left_out, "causes": dict(tiling.quality.left_out)}
            )
            file.attrs["measures"] = json.dumps(list(tiling.quality.columns))
        file.attrs.update(
            {
                "format": FORMAT,
                "format_version": VERSION,
                "medsoft_version": __version__,
                "slide": tiling.slide,
                "quick_hash": tiling.quick_hash,
                "size_px0": np.array(tiling.size_px0, np.int64),
                "bounds_px0": np.array(tiling.bounds_px0 or (0, 0, *tiling.size_px0), np.int64),
                "mpp": tiling.mpp,
                "mpp_origin": tiling.mpp_origin,
                "tile_px": tiling.settings.tile_px,
                "tile_um": tiling.tile_um,
                "tile_px0": tiling.tile_px0,
                "overlap_px": tiling.settings.overlap_px,
                "tissue_mm2": tiling.tissue_mm2,
                "regions_from": tiling.regions_from,
                "settings": json.dumps(tiling.settings.as_dict()),
                "warnings": json.dumps(tiling.warnings, ensure_ascii=False),
            }
        )
    write_whole(path, image.getbuffer())


def read_tiling(path: Path) -> Tiling:
    """Read a tiling.

    Raises:
        SlideError: there is no such file, it is damaged, or it is of another kind or version.
    """
    try:
        with open_hdf5(path) as file:
            return _read(file)
    except BagError as error:
        raise SlideError(f"its tiles ({path.name}): the file {error.reason}") from error
    except InputError as error:
        raise SlideError(f"its tiles ({path.name}): the file has impossible settings: {error}") from error


def _read(file: h5py.File) -> Tiling:
    facts = file.attrs
    if facts.get("format") != FORMAT or facts.get("format_version") != VERSION:
        raise BagError("was not written by this version of medsoft slides tile")
    with plain_errors("its attributes cannot be read"):
        settings = TileSettings.from_dict(json.loads(facts["settings"]))
        width, height = (int(side) for side in facts["size_px0"])
        bounds_px0 = tuple(int(side) for side in facts["bounds_px0"])
        tissue_N = dataset(file, "tissue")[()].astype(np.float32)
        coords_N2_px0 = corners_px0(file, len(tissue_N))
        return Tiling(
            slide=str(facts["slide"]),
            quick_hash=str(facts["quick_hash"]),
            size_px0=(width, height),
            mpp=float(facts["mpp"]),
            mpp_origin=str(facts["mpp_origin"]),
            settings=settings,
            coords_N2_px0=coords_N2_px0,
            tissue_N=tissue_N,
            tissue_mm2=float(facts["tissue_mm2"]),
            warnings=tuple(json.loads(facts["warnings"])),
            bounds_px0=(bounds_px0[0], bounds_px0[1], bounds_px0[2], bounds_px0[3]),
            regions_from=str(facts.get("regions_from", "")),
            quality=None if settings.quality is None else _quality(file, len(tissue_N)),
        )


def _quality(file: h5py.File, tiles: int) -> TileQuality:
    names = json.loads(file.attrs["measures"]) if "measures" in file.attrs else list(CAUSES)  # the latter of 0.1
    columns = {name: dataset(file, f"quality/{name}")[()].astype(np.float32) for name in names}
    if any(values_N.shape != (tiles,) for values_N in columns.values()):
        raise BagError("has artefacts of another number of tiles")
    left_out = json.loads(file.attrs["left_out"])
    return TileQuality(columns, left_out=left_out["causes"], tiles_left_out=int(left_out["tiles"]))
