"""SimA: attention without softmax whose queries and keys are ℓ1-normalised over the tokens.

Axes: ``B`` batch, ``N`` tokens, ``D`` model width, ``H`` heads, ``d = D / H`` head width.

    q̂ = q / ‖q‖₁,   k̂ = k / ‖k‖₁         per channel, the norm over the tokens
    Y = N · q̂ (k̂ᵀ v)                      per head

Source: Koohpayegani and Pirsiavash 2022 (arXiv 2206.08898). Deviation: the factor N, the number of real tokens. The
entries of q̂ shrink as 1/N, and with them the paper's output; with the factor, a model that was trained at one length
has outputs of the same scale at another. Norms are summed in float32: in half precision they overflow near N = 1e5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medsoft.ops.tensors import join_heads, split_heads


@dataclass(frozen=True)
class SimaState:
    """Sums over the tokens seen so far, from which the output at any token follows; parts add up.

    Attributes:
        count_B: number of real tokens.
        query_BD: ‖q‖₁ per channel.
        key_BD: ‖k‖₁ per channel.
        key_value_BHdd: Σ k vᵀ per head, keys not normalised yet.
    """

    count_B: Tensor
    query_BD: Tensor
    key_BD: Tensor
    key_value_BHdd: Tensor

    @classmethod
    def of(cls, q_BND: Tensor, k_BND: Tensor, v_BND: Tensor, heads: int, mask_BN: Tensor | None = None) -> SimaState:
        """Sums over queries, keys and values (B, N, D), float32 or float64; padded tokens do not count."""
        if mask_BN is None:
            count = torch.full_like(q_BND[:, 0, 0], q_BND.shape[1])
        else:
            count = mask_BN.sum(dim=1).to(q_BND.dtype)
            q_BND, k_BND = (torch.where(mask_BN.unsqueeze(-1), t, 0) for t in (q_BND, k_BND))
        key_value = split_heads(k_BND, heads).transpose(-2, -1) @ split_heads(v_BND, heads)
        return cls(count, q_BND.abs().sum(dim=1), k_BND.abs().sum(dim=1), key_value)

    def merge(self, other: SimaState) -> SimaState:
        """Sums over the tokens of both."""
        return SimaState(
            self.count_B + other.count_B,
            self.query_BD + other.query_BD,
            self.key_BD + other.key_BD,
            self.key_value_BHdd + other.key_value_BHdd,
        )


def sima_queries(q_BND: Tensor, state: SimaState, eps: float = 1e-6) -> Tensor:
    """``N · q / ‖q‖₁``: queries of mean magnitude 1 over the real tokens, at any N.

    ``eps`` bounds the norm's share of one token from below, so that a channel of zeros stays 0 and has a gradient.
    """
    per_token = state.query_BD / state.count_B.clamp(min=1)[:, None]
    return q_BND / per_token.clamp(min=eps)[:, None]


def sima_attention(q_BND: Tensor, state: SimaState, eps: float = 1e-6) -> Tensor:
    """``N · q̂ (k̂ᵀ v)`` at the tokens of ``q_BND`` (B, n, D), given the sums over the whole sequence."""
    B, heads, d, _ = state.key_value_BHdd.shape
    count = state.count_B.clamp(min=1)[:, None]
    # k̂ᵀv = diag(1/‖k‖₁) kᵀv: both sums are divided by N first, to keep their range.
    per_token = (state.key_BD / count).clamp(min=eps).reshape(B, heads, d).unsqueeze(-1)
    mixed = state.key_value_BHdd / count[:, :, None, None] / per_token
    return join_heads(split_heads(sima_queries(q_BND, state, eps), heads) @ mixed)
