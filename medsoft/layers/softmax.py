"""Scaled dot-product attention (Vaswani et al. 2017), the baseline."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsoft.layers.base import Grid, check_heads, zero_padding
from medsoft.ops.tensors import accumulation_dtype, join_heads


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
        check_heads(dim, num_heads)
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
        y_BND = join_heads(y)
        if mask_BN is not None:
            y_BND = torch.where(mask_BN.any(dim=1)[:, None, None], y_BND, 0)
        out: Tensor = self.proj_drop(self.proj(y_BND))
        return out

    def contributions(
        self, x_BND: Tensor, query: int = 0, mask_BN: Tensor | None = None, grid: Grid | None = None
    ) -> tuple[Tensor, Tensor]:
        """Softmax weights of one query (B, H, N) and the values (B, H, N, d)."""
        qkv = self.qkv(zero_padding(x_BND, mask_BN))
        q, k, v = qkv.to(accumulation_dtype(qkv)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        logits = (q[:, :, query : query + 1] @ k.transpose(-2, -1)).squeeze(2) / math.sqrt(q.shape[-1])
        if mask_BN is None:
            return logits.softmax(dim=-1), v
        lowest = torch.finfo(logits.dtype).min
        weights = torch.where(mask_BN[:, None], logits, lowest).softmax(dim=-1)
        return torch.where(mask_BN[:, None], weights, 0), v
