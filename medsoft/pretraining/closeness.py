"""How alike two sets of features of the same images are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = 5


def mean_cosine(a_BD: Tensor, b_BD: Tensor) -> float:
    """Mean over the images of the cosine between their two features; nothing is centred here."""
    return float(F.cosine_similarity(a_BD.float(), b_BD.float(), dim=1).mean())


def number_of_neighbours(n: int) -> int:
    """How many neighbours of an image are compared among n images: 5, or of few images at most a third of the others.

    Of all the others any two sets of features would agree.
    """
    return max(1, min(NEIGHBOURS, (n - 1) // 3))


def neighbours_shared(a_BD: Tensor, b_BE: Tensor) -> float:
    """Share of an image's nearest other images (cosine of centred features) that are the same in both sets, 0 to 1.

    The features need not have the same length. Of random features it is k / (B - 1) on average, of k neighbours.

    Args:
        a_BD: of B images.
        b_BE: of the same images.
    """
    k = number_of_neighbours(len(a_BD))
    near_a, near_b = (_nearest(features, k) for features in (a_BD, b_BE))
    same = (near_a[:, :, None] == near_b[:, None, :]).any(dim=2)
    return float(same.float().mean())


def found_again(a_BD: Tensor, b_BD: Tensor) -> float:
    """Share of images whose view in ``b`` is the nearest of all there to their view in ``a`` (centred cosine), 0 to 1.

    Of random features it is 1 / B on average.
    """
    mean = torch.cat([a_BD, b_BD]).float().mean(0)
    a, b = (F.normalize(features.float() - mean, dim=1) for features in (a_BD, b_BD))
    return float(((a @ b.T).argmax(dim=1) == torch.arange(len(a), device=a.device)).float().mean())


def spread(features_BD: Tensor) -> float:
    """Effective number of directions that the features use: exp of the entropy of their normalised spectrum.

    Near 1 they have collapsed onto one line (Roy and Vetterli 2007, "The effective rank", EUSIPCO).
    """
    values = torch.linalg.svdvals((features_BD - features_BD.mean(0)).double())
    if not float(values.sum()) > 0:
        return 1.0
    p = values / values.sum()
    return float(torch.exp(-(p * torch.log(p.clamp_min(1e-12))).sum()))


def _nearest(features_BD: Tensor, k: int) -> Tensor:
    centred = F.normalize(features_BD.float() - features_BD.float().mean(0), dim=1)
    likeness = centred @ centred.T
    likeness.fill_diagonal_(-2)
    return likeness.topk(k, dim=1).indices
