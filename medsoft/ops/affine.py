"""One affine map a sequence, ``(x − μ) T + c``, whose backward pass keeps nothing but ``x`` and matrices D × D."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsoft.ops.moments import chunks
from medsoft.ops.tensors import no_autocast


class _CentredAffine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BND: Tensor, mean_BD: Tensor, map_BDE: Tensor, shift_BE: Tensor) -> Tensor:
        ctx.save_for_backward(x_BND, mean_BD, map_BDE)
        y = x_BND.new_empty(*x_BND.shape[:2], map_BDE.shape[2])
        for part in chunks(x_BND):
            centred = x_BND[:, part].to(mean_BD.dtype) - mean_BD[:, None]
            y[:, part] = torch.baddbmm(shift_BE[:, None], centred, map_BDE)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x_BND, mean, map_BDE = ctx.saved_tensors
        grad_x = torch.empty_like(x_BND)
        grad_map = torch.zeros_like(map_BDE)
        grad_shift = map_BDE.new_zeros(map_BDE.shape[0], map_BDE.shape[2])
        for part in chunks(x_BND):
            g = grad_y[:, part].to(mean.dtype)
            centred = x_BND[:, part].to(mean.dtype) - mean[:, None]
            grad_x[:, part] = g @ map_BDE.transpose(1, 2)
            grad_map.baddbmm_(centred.transpose(1, 2), g)
            grad_shift += g.sum(dim=1)
        grad_mean = -torch.einsum("be,bde->bd", grad_shift, map_BDE)
        return grad_x, grad_mean, grad_map, grad_shift


def centred_affine(x_BND: Tensor, mean_BD: Tensor, map_BDE: Tensor, shift_BE: Tensor) -> Tensor:
    """``(x − μ) T + c`` for tokens (B, N, D), a map T (B, D, E) and a shift c (B, E), in the precision of μ, T and c.

    The mean is subtracted before the product, a part of the tokens at a time: ``x T − μ T`` would cancel where the mean
    is large. Returns (B, N, E) in the type of ``x``.
    """
    with no_autocast(x_BND):
        y: Tensor = _CentredAffine.apply(x_BND, mean_BD, map_BDE, shift_BE)
    return y
