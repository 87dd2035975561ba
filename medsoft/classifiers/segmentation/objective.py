"""The loss of masks, and what becomes of logits: softmax over the background and the classes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medsoft.classifiers.objectives import OfClasses
from medsoft.task_types import Answers, Link

Loss = Literal["dice_ce", "dice_focal", "tversky"]
GAMMA = 2.0
FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7


class MaskObjective(OfClasses):
    """Softmax over background and classes; pixels with the target -1 count nowhere.

    dice_ce      soft Dice (MONAI's DiceLoss, of each image and class beside the background) + cross-entropy
    dice_focal   the same Dice + focal loss with gamma 2 (Lin et al. 2017)
    tversky      0.3 for false positives and 0.7 for false negatives, for small structures (Salehi et al. 2017)

    Args:
        outputs: classes and the background, K.
        loss: its name.
    """

    link: Link = "softmax"

    def __init__(self, outputs: int, loss: Loss = "dice_ce") -> None:
        self.outputs, self.name = outputs, loss

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over the batch.

        Args:
            logits: (B, K, ...) float32.
            target: (B, ...) int64, 0 the background, -1 unknown.
        """
        known = (target >= 0).unsqueeze(1)
        truth = F.one_hot(target.clamp(min=0), self.outputs).movedim(-1, 1).to(logits) * known
        overlap = self._overlap(logits.softmax(dim=1) * known, truth)
        if self.name == "tversky":
            return overlap
        if self.name == "dice_focal":
            return overlap + self._focal(logits, target)
        per_pixel = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
        return overlap + per_pixel / known.sum().clamp(min=1)

    def _overlap(self, p: Tensor, truth: Tensor) -> Tensor:
        from monai.losses import DiceLoss, TverskyLoss  # seconds, which tables can do without

        options: dict[str, bool] = {"include_background": False, "softmax": False}
        if self.name == "tversky":
            weights = {"alpha": FALSE_POSITIVES, "beta": FALSE_NEGATIVES}
            loss: Tensor = TverskyLoss(**options, **weights)(p, truth)
        else:
            loss = DiceLoss(**options)(p, truth)
        return loss

    def _focal(self, logits: Tensor, target: Tensor) -> Tensor:
        """MONAI's focal loss over background and classes, as a mean over the known pixels."""
        from monai.losses import FocalLoss

        known = target >= 0
        truth = F.one_hot(target.clamp(min=0), self.outputs).movedim(-1, 1).to(logits)
        focal: Tensor = FocalLoss(gamma=GAMMA, use_softmax=True, reduction="none")(logits, truth)
        return (focal.sum(dim=1) * known).sum() / known.sum().clamp(min=1)

    def answers(self, target: Tensor) -> Answers:
        raise NotImplementedError("masks are trained step by step")

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=1)
