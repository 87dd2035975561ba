"""What each token contributes to a logit through one attention branch.

In every mechanism the branch's output at one token, say the class token, is a sum over tokens, Σ_n w_n v_n per head,
followed by the output projection W_O. With g the gradient of a logit at that output, the contribution of token n is

    share_n = g · (Σ_h w_hn v_hn W_O,h)

and the contributions add up to what the branch (without the bias b_O) adds to a logit that is linear in it.
Contributions are in the unit of the logit, and have signs; attention weights have neither, and say nothing of the
values.
"""

from __future__ import annotations

from torch import Tensor

from medsoft.layers.base import Attention, Grid
from medsoft.ops.tensors import split_heads


def token_contributions(
    attention: Attention,
    x_BND: Tensor,
    gradient_BD: Tensor,
    query: int = 0,
    mask_BN: Tensor | None = None,
    grid: Grid | None = None,
) -> Tensor:
    """The contribution of every token to a logit, through the attention branch's output at the token ``query``.

    Args:
        attention: any mechanism of the family.
        x_BND: the branch's input (B, N, D).
        gradient_BD: gradient of the logit at the branch's output at ``query``.
        query: the token that is read out, 0 for a class token.
        mask_BN: True where a token is real; padded tokens have contribution 0.
        grid: spatial shape of the tokens, where they have one.

    Returns:
        (B, N), in the unit of the logit.
    """
    weights, values = attention.contributions(x_BND, query, mask_BN, grid)
    return contributions_of(weights, values, gradient_BD, attention)


def contributions_of(weights_BHN: Tensor, values_BHNd: Tensor, gradient_BD: Tensor, attention: Attention) -> Tensor:
    """Contributions (B, N) from what ``contributions`` or ``chunk_contributions`` gave."""
    direction = gradient_BD.to(values_BHNd.dtype) @ attention.proj.weight.to(values_BHNd.dtype)
    along = (values_BHNd @ split_heads(direction[:, None], attention.num_heads).transpose(-2, -1)).squeeze(-1)
    return (weights_BHN * along).sum(dim=1)
