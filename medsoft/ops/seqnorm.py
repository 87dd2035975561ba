"""Attention without softmax: sequence normalisation and a reordered product.

Axes: ``B`` batch, ``N`` tokens, ``D`` model width, ``H`` heads, ``d = D / H`` head width.

Softmax attention forms an N × N matrix of weights. Without the softmax, ``(Q Kᵀ) V = Q (Kᵀ V)``: the product on the
right is d × d, so that time and memory grow in proportion to N. What keeps the values in range instead of the softmax
is a normalisation of queries, keys and values, each channel over all tokens of the sequence:

    T̂ = γ (T − mean(T)) / sqrt(var(T) + ε) + β        for T in Q, K, V, per channel
    Y = Q̂ (K̂ᵀ V̂ / N)                                 per head

Without γ and β the matrix K̂ᵀV̂/N holds the Pearson correlations of key and value channels: entries in [−1, 1] for any N.

Source: Khader et al. 2024 (arXiv 2406.01314). Decided here, where its abstract leaves it open: statistics per channel
over tokens, biased variance, ε = 1e-5 inside the root, a class token counts as a token like any other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def normalise_tokens(
    x_BND: Tensor, weight_D: Tensor, bias_D: Tensor, mask_BN: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``γ (x − mean) / sqrt(var + ε) + β``, per channel over the real tokens of each sequence.

    Args:
        x_BND: tokens (B, N, D), float32 or float64.
        weight_D: γ.
        bias_D: β.
        mask_BN: (B, N), True where a token is real; None where all are.
        eps: ε, added to the variance, so that a constant channel becomes β.

    Returns:
        (B, N, D); β at padded tokens, and throughout a sequence without any real token.
    """
    if mask_BN is None:
        centred = x_BND - x_BND.mean(dim=1, keepdim=True)
        var = centred.square().mean(dim=1, keepdim=True)
    else:
        real_BN1 = mask_BN.unsqueeze(-1)
        count = real_BN1.sum(dim=1, keepdim=True).clamp(min=1)
        mean = torch.where(real_BN1, x_BND, 0).sum(dim=1, keepdim=True) / count
        centred = torch.where(real_BN1, x_BND - mean, 0)
        var = centred.square().sum(dim=1, keepdim=True) / count
    return torch.addcmul(bias_D, centred, weight_D * torch.rsqrt(var + eps))


def seqnorm_attention(q_BND: Tensor, k_BND: Tensor, v_BND: Tensor, heads: int, mask_BN: Tensor | None = None) -> Tensor:
    """``Q̂ (K̂ᵀ V̂ / N)`` per head, from queries, keys and values that are normalised already.

    Args:
        q_BND: normalised queries (B, N, D), float32 or float64.
        k_BND: normalised keys, likewise.
        v_BND: normalised values, likewise.
        heads: number of heads H; D must be divisible by it.
        mask_BN: (B, N), True where a token is real: the sum runs over these alone, and N counts them.

    Returns:
        (B, N, D). O(N D d) time; the only state between the two products is (B, H, d, d).
    """
    B, N, D = q_BND.shape
    q, k, v = (t.reshape(B, N, heads, D // heads).transpose(1, 2) for t in (q_BND, k_BND, v_BND))  # (B, H, N, d)
    if mask_BN is None:
        moments = k.transpose(-2, -1) @ (v / N)
    else:
        # An affine shift makes padded keys β instead of 0, so they are taken out here.
        k = torch.where(mask_BN[:, None, :, None], k, 0)
        count = mask_BN.sum(dim=1).clamp(min=1)[:, None, None, None]
        moments = k.transpose(-2, -1) @ (v / count)
    return (q @ moments).transpose(1, 2).reshape(B, N, D)
