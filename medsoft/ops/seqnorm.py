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

**The second-moment form.** Q, K and V are linear in the layer's input x, hence everything above that is summed over
tokens follows from the mean μ and the covariance Σ (D × D) of x. With the rows w of the projections W,

    var(K_i) = w_iᵀ Σ w_i
    A_h = K̂ᵀV̂/N = diag(γ_K/σ_K) W_K Σ W_Vᵀ diag(γ_V/σ_V) + β_K β_Vᵀ                      per head, d × d

and the layer, projections in and out included, is ONE affine map of x:

    y = (x − μ) T + c,    T = Σ_h W_Qᵀ diag(γ_Q/σ_Q) A_h W_Oᵀ,    c = Σ_h β_Q A_h W_Oᵀ + b_O

It is exact, costs two products N × D × D in place of the four of the projections and the two N × D × d above, and never
stores Q, K and V. What does not depend on N costs 4 D³, so that short sequences are better off in the first form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medsoft.ops.moments import Moments
from medsoft.ops.tensors import join_heads, split_heads


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
        (B, N, D). O(N D d) time; the only state between the two products is K̂ᵀV̂/N, (B, H, d, d).
    """
    q, k, v = (split_heads(t, heads) for t in (q_BND, k_BND, v_BND))
    if mask_BN is None:
        key_value = k.transpose(-2, -1) @ (v / v.shape[2])
    else:
        # An affine shift makes padded keys β instead of 0, so they are taken out here.
        k = torch.where(mask_BN[:, None, :, None], k, 0)
        count = mask_BN.sum(dim=1).clamp(min=1)[:, None, None, None]
        key_value = k.transpose(-2, -1) @ (v / count)
    return join_heads(q @ key_value)


def seqnorm_map(
    moments: Moments,
    qkv_weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    heads: int,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """The whole layer as one affine map ``y = (x − μ) T + c`` (second-moment form).

    Args:
        moments: of the layer's input over the real tokens, width D.
        qkv_weight: W_Q, W_K and W_V above each other (3D, D).
        gamma: scales γ of the three (3D,).
        beta: shifts β of the three (3D,).
        proj_weight: W_O (D, D).
        proj_bias: b_O (D,).
        heads: number of heads H.
        eps: added to the variances.

    Returns:
        T (B, D, D) and c (B, D). A sequence without any real token gives T = 0 and c = b_O.
    """
    B, D = moments.mean_BD.shape
    d = D // heads
    parameters = (qkv_weight, gamma, beta, proj_weight, proj_bias)
    qkv_weight, gamma, beta, proj_weight, proj_bias = (p.to(moments.mean_BD.dtype) for p in parameters)
    projected = qkv_weight @ moments.covariance_BDD  # (B, 3D, D)
    var = (projected * qkv_weight).sum(dim=-1).clamp(min=0)  # rounding may leave −1e-9 of a constant channel
    scale_q, scale_k, scale_v = (gamma * torch.rsqrt(var + eps)).view(B, 3, heads, d).unbind(1)  # (B, H, d)
    beta_q, beta_k, beta_v = beta.view(3, heads, d).unbind(0)
    weight_q, _, weight_v = qkv_weight.view(3, D, D).unbind(0)

    key_value = projected.view(B, 3, heads, d, D)[:, 1] @ weight_v.view(heads, d, D).transpose(-2, -1)  # (B, H, d, d)
    inner = key_value * scale_k.unsqueeze(-1) * scale_v.unsqueeze(-2) + beta_k.unsqueeze(-1) * beta_v.unsqueeze(-2)
    inner = torch.where((moments.count_B > 0)[:, None, None, None], inner, 0)
    out = inner @ proj_weight.T.reshape(heads, d, D)  # (B, H, d, D): A_h W_Oᵀ
    map_BDD = weight_q.T @ (out * scale_q.unsqueeze(-1)).view(B, D, D)
    shift_BD = torch.einsum("hd,bhde->be", beta_q, out) + proj_bias
    return map_BDD, shift_BD


def prefer_moments(tokens: int, width: int) -> bool:
    """The rule of ``form="auto"``, on shapes alone: the second-moment form from N = 2 D on.

    Counted: per sequence 4 N D² + 2 N D d against 2 N D² + 4 D³ multiplications, equal near N = 2 D.
    """
    return tokens >= 2 * width
