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

from medsoft.data.bags.bag import Bag, Contents, Places, Rows
from medsoft.data.bags.errors import BagError
from medsoft.data.bags.facts import EncoderIdentity
from medsoft.data.bags.hdf5 import check_features, corners_px0, feature_rows, number

if TYPE_CHECKING:
    from torch import Tensor


def read_clam(file: h5py.File) -> Contents:
    """Features and corners in level-0 pixels.

    Raises:
        BagError: it cannot be used.
    """
    rows = feature_rows(file, "features")
    return Contents(rows, clam_places(file, rows.shape[0]), EncoderIdentity("clam"))


def clam_places(file: h5py.File, N: int | None = None) -> Places:
    """Corners in level-0 pixels; the size of a tile from files of coordinates, which give it in pixels of a level."""
    coords_N2_px0 = corners_px0(file, N)
    attributes = file["coords"].attrs
    side_px, downsample = number(attributes, "patch_size"), number(attributes, "downsample")
    known = side_px is not None and downsample is not None and "custom_downsample" not in attributes
    return Places.at(coords_N2_px0, side_px * downsample if known else None, mpp=None)  # type: ignore[operator]


def open_clam_pt(path: Path) -> Bag:
    """A tensor of features, without places; its file is mapped, so that rows are read when asked for.

    Nothing but a tensor is taken: the file is never unpickled as Python objects, which could run a program.

    Raises:
        BagError: it is damaged, or holds something else.
    """
    tensor = _load(path)
    dtype = str(tensor.dtype).removeprefix("torch.")
    shape = check_features("the tensor", tuple(tensor.shape), tensor.dtype.is_floating_point, dtype)

    def read(start: int, stop: int) -> np.ndarray:
        values: np.ndarray = tensor[start:stop].float().numpy()
        return values

    return Bag(path, Contents(Rows(shape, dtype, read), Places(), EncoderIdentity("clam")), nullcontext())


def _load(path: Path) -> Tensor:
    import torch

    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise BagError("is empty (0 bytes)")
    except OSError as error:
        raise BagError(f"cannot be opened: {error.strerror}") from error
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "_use_new_zipfile_serialization" not in str(error):
                raise
            found = torch.load(path, map_location="cpu", weights_only=True)  # written before PyTorch 1.6: not mapped
    except pickle.UnpicklingError as error:
        raise BagError(
            "holds Python objects, which are not loaded as they could run a program, or is no file of PyTorch: "
            "a bag is a tensor (tiles, features)"
        ) from error
    except Exception as error:  # PyTorch answers damaged bytes with every kind of exception
        raise BagError(f"is damaged or cut short, or no file of PyTorch ({str(error).splitlines()[0]})") from error
    if not isinstance(found, torch.Tensor) or found.layout != torch.strided or found.is_quantized:
        raise BagError(f"holds a {type(found).__name__}: a bag is a dense tensor (tiles, features)")
    return found.detach()
