"""Feature files of CLAM (github.com/mahmoodlab/CLAM): ``features`` and ``coords`` in HDF5, or a tensor in ``.pt``.

Neither says which encoder, which resolution or which size of tile: what is mixed here cannot be told apart.
"""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from medsoft.data.features.arrays import check_file
from medsoft.data.features.bag import Bag, Contents, Rows, TileCoordinates
from medsoft.data.features.hdf5 import check_features, check_ratio, corners_px0, feature_rows, number, text
from medsoft.data.features.provenance import EncoderIdentity
from medsoft.errors import BagError

if TYPE_CHECKING:
    from torch import Tensor


def read_clam(file: h5py.File) -> Contents:
    """Features and corners in level-0 pixels.

    Raises:
        BagError: it cannot be used.
    """
    rows = feature_rows(file, "features")
    coordinates = clam_coordinates(file, rows.shape[0])
    return Contents(rows, coordinates, EncoderIdentity("clam"), slide=text(file["coords"].attrs, "name"))


def clam_coordinates(file: h5py.File, N: int | None = None) -> TileCoordinates:
    """Corners in level-0 pixels; the size of a tile from files of coordinates, which give it in pixels of a level."""
    coords_N2_px0 = corners_px0(file, N)
    attributes = file["coords"].attrs
    side_px, downsample = number(attributes, "patch_size"), number(attributes, "downsample")
    known = side_px is not None and downsample is not None and "custom_downsample" not in attributes
    return TileCoordinates.at(coords_N2_px0, side_px * downsample if known else None, mpp=None)  # type: ignore[operator]


def open_clam_pt(path: Path) -> Bag:
    """A tensor of features, without places; its file is mapped, so that rows are read when asked for.

    Nothing but a tensor is taken: the file is never unpickled as Python objects, which could run a program.

    Raises:
        BagError: it is damaged, or holds something else.
    """
    tensor = _load(path)
    dtype = str(tensor.dtype).removeprefix("torch.")
    shape = check_features("the tensor", tuple(tensor.shape), tensor.dtype.is_floating_point, dtype)

    # A tensor may show the same bytes again and again.
    if shape[0] * shape[1] * tensor.element_size() > path.stat().st_size:
        check_ratio("the tensor", shape[0] * shape[1] * tensor.element_size(), path.stat().st_size)

    def read(start: int, stop: int) -> np.ndarray:
        values: np.ndarray = tensor[start:stop].float().numpy()
        return values

    return Bag(path, Contents(Rows(shape, dtype, read), TileCoordinates(), EncoderIdentity("clam")), nullcontext())


def _load(path: Path) -> Tensor:
    import torch

    check_file(path)
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "_use_new_zipfile_serialization" not in str(error):
                raise
            found = torch.load(path, map_location="cpu", weights_only=True)  # written before PyTorch 1.6: not mapped
    except pickle.UnpicklingError as error:
        raise BagError(
            "holds Python objects, which are not loaded as they could run a program, or is not a PyTorch file: "
            "a bag is a tensor (tiles, features)"
        ) from error
    except Exception as error:  # PyTorch answers damaged bytes with every kind of exception
        raise BagError(f"is damaged or cut short, or not a PyTorch file ({str(error).splitlines()[0]})") from error
    if not isinstance(found, torch.Tensor) or found.layout != torch.strided or found.is_quantized:
        raise BagError(f"holds a {type(found).__name__}: a bag is a dense tensor (tiles, features)")
    return found.detach()
