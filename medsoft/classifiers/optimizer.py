"""AdamW with layer-wise learning rates, and the warm-up and cosine schedule."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from medsoft.errors import InputError


def parameter_groups(
    backbone: nn.Module, head: nn.Module, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups for the optimiser: no weight decay on vectors, position tables and tokens; earlier layers learn slower.

    Args:
        backbone: a timm model; parameters with ``requires_grad=False`` are left out.
        head: learns at the full rate.
        lr: learning rate of the head and the last layer.
        weight_decay: of matrices and kernels.
        layer_decay: factor by which the learning rate decreases from each layer to the one before it; 1 for the same
            rate everywhere.

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


def check_layers(backbone: nn.Module) -> None:
    """Check that a network says which of its parameters belong to which layer.

    timm takes all parameters of one that does not for the head, which has the full rate.

    Raises:
        InputError: it does not say it.
    """
    if not hasattr(backbone, "group_matcher"):
        raise InputError(
            f"model.layer_decay: {type(backbone).__name__} does not say what its layers are; leave it out, or lower "
            "model.lr for all of it"
        )


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
        (matrices if parameter.ndim > 1 and name.rpartition(".")[2] != "cls_token" else others).append(parameter)
    return [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"params": others, "lr": lr, "weight_decay": 0.0},
    ]


def groups_apart(network: nn.Module, part: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """The groups of ``aggregator_groups``, those of a part of the network and of the rest apart."""
    inside_part = set(map(id, part.parameters()))
    parts = []
    for group in aggregator_groups(network, lr, weight_decay):
        for inside in (True, False):
            parameters = [p for p in group["params"] if (id(p) in inside_part) == inside]
            parts.append(group | {"params": parameters})
    return parts


class WarmupCosine(torch.optim.lr_scheduler.LambdaLR):
    """Linear warm-up, then half a cosine down to a fraction of the learning rate; stepped once an optimiser step.

    A group of parameters with ``rest_epochs`` has the rate 0 for as long, and then a warm-up of its own, up to the
    others' curve: the optimiser knows nothing yet of their gradients.

    Args:
        optimizer: its groups' ``lr`` are the peak rates.
        warmup_steps: steps of the linear rise.
        total_steps: steps of the whole training.
        final: the last step's rate over the peak rate.
        steps_of_epoch: steps of an epoch.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_steps: int,
        total_steps: int,
        final: float,
        steps_of_epoch: int = 0,
    ) -> None:
        def rise(step: int) -> float:
            return min(1.0, (step + 1) / (warmup_steps + 1))

        def factor(step: int, rest: int) -> float:
            if step < rest:
                return 0.0
            late = rise(step - rest) if rest else 1.0
            if step < warmup_steps:
                return late * rise(step)
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return late * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))

        rests = [int(group.get("rest_epochs", 0)) * steps_of_epoch for group in optimizer.param_groups]
        super().__init__(optimizer, [partial(factor, rest=rest) for rest in rests])
