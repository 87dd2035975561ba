"""Self-distillation without labels (DINO), with the loss and the head of lightly.

Source: Caron et al. 2021, "Emerging properties in self-supervised vision transformers" (arXiv 2104.14294). The network
predicts, from small and large views of an image, to which prototypes a slow copy of itself assigns its large views.
Deviations: far fewer prototypes and a narrower head by default, for sets of hundreds of images on a processor.
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from medsoft.errors import InputError, RunError
from medsoft.pretraining.base import Pretraining, Rates
from medsoft.pretraining.closeness import found_again, spread

HIDDEN, BOTTLENECK = 512, 256
"""Widths of the head; DINO has 2048 and 256."""
FROZEN_EPOCHS = 1
"""Epochs in which the last layer of the head does not learn, as in DINO."""
COLLAPSED = 1.5
"""Effective number of directions below which all images look the same to the network."""


def require_lightly() -> None:
    """Check that the optional package is there.

    Raises:
        InputError: it is not.
    """
    try:
        import lightly.loss  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"medsoft pretrain without --teacher: {error.name} is not installed: pip install 'medsoft[pretrain]'; or "
            "name a --teacher"
        ) from None


class SelfDistillation(Pretraining):
    """A network that learns from a slow copy of itself, which is the result.

    Args:
        backbone: a timm model without a head that takes images of other sizes too, where there are small views.
        width: of its pooled features.
        mean: of its input, one value a channel.
        std: likewise.
        rates: of the optimiser.
        prototypes: outputs of the head.
        momentum: how much of the slow copy stays at a step, at first; it rises to 1 along half a cosine.
    """

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        rates: Rates,
        prototypes: int,
        momentum: float,
    ) -> None:
        super().__init__(backbone, mean, std, rates)
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's, of the weight_norm that lightly uses
            self.head: Any = DINOProjectionHead(width, HIDDEN, BOTTLENECK, prototypes, freeze_last_layer=FROZEN_EPOCHS)
            self.slow_head: Any = DINOProjectionHead(width, HIDDEN, BOTTLENECK, prototypes)
        self.slow_head.load_state_dict(self.head.state_dict())
        self.slow_head.requires_grad_(False)
        self.slow_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.criterion: Any = DINOLoss(output_dim=prototypes)
        self.momentum = momentum
        self._seen: list[Tensor] = []
        self._verdict: dict[str, float] = {}

    @property
    def heads(self) -> nn.Module:
        """The projection head."""
        head: nn.Module = self.head
        return head

    @property
    def result(self) -> nn.Module:
        """The slow copy, which is better than the network itself throughout (section 5.2 of the paper)."""
        return self.slow_backbone

    def train(self, mode: bool = True) -> SelfDistillation:
        """The slow copy never drops anything."""
        super().train(mode)
        self.slow_backbone.eval()
        self.slow_head.eval()
        return self

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy between the slow copy's large views and the network's other views."""
        large = [self.normalised(view) for view in batch["image"].unbind(1)]
        with torch.no_grad():
            wanted = [self.slow_head(self.slow_backbone(view)) for view in large]
        views = [*large, *(self.normalised(view) for view in batch["local"].unbind(1))] if "local" in batch else large
        given = [self.head(self.backbone(view)) for view in views]
        loss: Tensor = self.criterion(wanted, given, epoch=self.current_epoch)
        return loss

    def on_after_backward(self) -> None:
        """As in DINO, the last layer waits at first."""
        self.head.cancel_last_layer_gradients(current_epoch=self.current_epoch)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the slow copy follow."""
        done = self.trainer.global_step / max(1, int(self.trainer.estimated_stepping_batches))
        stays = 1 - (1 - self.momentum) * (math.cos(math.pi * min(1.0, done)) + 1) / 2
        with torch.no_grad():
            for own, slow in ((self.backbone, self.slow_backbone), (self.head, self.slow_head)):
                for new, old in zip(own.parameters(), slow.parameters(), strict=True):
                    old.lerp_(new, 1 - stays)
                for new, old in zip(own.buffers(), slow.buffers(), strict=True):
                    old.copy_(new)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # Of the loss's own forward, the centre would follow the held-out images.
        centre = self.criterion.center.clone()
        loss = self.loss({"image": batch["image"]})
        self.criterion.center.copy_(centre)
        self.log("val_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch["index"]))
        views = [self.slow_backbone(self.normalised(view)).float().cpu() for view in batch["image"].unbind(1)]
        self._seen.append(torch.stack(views))

    def on_validation_epoch_end(self) -> None:
        """Log whether views of the same held-out image are near each other, and whether features have collapsed.

        Raises:
            RunError: all images have the same features after the last epoch.
        """
        first, second = torch.cat(self._seen, dim=1)
        self._seen.clear()
        directions = spread(torch.cat([first, second]))
        self._verdict = {"val_found": found_again(first, second), "val_spread": directions}
        self.log_dict(self._verdict)
        last = self.current_epoch + 1 >= (self.trainer.max_epochs or 0)
        if last and directions < COLLAPSED:
            raise RunError(
                f"the features have collapsed: held-out images differ in {directions:.1f} directions. Lower --lr, "
                "raise --momentum or --batch-size, or name a --teacher"
            )

    def verdict(self) -> dict[str, float]:
        """``val_found``: share of held-out images whose other crop is the nearest of all other crops.

        ``val_spread``: effective number of directions of their features.
        """
        return self._verdict
