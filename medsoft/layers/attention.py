"""Attention modules of one contract, chosen by name.

Every mechanism is called as ``y_BND = attention(x_BND, mask_BN=None, grid=None)``: ``mask_BN`` is True where a token is
real, ``grid`` the spatial shape of the tokens where they have one (a mechanism that has no use for it ignores it).
Real tokens come out the same with and without padding, whatever the padded rows contain, NaN and inf included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsoft.ops.precision import accumulation_dtype, no_autocast
from medsoft.ops.seqnorm import normalise_tokens, seqnorm_attention

Grid = tuple[int, ...]


def zero_padding(x_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Replace padded rows by 0; multiplying would keep their NaN and inf."""
    return x_BND if mask_BN is None else torch.where(mask_BN.unsqueeze(-1), x_BND, 0)


class SoftmaxAttention(nn.Module):
    """Scaled dot-product attention: the baseline that every claim is measured against. Quadratic in N.

    Args:
        dim: model width D.
        num_heads: heads H; D must be divisible by it.
        qkv_bias: biases of the query, key and value projections.
        attn_drop: dropout of attention weights in training.
        proj_drop: dropout of the output in training.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        _check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """(B, N, D) to (B, N, D). A sequence without any real token gives the output projection's bias."""
        x_BND = zero_padding(x_BND, mask_BN)
        q, k, v = self.qkv(x_BND).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        keep = None
        if mask_BN is not None:
            # With no key at all softmax is 0/0; attending to the zeroed rows instead is finite, and is zeroed below.
            empty = ~mask_BN.any(dim=1, keepdim=True)
            keep = (mask_BN | empty)[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep, dropout_p=self.attn_drop if self.training else 0.0)
        y_BND = y.transpose(1, 2).flatten(-2)
        if mask_BN is not None:
            y_BND = torch.where(mask_BN.any(dim=1)[:, None, None], y_BND, 0)
        out: Tensor = self.proj_drop(self.proj(y_BND))
        return out


class SequenceNorm(nn.Module):
    """``γ (x − mean) / sqrt(var + ε) + β``, per channel over the real tokens of a sequence (arXiv 2406.01314)."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """(B, N, D) to (B, N, D), in the precision of ``x_BND``."""
        return normalise_tokens(x_BND, self.weight.to(x_BND.dtype), self.bias.to(x_BND.dtype), mask_BN, self.eps)


class SeqNormAttention(nn.Module):
    """Softmax-free attention with sequence normalisation, linear in N (see ``medsoft.ops.seqnorm``).

    The projections of query, key and value have no biases: the normalisation subtracts any constant.

    Args:
        dim: model width D.
        num_heads: heads H; D must be divisible by it.
        eps: added to the variance in the normalisation.
        proj_drop: dropout of the output in training.
    """

    def __init__(self, dim: int, num_heads: int = 8, eps: float = 1e-5, proj_drop: float = 0.0) -> None:
        super().__init__()
        _check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.qkv_norm = SequenceNorm(3 * dim, eps)  # channels do not mix: one norm for all three
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """(B, N, D) to (B, N, D). A sequence without any real token gives the output projection's bias."""
        x_BND = zero_padding(x_BND, mask_BN)
        dtype = accumulation_dtype(x_BND)
        qkv = self.qkv(x_BND).to(dtype)
        with no_autocast(x_BND):
            q, k, v = self.qkv_norm(qkv, mask_BN).chunk(3, dim=-1)
            y_BND = seqnorm_attention(q, k, v, self.num_heads, mask_BN)
            y_BND = F.linear(y_BND, self.proj.weight.to(dtype), self.proj.bias.to(dtype))
        out: Tensor = self.proj_drop(y_BND.to(x_BND.dtype))
        return out


ATTENTION: dict[str, Callable[..., nn.Module]] = {"softmax": SoftmaxAttention, "seqnorm": SeqNormAttention}


def build_attention(name: str, dim: int, num_heads: int, **options: float) -> nn.Module:
    """An attention module by name.

    Raises:
        ValueError: no mechanism of this name; the known ones are listed.
    """
    if name not in ATTENTION:
        raise ValueError(f"unknown attention {name!r}: one of {', '.join(ATTENTION)}")
    return ATTENTION[name](dim, num_heads, **options)


def _check_heads(dim: int, num_heads: int) -> None:
    if dim % num_heads:
        raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
