"""The training step of a loss that is of all samples of an optimiser's step together, such as that of a risk set.

Gradients are accumulated over several batches, of bags often of one bag each. Their losses cannot be formed apart:
the risk set of a Cox model is what the step has seen. So outputs are kept until the last batch of the step, and the
loss is formed then, once. Of several batches what lies between input and outputs is computed anew in the backward pass
(``torch.utils.checkpoint``): memory is that of one batch, time that of one more forward pass, gradients are exact.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from medsoft.task_types import Objective


class Trained(Protocol):
    """What is needed of a classifier (``TableClassifier``)."""

    objective: Objective

    @property
    def trainer(self) -> Any:
        """Lightning's."""

    @property
    def log(self) -> Any:
        """Logs a value."""

    @property
    def modules(self) -> Any:
        """Iterates over all parts."""

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Outputs (B, K) of a batch."""

    def share(self, batch_idx: int) -> float:
        """What this process's part of a batch counts; 0 for a sample that only fills it."""

    def keep_learnt(self, logits: Tensor, target: Tensor) -> None:
        """Keep a step's outputs and targets."""


class JointStep:
    """Forms the loss of a step with its last batch.

    Args:
        model: whose outputs and objective are used.
    """

    def __init__(self, model: Trained) -> None:
        self.model = model
        self.kept: list[tuple[Tensor, Tensor]] = []

    def __call__(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """What Lightning's ``training_step`` returns: the loss with the last batch of a step, before it a 0."""
        model = self.model
        trainer: Any = model.trainer
        # A process without a sample of its own has got one that must not count.
        logits = self._logits(batch, trainer.accumulate_grad_batches)
        counted = len(logits) if model.share(batch_idx) else 0
        self.kept.append((logits[:counted], batch["target"][:counted]))
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return torch.zeros((), device=logits.device, requires_grad=True)
        own, target = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        self.kept.clear()
        model.keep_learnt(own, target)
        together, targets = _of_all_processes(own, target)
        loss: Tensor = model.objective.loss(together, targets) + 0 * logits.sum()
        model.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(targets), sync_dist=True)
        # Lightning divides by the number of batches, and takes the mean over the processes, which each have the
        # gradients of their own outputs alone.
        factor: int = trainer.accumulate_grad_batches * trainer.world_size
        return loss * factor

    def _logits(self, batch: dict[str, Any], batches: int) -> Tensor:
        model = self.model
        # Batch normalisation would take note of every batch twice.
        if batches == 1 or any(isinstance(part, _BatchNorm) for part in model.modules()):
            return model.logits(batch)
        recomputed: Tensor = checkpoint(model.logits, batch, use_reentrant=False)
        return recomputed


def _of_all_processes(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of all processes; gradients flow into this one's own."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return logits, target
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (logits.detach().cpu(), target.cpu()))
    outputs = [part[0].to(logits) for part in gathered]
    outputs[dist.get_rank()] = logits
    return torch.cat(outputs), torch.cat([part[1].to(target) for part in gathered])
