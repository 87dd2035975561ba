"""Feature files of TRIDENT (github.com/mahmoodlab/TRIDENT): ``features``, and ``coords`` with attributes.

Its slide encoders (TITAN, PRISM, GigaPath, CHIEF, MADELEINE ...) leave one vector a slide: ``features`` (F,), which
lost its axis of slides, beside the ``coords`` (N, 2) of all patches that it was made from, in a folder
``slide_features_NAME`` (``extract_slide_features`` in its ``trident/wsi_objects/WSI.py``). They are bags of one.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import h5py
import numpy as np

from medsoft.data.features.bag import Bag, Contents, TileCoordinates
from medsoft.data.features.hdf5 import corners_px0, dataset, feature_rows, number, text, vector_rows
from medsoft.data.features.new_hdf5 import new_hdf5
from medsoft.data.features.provenance import EncoderIdentity, canonical
from medsoft.errors import BagError

CHUNK_ROWS = 256
OF_WHOLES = "slide_features_"
"""How TRIDENT's folders of slide-level features begin."""
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
    attributes = file["coords"].attrs
    tiles: dict[str, Any] = {
        name: number(attributes, name) for name in ("patch_size", "target_magnification", "overlap")
    }
    encoder = text(file["features"].attrs, "encoder")
    if is_of_a_whole(file):
        tiles["vectors"] = "one a slide"
        encoder = encoder or _folder(file).removeprefix(OF_WHOLES)
        identity = EncoderIdentity("trident", encoder, tiles=canonical(tiles))
        return Contents(vector_rows(file, "features"), TileCoordinates(), identity, slide=text(attributes, "name"))
    rows = feature_rows(file, "features")
    identity = EncoderIdentity("trident", encoder, tiles=canonical(tiles))
    return Contents(rows, trident_coordinates(file, rows.shape[0]), identity, slide=text(attributes, "name"))


def is_of_a_whole(file: h5py.File) -> bool:
    """Whether there is one vector for all patches: no axis of patches, or one of 1 where the folder says so."""
    axes = len(dataset(file, "features").shape)
    return axes == 1 or (axes == 2 and dataset(file, "features").shape[0] == 1 and _folder(file).startswith(OF_WHOLES))


def _folder(file: h5py.File) -> str:
    """Name of the folder that TRIDENT wrote a file to; "" where it does not say."""
    return PurePath(text(file["features"].attrs, "savetodir").replace("\\", "/")).name


def trident_coordinates(file: h5py.File, N: int | None = None) -> TileCoordinates:
    """Corners and size of tiles in level-0 pixels, and in µm for files that ``export_trident`` wrote.

    TRIDENT's own files give a nominal magnification, which is no resolution: 20x is 0.499 µm on one scanner and 0.46
    on another.
    """
    coords_N2_px0 = corners_px0(file, N)
    attributes = file["coords"].attrs
    mpp = number(attributes, MPP)
    return TileCoordinates.at(coords_N2_px0, number(attributes, "patch_size_level0"), mpp if mpp and mpp > 0 else None)


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
    facts = bag.slide_facts
    if facts is None or bag.coords_N2_px0 is None:
        of = "is of an image" if bag.facts else f"was written by {bag.origin}"
        raise BagError(f"{of}: only medsoft's own files of slides say all that TRIDENT's need")
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
