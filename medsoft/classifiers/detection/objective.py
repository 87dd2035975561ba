"""What becomes of the class logits of boxes; their losses are the network's own, as they depend on its anchors."""

from __future__ import annotations

import torch
from torch import Tensor

from medsoft.classifiers.objectives import OfClasses
from medsoft.task_types import Answers, Link


class BoxObjective(OfClasses):
    """A sigmoid for each class of each anchor; the losses are those of torchvision's networks.

    Args:
        outputs: classes K.
    """

    link: Link = "sigmoid"

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError("the loss of boxes needs the network's anchors: Detector.training_loss")

    def answers(self, target: Tensor) -> Answers:
        raise NotImplementedError("boxes are trained step by step")

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)
