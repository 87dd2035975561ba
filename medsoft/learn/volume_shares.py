"""What each part of a volume adds to a logit: patches of a vision transformer, or slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from medsoft.errors import InputError
from medsoft.learn.classifier import Classifier
from medsoft.learn.question import Question
from medsoft.learn.slice_classifier import SliceClassifier
from medsoft.learn.table_classifier import TableClassifier
from medsoft.models.vit import VisionTransformer
from medsoft.models.vit_shares import can_share, patch_shares


@dataclass(frozen=True, eq=False)
class Shares:
    """A logit's shares over a volume.

    Attributes:
        shares: (x, y, z) float64 of cells that lie side by side from voxel 0 on, in the unit of the logit.
        cell: (x, y, z) voxels a cell; may be fractions.
        logit: of the question, covariates included.
    """

    shares: np.ndarray
    cell: tuple[float, float, float]
    logit: float


def is_explainable(model: object) -> bool:
    """Whether a model's logits can be taken apart by place."""
    return isinstance(model, SliceClassifier) or (isinstance(model, Classifier) and can_share(model.backbone))


def check_explainable(model: TableClassifier) -> None:
    """Raise InputError where a model's logits cannot be taken apart by place."""
    if not is_explainable(model):
        raise InputError(
            "--maps: shares of places need one of medsoft's vision transformers with global_pool token, or a bag "
            "of slices"
        )


def volume_shares(
    model: TableClassifier, image_1CXYZ: Tensor, covariates_1N: Tensor | None, question: Question
) -> Shares:
    """What each cell of a prepared volume adds to a question's logit.

    Args:
        model: in evaluation mode, one that ``check_explainable`` accepts.
        image_1CXYZ: on the model's device.
        covariates_1N: as the model takes them.
        question: whose logit.
    """
    with torch.no_grad():
        logits_1K = model(image_1CXYZ, covariates_1N)
    logit = sum(weight * logits_1K[0, index].item() for index, weight in question.weights.items())
    size = image_1CXYZ.shape[2:]
    if isinstance(model, SliceClassifier):
        shares_N = _of_slices(model, image_1CXYZ, question.weights)
        shape, cell = [1, 1, 1], [float(side) for side in size]
        shape[model.axis], cell[model.axis] = len(shares_N), float(model.step)
        return Shares(shares_N.reshape(shape), (cell[0], cell[1], cell[2]), logit)
    assert isinstance(model, Classifier)
    weights = torch.zeros_like(logits_1K[0])
    for index, weight in question.weights.items():
        weights[index] = weight
    head, backbone = model.head, cast(VisionTransformer, model.backbone)
    shares_1xyz = patch_shares(backbone, image_1CXYZ, lambda features_BD: head(features_BD).float() @ weights)
    x, y, z = map(float, backbone.patch_embed.patch_size)
    return Shares(shares_1xyz[0].double().cpu().numpy(), (x, y, z), logit)


@torch.no_grad()
def _of_slices(model: SliceClassifier, image_1CXYZ: Tensor, weights: Mapping[int, float]) -> np.ndarray:
    features_1NF = model.slice_features(image_1CXYZ)
    total = np.zeros(features_1NF.shape[1])
    for index, weight in weights.items():
        total += weight * model.aggregator.explain(features_1NF, index).shares_N.double().cpu().numpy()
    return total
