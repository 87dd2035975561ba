"""Attributions of volumes: what each patch or slice contributes to a logit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from medsoft.classifiers.base import TableClassifier
from medsoft.classifiers.image import Classifier
from medsoft.classifiers.slices import SliceClassifier
from medsoft.errors import InputError
from medsoft.models.attribution.patches import can_be_attributed, patch_contributions
from medsoft.models.vit import VisionTransformer
from medsoft.task_types import LogitTarget


@dataclass(frozen=True, eq=False)
class VolumeContributions:
    """A logit's contributions over a volume.

    Attributes:
        contributions: (x, y, z) float64 of cells that lie side by side from voxel 0 on, in the unit of the logit.
        cell: (x, y, z) voxels a cell; may be fractions.
        logit: of the question, covariates included.
    """

    contributions: np.ndarray
    cell: tuple[float, float, float]
    logit: float


def is_explainable(model: object) -> bool:
    """Whether a model's logits can be taken apart by place."""
    return isinstance(model, SliceClassifier) or (isinstance(model, Classifier) and can_be_attributed(model.backbone))


def check_explainable(model: TableClassifier) -> None:
    """Raise InputError where a model's logits cannot be taken apart by place."""
    if not is_explainable(model):
        raise InputError(
            "--maps: contributions need one of medsoft's vision transformers with global_pool token, or a bag of slices"
        )


def volume_contributions(
    model: TableClassifier, image_1CXYZ: Tensor, covariates_1N: Tensor | None, logit_target: LogitTarget
) -> VolumeContributions:
    """What each cell of a prepared volume adds to a question's logit.

    Args:
        model: in evaluation mode, one that ``check_explainable`` accepts.
        image_1CXYZ: on the model's device.
        covariates_1N: as the model takes them.
        logit_target: whose logit.
    """
    with torch.no_grad():
        logits_1K = model(image_1CXYZ, covariates_1N)
    logit = sum(weight * logits_1K[0, index].item() for index, weight in logit_target.weights.items())
    size = image_1CXYZ.shape[2:]
    if isinstance(model, SliceClassifier):
        contributions_N = _of_slices(model, image_1CXYZ, logit_target.weights)
        shape, cell = [1, 1, 1], [float(side) for side in size]
        shape[model.axis], cell[model.axis] = len(contributions_N), float(model.step)
        return VolumeContributions(contributions_N.reshape(shape), (cell[0], cell[1], cell[2]), logit)
    assert isinstance(model, Classifier)
    weights = torch.zeros_like(logits_1K[0])
    for index, weight in logit_target.weights.items():
        weights[index] = weight
    head, backbone = model.head, cast(VisionTransformer, model.backbone)
    contributions_1xyz = patch_contributions(
        backbone, image_1CXYZ, lambda features_BD: head(features_BD).float() @ weights
    )
    x, y, z = map(float, backbone.patch_embed.patch_size)
    return VolumeContributions(contributions_1xyz[0].double().cpu().numpy(), (x, y, z), logit)


@torch.no_grad()
def _of_slices(model: SliceClassifier, image_1CXYZ: Tensor, weights: Mapping[int, float]) -> np.ndarray:
    features_1NF = model.slice_features(image_1CXYZ)
    total = np.zeros(features_1NF.shape[1])
    for index, weight in weights.items():
        total += weight * model.aggregator.explain(features_1NF, index).contributions_N.double().cpu().numpy()
    return total
