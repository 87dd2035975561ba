"""Attention with sequence normalisation, in either of its two exact forms (see ``medsoft.ops.seqnorm``)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from medsoft.layers.base import Grid, check_heads, zero_padding
from medsoft.ops.affine import centred_affine
from medsoft.ops.moments import Moments
from medsoft.ops.seqnorm import normalise_tokens, prefer_moments, seqnorm_attention, seqnorm_map
from medsoft.ops.tensors import accumulation_dtype, no_autocast, split_heads

Form = Literal["auto", "reordered", "moments"]
FORMS = ("auto", "reordered", "moments")
Parameters = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""W_QKV, γ, β, W_O and b_O."""


# It chooses by a length, which FX must not trace through.
@register_notrace_function  # type: ignore[untyped-decorator]
def seqnorm_layer(
    x_BND: Tensor,
    mask_BN: Tensor | None,
    qkv_weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    heads: int,
    eps: float,
    form: Form,
) -> Tensor:
    """The layer as a function, in the form asked for; arguments as those of ``seqnorm_map``. Padded rows are finite."""
    parameters = (qkv_weight, gamma, beta, proj_weight, proj_bias)
    if form == "moments" or (form == "auto" and prefer_moments(*x_BND.shape[1:])):
        return _from_moments(x_BND, Moments.of(x_BND, mask_BN), parameters, heads, eps)
    dtype = accumulation_dtype(x_BND)
    qkv = F.linear(x_BND, qkv_weight).to(dtype)  # in half precision under autocast: it is no sum over tokens
    with no_autocast(x_BND):
        q, k, v = normalise_tokens(qkv, gamma.to(dtype), beta.to(dtype), mask_BN, eps).chunk(3, dim=-1)
        y_BND = seqnorm_attention(q, k, v, heads, mask_BN)
        return F.linear(y_BND, proj_weight.to(dtype), proj_bias.to(dtype)).to(x_BND.dtype)


def _from_moments(x_BND: Tensor, moments: Moments, parameters: Parameters, heads: int, eps: float) -> Tensor:
    with no_autocast(x_BND):
        map_BDD, shift_BD = seqnorm_map(moments, *parameters, heads, eps)
        return centred_affine(x_BND, moments.mean_BD, map_BDD, shift_BD)


class SequenceNorm(nn.Module):
    """Scales γ and shifts β of the normalisation over tokens, and its ε."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))


class SeqNormAttention(nn.Module):
    """Softmax-free attention with sequence normalisation, linear in N.

    The projections of query, key and value have no biases: the normalisation subtracts any constant.

    Args:
        dim: model width D.
        num_heads: heads H; D must be divisible by it.
        eps: added to the variance in the normalisation.
        form: ``reordered`` computes queries, keys and values, ``moments`` one affine map from the covariance of the
            input, ``auto`` the faster of the two for the length (``prefer_moments``). All give one result.
        proj_drop: dropout of the output in training.

    Attributes:
        group: process group whose processes each hold a part of every sequence; None for whole sequences. The moments
            are then summed over it (always the second-moment form).

    Raises:
        ValueError: D is not divisible by H, or no such form.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, eps: float = 1e-5, form: Form = "auto", proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        if form not in FORMS:
            raise ValueError(f"unknown form {form!r} of seqnorm attention: one of {', '.join(FORMS)}")
        self.num_heads = num_heads
        self.form = form
        self.group: dist.ProcessGroup | None = None
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.qkv_norm = SequenceNorm(3 * dim, eps)  # channels do not mix: one norm for all three
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """(B, N, D) to (B, N, D). A sequence without any real token gives the output projection's bias."""
        x_BND = zero_padding(x_BND, mask_BN)
        if self.group is not None:
            y_BND = self.attend(x_BND, self.state(x_BND, mask_BN))
        else:
            y_BND = seqnorm_layer(
                x_BND, mask_BN, *self._parameters_in_order(), self.num_heads, self.qkv_norm.eps, self.form
            )
        out: Tensor = self.proj_drop(y_BND)
        return out

    def state(self, x_BND: Tensor, mask_BN: Tensor | None = None) -> Moments:
        """What the layer has to know of a whole sequence; the states of its parts ``merge``."""
        moments = Moments.of(zero_padding(x_BND, mask_BN), mask_BN)
        return moments if self.group is None else moments.all_reduce(self.group)

    def attend(self, x_BND: Tensor, state: Moments) -> Tensor:
        """The output at some of a sequence's tokens (B, n, D), given the state of all of it."""
        return _from_moments(x_BND, state, self._parameters_in_order(), self.num_heads, self.qkv_norm.eps)

    def _parameters_in_order(self) -> Parameters:
        return self.qkv.weight, self.qkv_norm.weight, self.qkv_norm.bias, self.proj.weight, self.proj.bias

    def contributions(
        self, x_BND: Tensor, query: int = 0, mask_BN: Tensor | None = None, grid: Grid | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weights q̂·k̂_n / N of one query (B, H, N) and the normalised values (B, H, N, d)."""
        x_BND = zero_padding(x_BND, mask_BN)
        weights, values = self.chunk_contributions(x_BND, x_BND[:, query : query + 1], self.state(x_BND, mask_BN))
        return weights if mask_BN is None else torch.where(mask_BN[:, None], weights, 0), values

    def chunk_contributions(self, x_BND: Tensor, query_B1D: Tensor, state: Moments) -> tuple[Tensor, Tensor]:
        """``contributions`` of some of a sequence's tokens to one query, given the state of all of it."""
        dtype = state.mean_BD.dtype
        weight = self.qkv.weight.to(dtype)
        with no_autocast(x_BND):
            var = ((weight @ state.covariance_BDD) * weight).sum(dim=-1).clamp(min=0)
            scale = (self.qkv_norm.weight.to(dtype) * torch.rsqrt(var + self.qkv_norm.eps))[:, None]
            shift = self.qkv_norm.bias.to(dtype)

            def normalised(x: Tensor) -> list[Tensor]:
                qkv = (x.to(dtype) - state.mean_BD[:, None]) @ weight.T
                return [split_heads(t, self.num_heads) for t in torch.addcmul(shift, qkv, scale).chunk(3, dim=-1)]

            q, _, _ = normalised(query_B1D)
            _, k, v = normalised(x_BND)
            weights = (k @ q.transpose(-2, -1)).squeeze(-1) / state.count_B.clamp(min=1)[:, None, None]
        return weights, v
