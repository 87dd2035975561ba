"""Linear attention with the ReLU kernel (see ``medsoft.ops.relu_linear``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from medsoft.layers.base import Grid, check_heads, project, zero_padding
from medsoft.ops.relu_linear import ReluLinearState, relu_linear_attention, relu_linear_queries
from medsoft.ops.tensors import accumulation_dtype, no_autocast, split_heads


def _projected(x_BND: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> tuple[Tensor, ...]:
    """Queries, keys and values, autocast or not, in the precision of sums over tokens.

    A query of which ReLU leaves little is divided by as little: rounded to half precision before, it would point in
    another direction.
    """
    dtype = accumulation_dtype(x_BND)
    with no_autocast(x_BND):
        bias = None if bias_E is None else bias_E.to(dtype)
        return F.linear(x_BND.to(dtype), weight_ED.to(dtype), bias).chunk(3, dim=-1)


# It depends on the type of its input, which FX must not trace through.
@register_notrace_function  # type: ignore[untyped-decorator]
def relu_linear_layer(
    x_BND: Tensor,
    mask_BN: Tensor | None,
    qkv_weight: Tensor,
    qkv_bias: Tensor | None,
    scale_H: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    floor: float,
) -> Tensor:
    """The layer without dropout, (B, N, D) to (B, N, D): float32, or float64 for float64 input."""
    dtype = accumulation_dtype(x_BND)
    q, k, v = _projected(x_BND, qkv_weight, qkv_bias)
    with no_autocast(x_BND):
        state = ReluLinearState.of(k, v, scale_H.shape[0], mask_BN)
        y_BND = relu_linear_attention(q, state, scale_H.to(dtype), floor)
        return F.linear(y_BND, proj_weight.to(dtype), proj_bias.to(dtype))


class ReluLinearAttention(nn.Module):
    """Softmax-free attention with the kernel ReLU(q) · ReLU(k), linear in N.

    Args:
        dim: model width D.
        num_heads: heads H; D must be divisible by it.
        qkv_bias: biases of the query, key and value projections.
        floor: the least sum of a query's weights that is divided by; 100 is that of Lin-MIL's public code.
        proj_drop: dropout of the output in training.

    Raises:
        ValueError: D is not divisible by H, or ``floor`` is not above 0.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, floor: float = 1e-6, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        if not floor > 0:
            raise ValueError(f"floor {floor}: what is divided by must be above 0")
        self.num_heads = num_heads
        self.floor = floor
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.scale = nn.Parameter(torch.full((num_heads,), (dim // num_heads) ** -0.5))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """(B, N, D) to (B, N, D). A sequence without any real token gives the output projection's bias."""
        qkv, proj = self.qkv, self.proj
        x = zero_padding(x_BND, mask_BN)
        y_BND = relu_linear_layer(x, mask_BN, qkv.weight, qkv.bias, self.scale, proj.weight, proj.bias, self.floor)
        out: Tensor = self.proj_drop(y_BND.to(x_BND.dtype))
        return out

    def state(self, x_BND: Tensor, mask_BN: Tensor | None = None) -> ReluLinearState:
        """What the layer has to know of a whole sequence; the states of its parts ``merge``."""
        _, k, v = self._qkv(zero_padding(x_BND, mask_BN))
        with no_autocast(x_BND):
            return ReluLinearState.of(k, v, self.num_heads, mask_BN)

    def attend(self, x_BND: Tensor, state: ReluLinearState) -> Tensor:
        """The output at some of a sequence's tokens (B, n, D), given the state of all of it."""
        q, _, _ = self._qkv(x_BND)
        with no_autocast(x_BND):
            y_BND = relu_linear_attention(q, state, self.scale.to(q.dtype), self.floor)
            return project(y_BND, self.proj).to(x_BND.dtype)

    def contributions(
        self, x_BND: Tensor, query: int = 0, mask_BN: Tensor | None = None, grid: Grid | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weights τ φ(q)·φ(k_n) / Σ_m φ(q)·φ(k_m) of one query (B, H, N) and the values (B, H, N, d)."""
        x_BND = zero_padding(x_BND, mask_BN)
        weights, values = self.chunk_contributions(x_BND, x_BND[:, query : query + 1], self.state(x_BND, mask_BN))
        return weights if mask_BN is None else torch.where(mask_BN[:, None], weights, 0), values

    def chunk_contributions(self, x_BND: Tensor, query_B1D: Tensor, state: ReluLinearState) -> tuple[Tensor, Tensor]:
        """``contributions`` of some of a sequence's tokens to one query, given the state of all of it."""
        q, _, _ = self._qkv(query_B1D)
        _, k, v = self._qkv(x_BND)
        with no_autocast(x_BND):
            queries = relu_linear_queries(q, state, self.scale.to(q.dtype), self.floor)
            k, v = (split_heads(t, self.num_heads) for t in (F.relu(k), v))
            return (k @ queries.transpose(-2, -1)).squeeze(-1), v

    def _qkv(self, x_BND: Tensor) -> tuple[Tensor, ...]:
        return _projected(x_BND, self.qkv.weight, self.qkv.bias)
