"""What each patch of an image adds to an answer of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medsoft.learn.classifier import Classifier
from medsoft.models.vit import VisionTransformer
from medsoft.models.vit_shares import can_share, patch_shares


def can_be_taken_apart(model: object) -> bool:
    """Whether ``answer_shares`` can be had of a model: of a classifier of pictures whose patches have shares."""
    if not isinstance(model, Classifier) or not can_share(model.backbone):
        return False
    return cast(VisionTransformer, model.backbone).spatial_dims == 2


def answer_shares(
    model: Classifier, sample: Mapping[str, Tensor], index: int, positive: bool = True
) -> npt.NDArray[np.float64]:
    """The share of every patch in the log-odds of an answer (``medsoft.models.vit_shares``).

    Args:
        model: one for which ``can_be_taken_apart`` holds, in evaluation mode.
        sample: ``image`` (C, H, W) as the model takes it, and ``covariates`` (K,) of a model that has some.
        index: of the class or label that is answered.
        positive: False for the answer that a label is not there.

    Returns:
        (rows, columns) of the patch grid, in nats.
    """

    def log_odds(features_1D: Tensor) -> Tensor:
        logits = model.head(features_1D)
        if model.covariates is not None:
            logits = logits + model.covariates(sample["covariates"][None].to(model.device))
        # In float64 a probability near 1 still has a slope.
        p = model.objective.probabilities(logits.double())[:, index]
        return torch.logit(p if positive else 1 - p, eps=1e-15)

    shares = patch_shares(cast(VisionTransformer, model.backbone), sample["image"][None].to(model.device), log_odds)
    return np.asarray(shares[0].double().cpu().numpy())
