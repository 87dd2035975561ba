"""SimA attention (see ``medsoft.ops.sima``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from medsoft.layers.base import Grid, check_heads, project, zero_padding
from medsoft.ops.sima import SimaState, sima_attention, sima_queries
from medsoft.ops.tensors import accumulation_dtype, no_autocast, split_heads


# It depends on the type of its input, which FX must not trace through.
@register_notrace_function  # type: ignore[untyped-decorator]
def sima_layer(
    qkv_BNE: Tensor, mask_BN: Tensor | None, proj_weight: Tensor, proj_bias: Tensor, heads: int, eps: float
) -> Tensor:
    """Attention and output projection of queries, keys and values (B, N, 3D); float32, or float64 for float64 input."""
    dtype = accumulation_dtype(qkv_BNE)
    q, k, v = qkv_BNE.to(dtype).chunk(3, dim=-1)
    with no_autocast(qkv_BNE):
        y_BND = sima_attention(q, SimaState.of(q, k, v, heads, mask_BN), eps)
        return F.linear(y_BND, proj_weight.to(dtype), proj_bias.to(dtype))


class SimaAttention(nn.Module):
    """Softmax-free attention with ℓ1-normalised queries and keys, linear in N.

    Args:
        dim: model width D.
        num_heads: heads H; D must be divisible by it.
        qkv_bias: biases of the query, key and value projections.
        eps: the least mean magnitude of a channel that is divided by.
        proj_drop: dropout of the output in training.

    Raises:
        ValueError: D is not divisible by H.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, eps: float = 1e-6, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.eps = eps
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """(B, N, D) to (B, N, D). A sequence without any real token gives the output projection's bias."""
        qkv = self.qkv(zero_padding(x_BND, mask_BN))
        y_BND = sima_layer(qkv, mask_BN, self.proj.weight, self.proj.bias, self.num_heads, self.eps)
        out: Tensor = self.proj_drop(y_BND.to(x_BND.dtype))
        return out

    def state(self, x_BND: Tensor, mask_BN: Tensor | None = None) -> SimaState:
        """What the layer has to know of a whole sequence; the states of its parts ``merge``."""
        q, k, v = self._qkv(zero_padding(x_BND, mask_BN))
        with no_autocast(x_BND):
            return SimaState.of(q, k, v, self.num_heads, mask_BN)

    def attend(self, x_BND: Tensor, state: SimaState) -> Tensor:
        """The output at some of a sequence's tokens (B, n, D), given the state of all of it."""
        q, _, _ = self._qkv(x_BND)
        with no_autocast(x_BND):
            return project(sima_attention(q, state, self.eps), self.proj).to(x_BND.dtype)

    def contributions(
        self, x_BND: Tensor, query: int = 0, mask_BN: Tensor | None = None, grid: Grid | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weights N q̂·k̂_n of one query (B, H, N) and the values (B, H, N, d)."""
        x_BND = zero_padding(x_BND, mask_BN)
        weights, values = self.chunk_contributions(x_BND, x_BND[:, query : query + 1], self.state(x_BND, mask_BN))
        return weights if mask_BN is None else torch.where(mask_BN[:, None], weights, 0), values

    def chunk_contributions(self, x_BND: Tensor, query_B1D: Tensor, state: SimaState) -> tuple[Tensor, Tensor]:
        """``contributions`` of some of a sequence's tokens to one query, given the state of all of it."""
        q, _, _ = self._qkv(query_B1D)
        _, k, v = self._qkv(x_BND)
        with no_autocast(x_BND):
            norm = state.key_BD.clamp(min=self.eps * state.count_B.clamp(min=1)[:, None])
            q, k, v = (split_heads(t, self.num_heads) for t in (sima_queries(q, state, self.eps), k / norm[:, None], v))
            return (k @ q.transpose(-2, -1)).squeeze(-1), v

    def _qkv(self, x_BND: Tensor) -> tuple[Tensor, ...]:
        """Projections in the precision of sums over tokens."""
        qkv: Tensor = self.qkv(x_BND)
        return qkv.to(accumulation_dtype(x_BND)).chunk(3, dim=-1)
