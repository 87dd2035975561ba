"""What classifiers with a pretrained part have in common: how it is trained on few images.

The part can be frozen, for good or for the first epochs; its earlier layers can learn slower; and batches can be mixed.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from medsoft.classifiers.base import TableClassifier
from medsoft.classifiers.mixing import Mixing
from medsoft.classifiers.optimizer import check_layers
from medsoft.errors import InputError, check_range
from medsoft.specs import DataSpec


class FineTunedClassifier(TableClassifier):
    """A classifier whose network has a pretrained part.

    A subclass builds the network, then calls ``begin``.

    Args:
        spec: what the model must know of the data.
        lr: peak learning rate of AdamW.
        freeze: freeze the pretrained part (backbone or encoder) and train only what follows it.
        freeze_epochs: epochs in which the pretrained part is frozen, batch statistics too, while what follows it is
            trained; it then begins with a warm-up of its own.
        layer_decay: factor by which the learning rate decreases from each layer to the one before it; 1 for the same
            rate everywhere.
        mixup: mix each image with another of its batch (mixup); parameter of the Beta distribution of the shares, such
            as 0.2; 0 for none.
        cutmix: paste a rectangle of another image of the batch (CutMix); parameter of the Beta distribution of the
            shares, such as 1; 0 for none. With mixup, each batch has one of the two at random.
        **training: see ``TableClassifier``.

    Raises:
        InputError: a number is out of its range, or an option has no meaning for the task.
    """

    def __init__(
        self,
        spec: DataSpec,
        lr: float,
        freeze: bool = False,
        freeze_epochs: int = 0,
        layer_decay: float = 1.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        **training: Any,
    ) -> None:
        super().__init__(spec, lr, **training)
        check_range("model.freeze_epochs", freeze_epochs, 0)
        check_range("model.layer_decay", layer_decay, 0, 1)
        if freeze and freeze_epochs:
            raise InputError("model.freeze_epochs: model.freeze freezes for good; leave out one of the two")
        self.is_frozen, self.freeze_epochs, self.layer_decay = freeze, freeze_epochs, layer_decay
        self.mixing = Mixing(mixup, cutmix)
        self.mixing.check(spec)
        self._trainable: list[nn.Parameter] = []
        self._rested = False

    @property
    @abstractmethod
    def pretrained_part(self) -> nn.Module:
        """What ``freeze`` and ``freeze_epochs`` mean."""

    @abstractmethod
    def all_parameter_groups(self) -> list[dict[str, Any]]:
        """As ``parameter_groups``."""

    def begin(self) -> None:
        """Freeze what is to be frozen; Lightning begins with the modes that it finds."""
        if self.layer_decay < 1:
            check_layers(self.pretrained_part)
        self._trainable = [p for p in self.pretrained_part.parameters() if p.requires_grad]
        if self.is_frozen:
            self.pretrained_part.requires_grad_(False)
        self.train()

    @property
    def rests(self) -> bool:
        """Whether the pretrained part is frozen now."""
        if self.is_frozen or not self.freeze_epochs:
            return self.is_frozen
        trainer = self._trainer
        return trainer is not None and bool(trainer.training) and trainer.current_epoch < self.freeze_epochs

    def train(self, mode: bool = True) -> FineTunedClassifier:
        """A frozen part stays in evaluation mode: its batch statistics are part of what is frozen."""
        super().train(mode)
        if self.rests:
            self.pretrained_part.eval()
        return self

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Freeze or release the pretrained part; here, because a run may resume within any epoch."""
        if self.is_frozen or not self.freeze_epochs or self.rests == self._rested:
            return
        self._rested = self.rests
        self.train()
        # Several processes must agree on which parameters have gradients from the start: there they are left out below.
        for parameter in self._trainable if self.trainer.world_size == 1 else ():
            parameter.requires_grad_(not self.rests)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Drop the gradients of a part that is frozen for now; before they are clipped."""
        if self.rests:
            for parameter in self._trainable:
                parameter.grad = None

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch, mixed where that is asked for."""
        if not self.mixing:
            return super().training_loss(batch)
        image, share = self.mixing(batch["image"])
        logits, target = self.logits(batch | {"image": image}), batch["target"]
        return share * self.objective.loss(logits, target) + (1 - share) * self.objective.loss(
            logits, target.roll(1, 0)
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW; those of a part that is frozen at first say for how many epochs."""
        part = set(map(id, self.pretrained_part.parameters()))
        groups = [group for group in self.all_parameter_groups() if group["params"]]
        for group in groups if self.freeze_epochs else ():
            group["rest_epochs"] = self.freeze_epochs if id(group["params"][0]) in part else 0
        return groups
