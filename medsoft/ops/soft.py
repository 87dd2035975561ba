"""SOFT: attention by a Gaussian kernel, of low rank, and so linear in the number of tokens.

Axes: ``B`` batch, ``H`` heads, ``N`` tokens, ``d`` head width, ``m`` landmarks (49 or 64, whatever N is).

Softmax attention compares queries with keys. Here queries and keys are the same projection of the tokens, q, and two
tokens are compared by κ(a, b) = exp(−‖a − b‖² / 2): each weight is in (0, 1] by itself, so that nothing has to be
normalised over tokens. The N × N matrix of these weights is never formed. It is approximated through m landmarks ℓ,
a summary of the tokens (Nyström's method):

    P = κ(q, ℓ)  (N × m),    A = κ(ℓ, ℓ)  (m × m),    κ(q, q) ≈ P A⁻¹ Pᵀ

    soft:        Y = P X Pᵀ V                      X the damped inverse of A (see ``medsoft.ops.inverse``)
    soft_norm:   Y = P D^(−1/2) X D^(−1/2) Pᵀ V    D = diag(row sums of A)

Multiplied from the right, each step costs N m d at most.

Sources: Lu et al. 2021 (arXiv 2110.11945); with symmetric normalisation Lu et al. 2024 (arXiv 2207.03341).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medsoft.ops.inverse import Inverse, damped_inverse


def gaussian_kernel(a_BHNd: Tensor, b_BHmd: Tensor) -> Tensor:
    """κ(a, b) = exp(−‖a − b‖² / 2) of all pairs: (B, H, N, m), at most 1."""
    # Distances do not change when both move. Near the origin ‖a‖² + ‖b‖² − 2 a·b cancels least.
    origin = b_BHmd.detach().mean(dim=-2, keepdim=True)
    a, b = a_BHNd - origin, b_BHmd - origin
    half_a = a.square().sum(dim=-1, keepdim=True) / 2
    half_b = b.square().sum(dim=-1, keepdim=True) / 2
    # a·b − ‖a‖² / 2 − ‖b‖² / 2 as one product: two passes less over the largest tensor of the layer.
    exponent = (
        torch.cat((a, -half_a, torch.ones_like(half_a)), dim=-1)
        @ torch.cat((b, torch.ones_like(half_b), -half_b), dim=-1).mT
    )
    return exponent.clamp(max=0).exp()  # rounding must not make a distance negative


def landmark_inverse(landmarks_BHmd: Tensor, symmetric: bool = False, inverse: Inverse = "converged") -> Tensor:
    """X, or D^(−1/2) X D^(−1/2): (B, H, m, m) in float64, which its condition needs and its size affords."""
    landmarks = landmarks_BHmd.double()
    a = gaussian_kernel(landmarks, landmarks)
    x = damped_inverse(a, inverse)
    if symmetric:
        root = a.sum(dim=-1, keepdim=True).rsqrt()
        x = root * x * root.mT
    return x


def soft_attention(
    q_BHNd: Tensor,
    landmarks_BHmd: Tensor,
    v_BHNd: Tensor,
    symmetric: bool = False,
    inverse: Inverse = "converged",
    divisor: Tensor | None = None,
) -> Tensor:
    """P X Pᵀ V per head, in O(N m d).

    Args:
        q_BHNd: queries, which are the keys, scaled by d^(−1/4); float32 or float64.
        landmarks_BHmd: a summary of the queries.
        v_BHNd: values; 0 at padded tokens, which takes them out of the sum.
        symmetric: False for ``soft``, True for ``soft_norm``.
        inverse: how X is computed.
        divisor: of the sum over tokens, as (B, 1, 1, 1); the number of real tokens makes a mean of it.

    Returns:
        (B, H, N, d) in the precision of the queries; rows of padded tokens are finite and mean nothing.
    """
    p_BHNm = gaussian_kernel(q_BHNd, landmarks_BHmd)
    sums_BHmd = (p_BHNm.mT @ v_BHNd).double()
    if divisor is not None:
        sums_BHmd = sums_BHmd / divisor
    # X has entries up to 1 / damping with either sign: float64 until they have met the sums.
    mixed_BHmd = landmark_inverse(landmarks_BHmd, symmetric, inverse) @ sums_BHmd
    return p_BHNm @ mixed_BHmd.to(p_BHNm.dtype)


def soft_weights(
    query_BH1d: Tensor,
    q_BHNd: Tensor,
    landmarks_BHmd: Tensor,
    symmetric: bool = False,
    inverse: Inverse = "converged",
) -> Tensor:
    """The row of P X Pᵀ that belongs to one query: the weight (B, H, N) of every token's value in its output."""
    x = landmark_inverse(landmarks_BHmd, symmetric, inverse)
    row_BH1m = gaussian_kernel(query_BH1d, landmarks_BHmd).double() @ x
    weights: Tensor = (gaussian_kernel(q_BHNd, landmarks_BHmd) @ row_BH1m.to(q_BHNd.dtype).mT).squeeze(-1)
    return weights
