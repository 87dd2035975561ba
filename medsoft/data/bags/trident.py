"""Feature files of TRIDENT (github.com/mahmoodlab/TRIDENT): ``features``, and ``coords`` with attributes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from medsoft.data.bags.bag import Bag, Contents, Places
from medsoft.data.bags.errors import BagError
from medsoft.data.bags.facts import EncoderIdentity, canonical
from medsoft.data.bags.hdf5 import corners_px0, feature_rows, number, text
from medsoft.data.bags.new_hdf5 import new_hdf5

CHUNK_ROWS = 256
UM_PER_MAGNIFICATION = 10.0
"""Pixels are 10 µm / magnification wide by convention (0.5 µm at 20x). Used for writing only: scanners differ."""
MPP = "level0_mpp"
"""An attribute of ours; TRIDENT itself records the nominal magnification alone."""


def is_trident(file: h5py.File) -> bool:
    """Whether ``coords`` has an attribute that TRIDENT alone writes."""
    found = file.get("coords")
    return found is not None and "patch_size_level0" in found.attrs


def read_trident(file: h5py.File) -> Contents:
    """Features and corners in level-0 pixels.

    Raises:
        BagError: it cannot be used.
    """
    rows = feature_rows(file, "features")
    attributes = file["coords"].attrs
    tiles = {name: number(attributes, name) for name in ("patch_size", "target_magnification", "overlap")}
    identity = EncoderIdentity("trident", text(file["features"].attrs, "encoder"), tiles=canonical(tiles))
    return Contents(rows, trident_places(file, rows.shape[0]), identity)


def trident_places(file: h5py.File, N: int | None = None) -> Places:
    """Corners and size of tiles in level-0 pixels, and in µm for files that ``export_trident`` wrote.

    TRIDENT's own files give a nominal magnification, which is no resolution: 20x is 0.499 µm on one scanner and 0.46
    on another.
    """
    coords_N2_px0 = corners_px0(file, N)
    attributes = file["coords"].attrs
    mpp = number(attributes, MPP)
    return Places.at(coords_N2_px0, number(attributes, "patch_size_level0"), mpp if mpp and mpp > 0 else None)


def export_trident(bag: Bag, out: Path) -> int:
    """Write a bag of medsoft as TRIDENT would have written it; whole or not at all.

    Its files have no place for tiles that could not be read: these are left out. The magnifications are 10 divided
    by the µm per pixel, not rounded, so that their ratio is the true one.

    Args:
        bag: from one of medsoft's own files.
        out: the file to write; TRIDENT names it by the slide, ``<slide>.h5``.

    Returns:
        The number of tiles that were left out.

    Raises:
        BagError: the bag is of another tool, or damaged.
        OSError: the file cannot be written.
    """
    if bag.facts is None or bag.coords_N2_px0 is None:
        raise BagError(f"was written by {bag.origin}: only medsoft's own files say all that TRIDENT's need")
    facts = bag.facts
    good = np.flatnonzero(bag.good_N)
    attributes = {
        "patch_size": facts.tile_px,
        "patch_size_level0": facts.tile_px0,
        "level0_magnification": UM_PER_MAGNIFICATION / facts.mpp,
        "target_magnification": UM_PER_MAGNIFICATION / float(facts.tile_settings["mpp"]),
        "overlap": facts.overlap_px,
        "name": Path(facts.slide).stem,
        "savetodir": str(out.parent),
        "level0_width": facts.size_px0[0],
        "level0_height": facts.size_px0[1],
        MPP: facts.mpp,
    }
    with new_hdf5(out) as (file, check_disk):
        shape = (len(good), bag.num_features)
        chunks = (min(CHUNK_ROWS, shape[0]), shape[1])
        features = file.create_dataset("features", shape, bag.dtype, maxshape=(None, shape[1]), chunks=chunks)
        features.attrs.update({"name": attributes["name"], "savetodir": str(out.parent), "encoder": facts.encoder})
        coords = file.create_dataset("coords", data=bag.coords_N2_px0[good], maxshape=(None, 2))
        coords.attrs.update(attributes)
        start = 0
        for features_nF, _ in bag.chunks():
            features[start : start + len(features_nF)] = features_nF
            check_disk()
            start += len(features_nF)
    return bag.num_tiles - len(good)
