"""What both ways of pretraining have in common: optimiser, schedule, and a stop where the loss is no number."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from medsoft.classifiers.optimizer import WarmupCosine, parameter_groups
from medsoft.errors import RunError

FINAL_LR = 0.01
"""Last learning rate, as a fraction of the peak."""


@dataclass(frozen=True)
class Rates:
    """Of the optimiser.

    Attributes:
        lr: peak learning rate of AdamW.
        weight_decay: of matrices and kernels.
        warmup_epochs: of linear warm-up.
    """

    lr: float
    weight_decay: float
    warmup_epochs: float


class Pretraining(LightningModule):
    """A backbone that learns without labels.

    Args:
        backbone: a timm model without a head.
        mean: of the backbone's input, one value a channel, for values from 0 to 1.
        std: likewise.
        rates: of the optimiser.

    Attributes:
        monitor: the logged number by which the best epoch is chosen; "" where the last one counts.
    """

    monitor = ""
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], rates: Rates) -> None:
        super().__init__()
        self.backbone = backbone
        self.rates = rates
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    @abstractmethod
    def heads(self) -> nn.Module:
        """What learns beside the backbone and is thrown away."""

    @property
    def result(self) -> nn.Module:
        """The network that is kept."""
        return self.backbone

    @abstractmethod
    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Of a batch of the training."""

    @abstractmethod
    def verdict(self) -> dict[str, float]:
        """What the last validation has measured, by name."""

    def normalised(self, image_BCHW: Tensor) -> Tensor:
        """8-bit images as the backbone takes them."""
        return (image_BCHW.float() / 255 - self.mean) / self.std

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise RunError(
                f"the training has diverged in epoch {self.current_epoch + 1}: the loss is not a number. Lower --lr or "
                "--clip, or set --precision to 32-true. Checkpoints of the epochs before are kept"
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["index"]))
        return loss

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.backbone, self.heads, self.rates.lr, self.rates.weight_decay, layer_decay=1.0)
        groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.rates.lr)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = min(total - 1, round(total * self.rates.warmup_epochs / max(1, self.trainer.max_epochs or 1)))
        schedule = WarmupCosine(optimizer, warmup, total, FINAL_LR)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
