"""Attributions of images: what each patch, or place of the last map, contributes to a classifier's output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medsoft.classifiers.image import Classifier
from medsoft.models.attribution.maps import ends_in_a_map, map_contributions
from medsoft.models.attribution.patches import can_be_attributed, patch_contributions
from medsoft.models.vit import VisionTransformer


def can_be_taken_apart(model: object) -> bool:
    """Whether ``image_contributions`` works for a model: a classifier of images whose places have contributions."""
    if not isinstance(model, Classifier):
        return False
    if can_be_attributed(model.backbone):
        return getattr(model.backbone, "spatial_dims", 2) == 2
    return of_a_map(model)


def of_a_map(model: object) -> bool:
    """Whether the contributions are those of places of the last map (``medsoft.models.attribution.maps``)."""
    return isinstance(model, Classifier) and ends_in_a_map(model.backbone)


def image_contributions(
    model: Classifier, sample: Mapping[str, Tensor], index: int, positive: bool = True
) -> npt.NDArray[np.float64]:
    """The contribution of every patch, or of every place of the last map, to the log-odds of an answer.

    See ``medsoft.models.attribution.patches`` and ``medsoft.models.attribution.maps``.

    Args:
        model: one for which ``can_be_taken_apart`` holds, in evaluation mode.
        sample: ``image`` (C, H, W) as the model takes it, and ``covariates`` (K,) of a model that has some.
        index: of the class or label that is answered.
        positive: False for the answer that a label is not there.

    Returns:
        (rows, columns) of the grid of patches or of the map, in nats.
    """
    covariates = sample["covariates"] if model.covariates is not None else None

    def log_odds(features_1D: Tensor) -> Tensor:
        return log_odds_of(model, features_1D, covariates, index, positive)

    image_1CHW = sample["image"][None].to(model.device)
    if of_a_map(model):
        contributions = map_contributions(model.backbone, image_1CHW, log_odds)
    else:
        contributions = patch_contributions(cast(VisionTransformer, model.backbone), image_1CHW, log_odds)
    return np.asarray(contributions[0].double().cpu().numpy())


def log_odds_of(
    model: Classifier, features_BD: Tensor, covariates_K: Tensor | None, index: int, positive: bool
) -> Tensor:
    """The log-odds of an answer, (B,) float64.

    Args:
        model: has the head.
        features_BD: pooled features.
        covariates_K: of the sample, as the model takes them; None of a model that has none.
        index: of the class or label that is answered.
        positive: False for the answer that a label is not there.
    """
    logits = model.head(features_BD)
    if model.covariates is not None and covariates_K is not None:
        logits = logits + model.covariates(covariates_K[None].to(model.device))
    # In float64 a probability near 1 still has a slope.
    p = model.objective.probabilities(logits.double())[:, index]
    return torch.logit(p if positive else 1 - p, eps=1e-15)
