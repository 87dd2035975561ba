"""Opens any feature file as a bag; the tool that wrote it is recognised by its content, not by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py

from medsoft.data.features.arrays import is_instance_table, open_instances, open_npy, open_npz, open_parquet, read_array
from medsoft.data.features.bag import Bag, Contents, TileCoordinates
from medsoft.data.features.hdf5 import open_hdf5, plain_errors, text
from medsoft.data.features.names import OF_BAGS
from medsoft.data.features.native import is_own, read_own
from medsoft.data.features.other_tools.clam import clam_coordinates, open_clam_pt, read_clam
from medsoft.data.features.other_tools.stamp import is_stamp, read_stamp, stamp_coordinates
from medsoft.data.features.other_tools.trident import is_trident, read_trident, trident_coordinates
from medsoft.errors import BagError

__all__ = ["SUFFIXES", "Bag", "TileCoordinates", "open_bag", "read_coordinates"]

SUFFIXES = OF_BAGS
"""Of files that may be bags."""


def open_bag(path: str | Path) -> Bag:
    """Open a feature file of medsoft, TRIDENT, CLAM or STAMP, or an array of one's own.

    Features stay in the file until they are read, but for ``.npz`` and tables. Coordinates and status are in memory:
    33 bytes per tile.

    Args:
        path: the file; ``TABLE#BAG`` for one bag of a table of instances.

    Raises:
        BagError: it is missing, damaged, cut short, or no feature file.
    """
    table, _, name = str(path).partition("#")
    if name and is_instance_table(Path(table)):
        return open_instances(Path(table), name)
    path = Path(path)
    if other := OTHER.get(path.suffix.lower()):
        return other(path)
    file = open_hdf5(path)
    try:
        with plain_errors():
            contents = _read(file)
            if not contents.slide and contents.facts is None:  # whoever wrote the file may have said so all the same
                contents = replace(contents, slide=text(file.attrs, "slide"))
            return Bag(path, contents, file)
    except BaseException:
        file.close()
        raise


OTHER = {".pt": open_clam_pt, ".npy": open_npy, ".npz": open_npz, ".parquet": open_parquet}
"""By suffix, what opens files that are not HDF5."""


def read_coordinates(path: str | Path) -> TileCoordinates:
    """Where the tiles of a slide lie, from a feature file or from a file of coordinates of TRIDENT, CLAM or STAMP.

    Raises:
        BagError: it is missing, damaged, cut short, or has no coordinates.
    """
    with open_hdf5(Path(path)) as file, plain_errors():
        if is_own(file):
            return read_own(file).coordinates
        if is_stamp(file):
            return stamp_coordinates(file)
        return trident_coordinates(file) if is_trident(file) else clam_coordinates(file)


def _read(file: h5py.File) -> Contents:
    if is_own(file):
        return read_own(file)
    if is_stamp(file):
        return read_stamp(file)
    if "features" not in file and "coords" in file:
        raise BagError("holds coordinates of tiles but no features: give the file of their features")
    if is_trident(file):
        return read_trident(file)
    return read_clam(file) if "coords" in file else read_array(file)
