"""What the processes of a group have together: sums through which gradients flow, and rows gathered."""

from __future__ import annotations

from typing import Any

import numpy as np
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


def rows_of_all_processes(*columns: np.ndarray) -> list[np.ndarray]:
    """Rows of all processes, one process after the other; what a single process has stays as it is.

    Args:
        *columns: (n, …) each.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return list(columns)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, columns)
    return [np.concatenate(parts) for parts in zip(*gathered, strict=True)]


def of_all_processes(index_n: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """Rows of all processes, by their index in the data set and each once; what a single process has stays as it is.

    Args:
        index_n: (n,) of this process's rows.
        *columns: (n, …) each.

    Returns:
        Index and columns, the same in every process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [index_n, *columns]
    together = rows_of_all_processes(index_n, *columns)
    _, first = np.unique(together[0], return_index=True)
    return [column[first] for column in together]
