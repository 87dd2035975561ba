"""The graph of a slide's tiles, from their coordinates: each tile and its nearest neighbours.

Source: Chen et al. 2021 (PatchGCN, arXiv 2107.13048, section 2.1), who join each tile to its 8 nearest in the slide;
weights are those of Kipf and Welling 2017 (arXiv 1609.02907), D^(−1/2) A D^(−1/2), as in torchmil's data sets.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def neighbour_graph(coords_NA: Tensor, neighbours: int, dtype: torch.dtype) -> Tensor:
    """The normalised adjacency matrix (N, N), sparse and symmetric, without edges from a tile to itself.

    An edge joins two tiles where either is among the nearest of the other. Of tiles that are equally far the search
    takes any.

    Args:
        coords_NA: places of the tiles, in any unit.
        neighbours: the nearest of each tile; fewer where there are not as many others.
        dtype: of the weights.

    Returns:
        A coalesced tensor on the device of the coordinates.
    """
    from scipy.spatial import cKDTree

    places_NA = coords_NA.detach().double().cpu().numpy()
    N = len(places_NA)
    k = min(neighbours, N - 1)
    rows = np.repeat(np.arange(N), k + 1)
    columns = cKDTree(places_NA).query(places_NA, k=k + 1)[1].reshape(-1) if k > 0 else rows
    # Each tile is among its own nearest, unless more than k others lie at the very same place.
    kept = rows != columns
    rows, columns = rows[kept], columns[kept]
    pairs = np.unique(np.concatenate([rows * N + columns, columns * N + rows]))
    rows, columns = pairs // N, pairs % N
    degree_N = np.bincount(rows, minlength=N)
    weights = 1 / np.sqrt(degree_N[rows] * degree_N[columns])
    indices = torch.from_numpy(np.stack([rows, columns]))
    values = torch.from_numpy(weights).to(dtype)
    adjacency_NN = torch.sparse_coo_tensor(indices, values, (N, N), is_coalesced=True, check_invariants=False)
    return adjacency_NN.to(coords_NA.device)
