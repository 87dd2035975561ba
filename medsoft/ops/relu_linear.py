"""Linear attention with the kernel φ = ReLU: weights between tokens are products of features that are never negative.

Axes: ``B`` batch, ``N`` tokens, ``D`` model width, ``H`` heads, ``d = D / H`` head width.

    y_n = τ · φ(q_n)ᵀ (Σ_m φ(k_m) v_mᵀ) / max(φ(q_n)ᵀ Σ_m φ(k_m), floor)         per head, φ = ReLU

Both sums are taken once, so that cost and memory are linear in N. Above the floor the weights of a query are not
negative and sum to τ; a query that meets no key gets 0.

Sources: the kernel form is that of Katharopoulos et al. 2020 (arXiv 2006.16236, section 3.2) with another φ; ReLU, the
factor τ, learnt for each head, and the floor are those of Lin-MIL (Richter et al., PMLR 316:86-96, 2026) and its public
code. Deviation: their floor is 100, which a bag of few tiles does not reach; there the weights then sum to less than τ,
and the output depends on the number of tiles. Here it is 1e-6 unless another one is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medsoft.ops.tensors import join_heads, split_heads


@dataclass(frozen=True)
class ReluLinearState:
    """Sums over the tokens seen so far, from which the output at any token follows; parts add up.

    Attributes:
        key_BD: Σ φ(k) per channel.
        key_value_BHdd: Σ φ(k) vᵀ per head.
    """

    key_BD: Tensor
    key_value_BHdd: Tensor

    @classmethod
    def of(cls, k_BND: Tensor, v_BND: Tensor, heads: int, mask_BN: Tensor | None = None) -> ReluLinearState:
        """Sums over keys and values (B, N, D), float32 or float64; padded tokens do not count."""
        k_BND = F.relu(k_BND)
        if mask_BN is not None:
            k_BND = torch.where(mask_BN.unsqueeze(-1), k_BND, 0)
        return cls(k_BND.sum(dim=1), split_heads(k_BND, heads).transpose(-2, -1) @ split_heads(v_BND, heads))

    def merge(self, other: ReluLinearState) -> ReluLinearState:
        """Sums over the tokens of both."""
        return ReluLinearState(self.key_BD + other.key_BD, self.key_value_BHdd + other.key_value_BHdd)


def relu_linear_queries(q_BND: Tensor, state: ReluLinearState, scale_H: Tensor, floor: float) -> Tensor:
    """``τ φ(q_n) / max(φ(q_n)ᵀ Σ φ(k), floor)`` per head (B, H, n, d): times φ(k) these are the weights."""
    B, heads, d, _ = state.key_value_BHdd.shape
    q_BHNd = F.relu(split_heads(q_BND, heads))
    total_BHN1 = q_BHNd @ state.key_BD.reshape(B, heads, d, 1)
    return q_BHNd * (scale_H[:, None, None] / total_BHN1.clamp(min=floor))


def relu_linear_attention(q_BND: Tensor, state: ReluLinearState, scale_H: Tensor, floor: float = 1e-6) -> Tensor:
    """The output at the tokens of ``q_BND`` (B, n, D), given the sums over the whole sequence.

    Args:
        q_BND: queries, before φ.
        state: of the whole sequence.
        scale_H: τ of each head.
        floor: the least sum that is divided by; above 0.
    """
    return join_heads(relu_linear_queries(q_BND, state, scale_H, floor) @ state.key_value_BHdd)
