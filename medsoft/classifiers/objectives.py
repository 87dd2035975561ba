"""Objectives of tasks: number of outputs, loss, and probabilities that sum to 1.

binary, multiclass   softmax over the classes, cross-entropy
ordinal              CORN: K − 1 conditional logits P(y > k | y > k − 1); their running product is P(y > k),
                     which falls with k by construction (Shi, Cao and Raschka 2021, arXiv 2111.08851, section 3)
multilabel           a sigmoid a label, binary cross-entropy over the labels that are there
regression           one number, in standard deviations from the mean of the training targets; Huber's loss or squares

The functions take ``logits`` (B, K) in float32 and targets (B,) int64, or (B, L) float with NaN for a missing label, or
(B,) float in the unit of a regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medsoft.task_types import Answers, Link


class OfClasses:
    """What objectives of classes have in common: predictions need nothing of the training but the weights."""

    scale: tuple[float, float] | None = None
    joint = False
    learns = False

    def learn(self, logits: Tensor, target: Tensor) -> None:
        return

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        return


class CrossEntropy(OfClasses):
    """Softmax over the classes.

    Args:
        classes: number of classes C.
        class_weights: (C,) weights of the classes in the loss, or None.
        label_smoothing: share of the target that is spread over all classes.
    """

    link: Link = "softmax"

    def __init__(self, classes: int, class_weights: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        self.outputs = classes
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = None if self.class_weights is None else self.class_weights.to(logits)
        return F.cross_entropy(logits, target, weight=weight, label_smoothing=self.label_smoothing)

    def answers(self, target: Tensor) -> Answers:
        weights = torch.ones(len(target)) if self.class_weights is None else self.class_weights[target]
        return Answers(F.one_hot(target, self.outputs).double(), weights.double()[:, None].expand(-1, self.outputs))

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1)


class Corn(OfClasses):
    """Conditional ordinal regression. Step k learns from the samples of grade k and above alone.

    Args:
        classes: number of grades C.
        class_weights: (C,) weights of the samples by their grade, or None.
    """

    link: Link = "sigmoid"

    def __init__(self, classes: int, class_weights: Tensor | None = None) -> None:
        self.outputs = classes - 1
        self.class_weights = class_weights

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        step = torch.arange(self.outputs, device=logits.device)
        reached = target[:, None] >= step
        beyond = (target[:, None] > step).to(logits)
        losses = F.binary_cross_entropy_with_logits(logits, beyond, reduction="none")
        weight = reached.to(logits)
        if self.class_weights is not None:
            weight = weight * self.class_weights.to(logits)[target][:, None]
        # A batch may hold no sample that reaches a step; the sum over steps then has nothing to add, and no 0/0.
        return (losses * weight).sum() / weight.sum().clamp(min=1e-12)

    def answers(self, target: Tensor) -> Answers:
        step = torch.arange(self.outputs)
        weights = torch.ones(len(target)) if self.class_weights is None else self.class_weights[target]
        asked = (target[:, None] >= step).double()
        return Answers((target[:, None] > step).double(), asked * weights.double()[:, None])

    def probabilities(self, logits: Tensor) -> Tensor:
        given = logits.sigmoid()
        if torch.compiler.is_exporting():  # ONNX has no running product
            beyond = torch.cat([given[:, : k + 1].prod(dim=-1, keepdim=True) for k in range(self.outputs)], dim=-1)
        else:
            beyond = given.cumprod(dim=-1)
        ones = torch.ones_like(beyond[:, :1])
        at_least = torch.cat([ones, beyond], dim=-1)
        return at_least - torch.cat([beyond, 0 * ones], dim=-1)


class MaskedBinaryCrossEntropy(OfClasses):
    """A sigmoid a label; a missing label (NaN) adds nothing to the loss.

    Args:
        labels: number of labels L.
        positive_weights: (L,) weights of the positives, or None.
        label_smoothing: moves the targets 0 and 1 towards 0.5 by half of this.
    """

    link: Link = "sigmoid"

    def __init__(self, labels: int, positive_weights: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        self.outputs = labels
        self.positive_weights = positive_weights
        self.label_smoothing = label_smoothing

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        known = ~target.isnan()
        value = torch.where(known, target, 0).to(logits)
        value = value * (1 - self.label_smoothing) + self.label_smoothing / 2
        weight = None if self.positive_weights is None else self.positive_weights.to(logits)
        losses = F.binary_cross_entropy_with_logits(logits, value, pos_weight=weight, reduction="none")
        return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)

    def answers(self, target: Tensor) -> Answers:
        known = ~target.isnan()
        values = torch.where(known, target, 0).double()
        weights = known.double()
        if self.positive_weights is not None:
            weights = torch.where(values == 1, weights * self.positive_weights.double(), weights)
        return Answers(values, weights)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class Quantity:
    """A number, learnt in standard deviations from the mean of the training targets.

    Args:
        scale: mean and standard deviation of the training targets, in their unit; None until a checkpoint brings them.
        loss: ``huber``: squares up to one standard deviation, and absolute errors beyond (P. J. Huber, Annals of
            Mathematical Statistics 35, 1964), so that single wrong labels count less; or ``mse``.
    """

    outputs = 1
    link: Link = "identity"
    joint = False
    learns = False

    def __init__(self, scale: tuple[float, float] | None, loss: Literal["huber", "mse"] = "huber") -> None:
        self.scale = scale
        self.kind = loss

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        mean, sd = self._known_scale()
        # In float64: years or millilitres may be large beside their spread.
        standardised = ((target.double() - mean) / sd).to(logits.dtype)
        losses = F.huber_loss if self.kind == "huber" else F.mse_loss
        return losses(logits[:, 0], standardised)

    def answers(self, target: Tensor) -> Answers:
        mean, sd = self._known_scale()
        return Answers(((target.double() - mean) / sd)[:, None], torch.ones(len(target), 1, dtype=torch.float64))

    def probabilities(self, logits: Tensor) -> Tensor:
        mean, sd = self._known_scale()
        return (logits.double() * sd + mean).to(torch.promote_types(logits.dtype, torch.float32))

    def learn(self, logits: Tensor, target: Tensor) -> None:
        return

    def state(self) -> dict[str, Any]:
        return {"target_scale": self.scale}

    def restore(self, state: Mapping[str, Any]) -> None:
        mean, sd = state["target_scale"]
        self.scale = (float(mean), float(sd))

    def _known_scale(self) -> tuple[float, float]:
        if self.scale is None:
            raise RuntimeError("a regression's scale comes from the training part or from its checkpoint")
        return self.scale
