"""AdamW with layer-wise learning rates, and the warm-up and cosine schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import nn


def parameter_groups(
    backbone: nn.Module, head: nn.Module, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups for the optimiser: no weight decay on vectors, position tables and tokens; earlier layers learn slower.

    Args:
        backbone: a timm model; parameters with ``requires_grad=False`` are left out.
        head: learns at the full rate.
        lr: learning rate of the head and the last layer.
        weight_decay: of matrices and kernels.
        layer_decay: factor on the learning rate from one layer to the one before it; 1 for the same rate everywhere.

    Returns:
        Groups with ``params``, ``lr`` and ``weight_decay``.
    """
    groups: list[dict[str, Any]] = []
    if any(p.requires_grad for p in backbone.parameters()):
        no_weight_decay: Any = getattr(backbone, "no_weight_decay", tuple)  # a timm model's position tables, tokens
        without = no_weight_decay()
        groups = param_groups_layer_decay(backbone, weight_decay, no_weight_decay_list=without, layer_decay=layer_decay)
    for group in groups:
        group["lr"] = lr * group.pop("lr_scale")
    groups.append({"params": [p for p in head.parameters() if p.ndim > 1], "lr": lr, "weight_decay": weight_decay})
    groups.append({"params": [p for p in head.parameters() if p.ndim <= 1], "lr": lr, "weight_decay": 0.0})
    return groups


def aggregator_groups(aggregator: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for the optimiser: no weight decay on vectors and on the class token.

    Args:
        aggregator: any module.
        lr: learning rate of all of it.
        weight_decay: of matrices.

    Returns:
        Groups with ``params``, ``lr`` and ``weight_decay``.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in aggregator.named_parameters():
        (matrices if parameter.ndim > 1 and name != "cls_token" else others).append(parameter)
    return [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"params": others, "lr": lr, "weight_decay": 0.0},
    ]


class WarmupCosine(torch.optim.lr_scheduler.LambdaLR):
    """Linear warm-up, then half a cosine down to a fraction of the learning rate; stepped once an optimiser step.

    Args:
        optimizer: its groups' ``lr`` are the peak rates.
        warmup_steps: steps of the linear rise.
        total_steps: steps of the whole training.
        final: the last step's rate over the peak rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int, final: float) -> None:
        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
