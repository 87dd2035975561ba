"""Objectives of tasks: number of outputs, loss, and probabilities that sum to 1.

binary, multiclass   softmax over the classes, cross-entropy
ordinal              CORN: K − 1 conditional logits P(y > k | y > k − 1); their running product is P(y > k),
                     which falls with k by construction (Shi, Cao and Raschka 2021, arXiv 2111.08851, section 3)
multilabel           a sigmoid a label, binary cross-entropy over the labels that are there
regression           one number, in standard deviations from the mean of the training targets; Huber's loss or squares
several targets      the outputs of all side by side; the loss of a sample is the weighted mean over the targets it has

The functions take ``logits`` (B, K) in float32 and targets (B,) int64, or (B, L) float with NaN for a missing label, or
(B,) float in the unit of a regression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medsoft.errors import InputError
from medsoft.task_types import KEPT, Answers, Link, LogitTarget, Objective

HAZARDS = "hazards"
"""In the state of a model of survival, what makes its answers of its outputs."""


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


@dataclass(frozen=True, eq=False)
class PartObjective:
    """The objective of one of several targets.

    Attributes:
        name: of the target.
        objective: its own.
        weight: of its loss.
        columns: T of its target.
        of_numbers: targets (B, T) as that objective takes them (``Task.of_numbers``).
        known_alone: whether one known column makes a target known, as of labels that are each a question.
    """

    name: str
    objective: Objective
    weight: float
    columns: int
    of_numbers: Callable[[Tensor], Tensor]
    known_alone: bool


class SeveralTargets:
    """Objectives of several targets, whose outputs stand side by side.

    The loss of a sample is the mean over the targets that it has, by their weights; that of a batch the mean over its
    samples. What a sample does not have adds nothing, nor to any gradient. A sample without any target counts nothing.

    A loss that compares the samples of a step with each other, as that of a risk set, is of all samples with its
    target, and counts as much as their shares of it sum up to.

    Targets are (B, T) floats: the columns of all targets as numbers, NaN where missing.

    Args:
        parts: the targets.
    """

    scale: tuple[float, float] | None = None
    link: Link = "mixed"

    def __init__(self, parts: Sequence[PartObjective]) -> None:
        self.parts = tuple(parts)
        self.outputs = sum(part.objective.outputs for part in parts)
        self.joint = any(part.objective.joint for part in parts)
        self.learns = any(part.objective.learns for part in parts)

    def split(self, logits: Tensor) -> list[Tensor]:
        """Outputs (B, K) of each target."""
        return list(torch.split(logits, [part.objective.outputs for part in self.parts], dim=1))

    def shares(self, target: Tensor) -> Tensor:
        """(B, P) what each target counts in the loss of each sample: 0 where it is missing; 1 together, or 0."""
        known = []
        for part, numbers in zip(self.parts, self._columns(target), strict=True):
            there = ~numbers.isnan()
            known.append(there.any(dim=1) if part.known_alone else there.all(dim=1))
        weights = torch.tensor([part.weight for part in self.parts], dtype=torch.float64, device=target.device)
        weighed = torch.stack(known, dim=1) * weights
        return weighed / weighed.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        shares, outputs, columns = self.shares(target), self.split(logits), self._columns(target)
        samples = (shares > 0).any(dim=1).sum().clamp(min=1)
        terms = []
        # Samples that have the same targets are taken together: each then counts in every one of them alike.
        patterns, pattern_of = torch.unique(shares > 0, dim=0, return_inverse=True)
        for index, part in enumerate(self.parts):
            groups = [shares[:, index] > 0]
            if not part.objective.joint:
                groups = [pattern_of == number for number, has in enumerate(patterns[:, index].tolist()) if has]
            for rows in groups:
                if rows.any():
                    counts = (shares[rows, index].sum() / samples).to(logits)
                    of_part = part.of_numbers(columns[index][rows])
                    terms.append(counts * part.objective.loss(outputs[index][rows], of_part))
        return torch.stack(terms).sum() if terms else 0 * logits.sum()

    def answers(self, target: Tensor) -> Answers:
        raise InputError("several targets have no model that is solved at once: train in steps, such as --config histo")

    def probabilities(self, logits: Tensor) -> Tensor:
        pairs = zip(self.parts, self.split(logits), strict=True)
        return torch.cat([part.objective.probabilities(outputs) for part, outputs in pairs], dim=1)

    def learn(self, logits: Tensor, target: Tensor) -> None:
        known = self.shares(target) > 0
        columns = self._columns(target)
        for index, (part, outputs) in enumerate(zip(self.parts, self.split(logits), strict=True)):
            if part.objective.learns and known[:, index].any():
                rows = known[:, index]
                part.objective.learn(outputs[rows], part.of_numbers(columns[index][rows]))

    def scale_of(self, output: int) -> tuple[float, float] | None:
        """The scale of the target that an output belongs to."""
        for part in self.parts:
            if output < part.objective.outputs:
                return part.objective.scale
            output -= part.objective.outputs
        return None

    def state(self) -> dict[str, Any]:
        states = {part.name: part.objective.state() for part in self.parts}
        kept = {name: state[KEPT] for name, state in states.items() if KEPT in state}
        hazards = [{HAZARDS: state[HAZARDS]} for state in states.values() if HAZARDS in state]  # of one at most
        return {"targets": states} | ({KEPT: kept} if kept else {}) | (hazards[0] if hazards else {})

    def restore(self, state: Mapping[str, Any]) -> None:
        for part in self.parts:
            part.objective.restore(state["targets"][part.name])

    def _columns(self, target: Tensor) -> list[Tensor]:
        return list(torch.split(target, [part.columns for part in self.parts], dim=1))


def logit_scale(objective: Objective, logit_target: LogitTarget) -> tuple[float, float] | None:
    """What makes an answer of the logit that is explained (``Objective.scale``); of several targets that of its own."""
    if isinstance(objective, SeveralTargets):
        return objective.scale_of(min(logit_target.weights))
    return objective.scale
