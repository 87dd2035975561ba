"""Sums over the processes of a group, through which gradients flow."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverRanks(torch.autograd.Function):
    # torch.distributed.nn.functional.all_reduce does the same and is deprecated in favour of a private module.
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


def sum_over_ranks(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of a tensor over the processes of ``group`` (None: all), the same in every process.

    Its gradient is that of the SUM of all processes' losses: the gradients are added over the processes too.
    """
    total: Tensor = _SumOverRanks.apply(tensor, group)
    return total
