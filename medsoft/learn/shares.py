"""What each patch of an image adds to an answer of a classifier."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medsoft.learn.classifier import Classifier
from medsoft.models.vit import VisionTransformer
from medsoft.models.vit_shares import answer_shares, reads_a_class_token


def can_be_taken_apart(model: object) -> bool:
    """Whether ``patch_shares`` can be had of a model."""
    return isinstance(model, Classifier) and reads_a_class_token(model.backbone)


def patch_shares(model: Classifier, image_CHW: Tensor, index: int, positive: bool = True) -> npt.NDArray[np.float64]:
    """The share of every patch in the log-odds of an answer (``medsoft.models.vit_shares``).

    Args:
        model: one for which ``can_be_taken_apart`` holds, in evaluation mode.
        image_CHW: one image as the model takes it.
        index: of the class or label that is answered.
        positive: False for the answer that a label is not there.

    Returns:
        (rows, columns) of the patch grid, in nats.
    """
    backbone = cast(VisionTransformer, model.backbone)

    def log_odds(features_1D: Tensor) -> Tensor:
        # In float64 a probability near 1 still has a slope.
        p = model.objective.probabilities(model.head(features_1D).double())[0, index]
        return torch.logit(p if positive else 1 - p, eps=1e-15)

    shares_N, grid = answer_shares(backbone, image_CHW[None].to(model.device), log_odds)
    return np.asarray(shares_N[backbone.num_prefix_tokens :].reshape(grid).double().cpu().numpy())
