"""Feature files of STAMP (github.com/KatherLab/STAMP): ``feats``, and ``coords`` in µm."""

from __future__ import annotations

import h5py
import numpy as np

from medsoft.data.features.bag import Contents, TileCoordinates
from medsoft.data.features.hdf5 import corners, feature_rows, number, text
from medsoft.data.features.provenance import EncoderIdentity, canonical
from medsoft.errors import BagError


def is_stamp(file: h5py.File) -> bool:
    """Whether STAMP's dataset of features is there."""
    return "feats" in file


def read_stamp(file: h5py.File) -> Contents:
    """Features and places in µm; level-0 pixels are not known, as the file does not say the slide's resolution.

    Raises:
        BagError: it cannot be used.
    """
    if (kind := text(file.attrs, "feat_type")) not in ("", "tile"):
        raise BagError(f"holds features of a {kind}, not of tiles")
    rows = feature_rows(file, "feats")
    return Contents(rows, stamp_coordinates(file, rows.shape[0]), _identity(file))


def stamp_coordinates(file: h5py.File, N: int | None = None) -> TileCoordinates:
    """Corners in µm. None where the file does not say that they are: those of STAMP 1 are in a pixel of its own."""
    coords_N2 = corners(file, N)
    tile_um = number(file.attrs, "tile_size_um")
    if tile_um is None and text(file.attrs, "unit") == "um":  # STAMP 2.0
        tile_um = number(file.attrs, "tile_size")
    if tile_um is None:
        return TileCoordinates()
    return TileCoordinates(coords_N2_um=coords_N2.astype(np.float32), tile_um=tile_um)


def _identity(file: h5py.File) -> EncoderIdentity:
    # Not code_hash: it changes with every edit of STAMP's own files, so it would part what belongs together.
    tiles = {name: number(file.attrs, name) for name in ("tile_size_um", "tile_size_px", "tile_size")}
    known = {name: value for name, value in tiles.items() if value is not None}
    return EncoderIdentity("stamp", text(file.attrs, "extractor"), tiles=canonical(known) if known else "")
