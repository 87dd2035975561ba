"""Any feature file as a bag: which tool wrote it is seen from what is in it, not from its name."""

from __future__ import annotations

from pathlib import Path

import h5py

from medsoft.data.bags.bag import Bag, Contents, Places
from medsoft.data.bags.clam import clam_places, open_clam_pt, read_clam
from medsoft.data.bags.errors import BagError
from medsoft.data.bags.feature_file import is_own, read_own
from medsoft.data.bags.hdf5 import open_hdf5, said_plainly
from medsoft.data.bags.stamp import is_stamp, read_stamp, stamp_places
from medsoft.data.bags.trident import is_trident, read_trident, trident_places

__all__ = ["SUFFIXES", "Bag", "BagError", "Places", "open_bag", "read_places"]

SUFFIXES = (".h5", ".hdf5", ".pt")
"""Of files that may be bags."""


def open_bag(path: str | Path) -> Bag:
    """Open a feature file of medsoft, TRIDENT, CLAM or STAMP.

    Features stay in the file until they are read. Coordinates and status are in memory: 33 bytes a tile.

    Raises:
        BagError: it is missing, damaged, cut short, or no feature file.
    """
    path = Path(path)
    if path.suffix.lower() == ".pt":
        return open_clam_pt(path)
    file = open_hdf5(path)
    try:
        with said_plainly():
            return Bag(path, _read(file), file)
    except BaseException:
        file.close()
        raise


def read_places(path: str | Path) -> Places:
    """Where the tiles of a slide lie, from a feature file or from a file of coordinates of TRIDENT, CLAM or STAMP.

    Raises:
        BagError: it is missing, damaged, cut short, or has no coordinates.
    """
    with open_hdf5(Path(path)) as file, said_plainly():
        if is_own(file):
            return read_own(file).places
        if is_stamp(file):
            return stamp_places(file)
        return trident_places(file) if is_trident(file) else clam_places(file)


def _read(file: h5py.File) -> Contents:
    if is_own(file):
        return read_own(file)
    if is_stamp(file):
        return read_stamp(file)
    if "features" not in file and "coords" in file:
        raise BagError("holds coordinates of tiles but no features: give the file of their features")
    return read_trident(file) if is_trident(file) else read_clam(file)
