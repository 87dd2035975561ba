"""SOFT attention and its symmetric normalisation, for bags of tokens and for grids (see ``medsoft.ops.soft``)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from medsoft.layers.base import Grid, check_heads, project, zero_padding
from medsoft.ops.inverse import INVERSES, Inverse
from medsoft.ops.landmarks import grid_means, segment_means
from medsoft.ops.soft import soft_attention, soft_weights
from medsoft.ops.tensors import accumulation_dtype, join_heads, no_autocast, split_heads

LANDMARKS: dict[int, Grid] = {0: (49,), 1: (49,), 2: (7, 7), 3: (4, 4, 4)}
"""Spatial dimensions -> shape of the landmarks, the same for every number of tokens."""

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@register_notrace_module  # FX keeps it whole: it holds float32 and float64 against autocast, which a graph would lose
class SoftAttention(nn.Module):
    """Softmax-free attention by a Gaussian kernel and a fixed number of landmarks, linear in N.

    Bags (``spatial_dims=0``): landmarks are the means of 49 segments of the real tokens, in their order; any grid is
    ignored. Grids: N is ``num_prefix_tokens`` (class tokens, first) + the grid's tokens. Landmarks come from the grid's
    tokens, by a strided convolution that the heads share (the grid padded with 0 to a multiple of the stride, so that
    nothing is lost), adaptive averaging to 49, 7 × 7 or 4 × 4 × 4, LayerNorm and GELU. A local term is added to the
    grid's tokens: a convolution of the values, one kernel a head. Tokens behind the grid have neither; they can be
    padding. Padded tokens within the grid count as 0 in both convolutions and have no weight in the attention's sum.

    Args:
        dim: model width D.
        num_heads: heads H; D must be divisible by it.
        symmetric: False for ``soft``, True for ``soft_norm``.
        inverse: ``converged`` (exact), or ``newton`` as the paper's weights need it.
        spatial_dims: 0 for bags; 1, 2 or 3 for grids.
        landmark_stride: kernel and stride of the landmarks' convolution.
        local_kernel: width of the local term's kernel, odd.
        num_prefix_tokens: tokens in front of the grid.
        average: divide the sum over tokens by the number of real tokens. Without it N identical tokens give N · v, as
            the published pyramid has it.
        proj_drop: dropout of the output in training.

    Raises:
        ValueError: D is not divisible by H; no such inverse or number of dimensions; an even local kernel.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        symmetric: bool = False,
        inverse: Inverse = "converged",
        spatial_dims: int = 0,
        landmark_stride: int = 2,
        local_kernel: int = 3,
        num_prefix_tokens: int = 0,
        average: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        if inverse not in INVERSES:
            raise ValueError(f"unknown inverse {inverse!r} of soft attention: one of {', '.join(INVERSES)}")
        if spatial_dims not in LANDMARKS:
            raise ValueError(f"{spatial_dims} spatial dimensions: 0 for a bag, or 1, 2 or 3")
        if local_kernel % 2 == 0:
            raise ValueError(f"a local kernel of {local_kernel} has no centre: choose an odd width")
        self.num_heads = num_heads
        self.symmetric = symmetric
        self.inverse: Inverse = inverse
        self.spatial_dims = spatial_dims
        self.landmark_stride = landmark_stride
        self.num_prefix_tokens = num_prefix_tokens
        self.average = average
        # In a bag queries are compared with their own means: a bias would move both alike, and change no distance.
        self.q = nn.Linear(dim, dim, bias=spatial_dims > 0)
        self.v = nn.Linear(dim, dim)
        if spatial_dims > 0:
            conv, width = _CONV[spatial_dims], dim // num_heads
            self.landmark_conv = conv(width, width, landmark_stride, landmark_stride, bias=False)
            self.landmark_norm = nn.LayerNorm(width)
            self.local = conv(num_heads, num_heads, local_kernel, groups=num_heads, padding="same", bias=False)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """(B, N, D) to (B, N, D). A sequence without any real token gives the output projection's bias.

        Raises:
            ValueError: the layer needs a grid, and there is none or one that does not fit.
        """
        q, v = self._queries_and_values(x_BND, mask_BN)
        with no_autocast(x_BND):
            landmarks = self._landmarks(q, mask_BN, grid)
            y = soft_attention(q, landmarks, v, self.symmetric, self.inverse, self._divisor(x_BND, mask_BN))
            y_BND = join_heads(y)
            if self.spatial_dims > 0:
                y_BND = y_BND + self._local_term(v, self._check_grid(grid, x_BND.shape[1]))
            y_BND = project(y_BND, self.proj)
        out: Tensor = self.proj_drop(y_BND.to(x_BND.dtype))
        return out

    def contributions(
        self, x_BND: Tensor, query: int = 0, mask_BN: Tensor | None = None, grid: Grid | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weights of one query, its row of P X Pᵀ over the divisor (B, H, N), and the values (B, H, N, d).

        Raises:
            ValueError: the query lies within a grid, where the local term is a part of its output besides the sum.
        """
        if self.spatial_dims > 0 and not 0 <= query < self.num_prefix_tokens:
            raise ValueError(
                f"token {query} lies within the grid, where a local term is added to the sum over tokens: "
                f"contributions are told for prefix tokens, of which there are {self.num_prefix_tokens}"
            )
        q, v = self._queries_and_values(x_BND, mask_BN)
        with no_autocast(x_BND):
            landmarks = self._landmarks(q, mask_BN, grid)
            weights = soft_weights(q[:, :, query : query + 1], q, landmarks, self.symmetric, self.inverse)
        divisor = self._divisor(x_BND, mask_BN)
        if divisor is not None:
            weights = weights / divisor.squeeze(-1)
        return weights if mask_BN is None else torch.where(mask_BN[:, None], weights, 0), v

    def _queries_and_values(self, x_BND: Tensor, mask_BN: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries scaled by d^(−1/4) and values (B, H, N, d), in the precision of sums; 0 where a token is padding."""
        x_BND = zero_padding(x_BND, mask_BN)
        dtype = accumulation_dtype(x_BND)
        q = split_heads(zero_padding(self.q(x_BND).to(dtype), mask_BN), self.num_heads)
        v = split_heads(zero_padding(self.v(x_BND).to(dtype), mask_BN), self.num_heads)
        return q * q.shape[-1] ** -0.25, v

    def _divisor(self, x_BND: Tensor, mask_BN: Tensor | None) -> Tensor | None:
        if not self.average:
            return None
        if mask_BN is None:
            return torch.full((1, 1, 1, 1), x_BND.shape[1], device=x_BND.device)
        return mask_BN.sum(dim=1).clamp(min=1)[:, None, None, None]

    def _landmarks(self, q_BHNd: Tensor, mask_BN: Tensor | None, grid: Grid | None) -> Tensor:
        """(B, H, m, d)."""
        dims = self.spatial_dims
        if dims == 0:
            return split_heads(segment_means(join_heads(q_BHNd), LANDMARKS[0][0], mask_BN), self.num_heads)
        grid = self._check_grid(grid, q_BHNd.shape[2])
        stride = self.landmark_stride
        dtype = q_BHNd.dtype
        x = self._on_grid(q_BHNd, grid).flatten(0, 1)  # (B H, d, *grid): the heads share one convolution
        x = F.pad(x, [pad for size in reversed(grid) for pad in (0, -size % stride)])
        x = _CONVOLVE[dims](x, self.landmark_conv.weight.to(dtype), stride=stride)
        x = grid_means(x, LANDMARKS[dims]).flatten(2).transpose(1, 2)
        norm = self.landmark_norm
        x = F.layer_norm(x, norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
        return F.gelu(x).reshape(-1, self.num_heads, *x.shape[1:])

    def _local_term(self, v_BHNd: Tensor, grid: Grid) -> Tensor:
        """(B, N, D), 0 for tokens that are not of the grid."""
        batch, heads, n, width = v_BHNd.shape
        # One kernel a head, shared by its channels: as many samples as channels, one channel a head.
        v = self._on_grid(v_BHNd, grid).transpose(1, 2).flatten(0, 1)  # (B d, H, *grid)
        y = _CONVOLVE[self.spatial_dims](v, self.local.weight.to(v.dtype), padding="same", groups=heads)
        y_BND = y.reshape(batch, width, heads, -1).permute(0, 3, 2, 1).flatten(2)
        after = n - self.num_prefix_tokens - y_BND.shape[1]
        return F.pad(y_BND, (0, 0, self.num_prefix_tokens, after))

    def _on_grid(self, x_BHNd: Tensor, grid: Grid) -> Tensor:
        """The grid's tokens as (B, H, d, *grid)."""
        tokens = x_BHNd[:, :, self.num_prefix_tokens : self.num_prefix_tokens + math.prod(grid)]
        return tokens.transpose(2, 3).reshape(*x_BHNd.shape[:2], x_BHNd.shape[3], *grid)

    def _check_grid(self, grid: Grid | None, n: int) -> Grid:
        if grid is None or len(grid) != self.spatial_dims:
            raise ValueError(f"soft attention over {self.spatial_dims} spatial dimensions needs their grid, got {grid}")
        if self.num_prefix_tokens + math.prod(grid) > n:
            raise ValueError(f"{self.num_prefix_tokens} prefix tokens and a grid of {grid} are more than {n} tokens")
        return tuple(grid)
