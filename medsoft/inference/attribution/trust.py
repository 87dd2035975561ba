"""Whether maps of contributions can be trusted: what covering their places does, and what they owe to training.

A map that says what an answer rests on names places whose loss changes the answer more than that of others (deletion:
V. Petsiuk et al., BMVC 2018, section 3.2). And it is another one where the weights are at random (J. Adebayo et al.,
NeurIPS 2018, section 3.1): what is the same then was drawn by the architecture and the picture alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medsoft.classifiers.image import Classifier
from medsoft.inference.attribution.images import image_contributions, log_odds_of

COVERED = 0.2
"""Share of the places that is covered."""
RANDOM_SETS = 4
"""Random choices of places that a map's is compared with."""
MUCH_ALIKE = 0.5
"""Rank correlation from which on two maps are called much the same."""


@dataclass(frozen=True, eq=False)
class Mapped:
    """An image with its map.

    Attributes:
        sample: as the model takes it.
        index: of the class or label that is answered.
        positive: False for the answer that a label is not there.
        contributions: (rows, columns).
    """

    sample: Mapping[str, Tensor]
    index: int
    positive: bool
    contributions: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trust:
    """What was found for some images.

    Attributes:
        n: images.
        by_map: mean fall of the log-odds where the places are covered that the map names first.
        by_chance: the same of places at random.
        same_when_shuffled: mean rank correlation with maps of the same network with shuffled weights; None where
            none is defined.
    """

    n: int
    by_map: float
    by_chance: float
    same_when_shuffled: float | None

    def __str__(self) -> str:
        """In sentences, for the report."""
        said = [
            f"Covering the {COVERED:.0%} of places that a map names first lowers the log-odds of the answer by "
            f"{_signed(self.by_map)} in the mean, covering as many at random by {_signed(self.by_chance)} "
            f"(n = {self.n})."
        ]
        if self.by_map <= self.by_chance:
            said += ["So these maps do not show what the answers rest on."]
        if self.same_when_shuffled is not None:
            alike = abs(self.same_when_shuffled) >= MUCH_ALIKE
            said += [
                f"With the weights shuffled the maps are {'much the same' if alike else 'others'} (rank correlation "
                f"{_signed(self.same_when_shuffled)})"
                + (": they show the picture, not what was learnt." if alike else ".")
            ]
        return " ".join(said)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def trust_in_maps(model: Classifier, mapped: Sequence[Mapped]) -> Trust | None:
    """Cover what maps name, and compare maps with those of shuffled weights.

    Args:
        model: in evaluation mode; its weights are exchanged for a while, and put back.
        mapped: images with their maps.

    Returns:
        None without images.
    """
    if not mapped:
        return None
    falls = np.array([_falls(model, one) for one in mapped])
    with shuffled_weights(model):
        others = [image_contributions(model, one.sample, one.index, one.positive) for one in mapped]
    alike = [_rank_correlation(one.contributions, other) for one, other in zip(mapped, others, strict=True)]
    known = [value for value in alike if np.isfinite(value)]
    by_map, by_chance = falls.mean(axis=0).tolist()
    return Trust(len(mapped), by_map, by_chance, float(np.mean(known)) if known else None)


def _falls(model: Classifier, one: Mapped) -> tuple[float, float]:
    """How much the log-odds fall where places of a map are covered, and where as many at random are."""
    flat = one.contributions.ravel()
    n = max(1, round(COVERED * flat.size))
    draws = np.random.default_rng(0)
    chosen = [np.argsort(-flat, kind="stable")[:n], *(draws.permutation(flat.size)[:n] for _ in range(RANDOM_SETS))]
    image = one.sample["image"]
    images = [image]
    for places in chosen:
        there = np.zeros(flat.size, bool)
        there[places] = True
        covered = _of_size(there.reshape(one.contributions.shape), image.shape[-2:])
        images.append(torch.where(covered, image.mean(dim=(-2, -1), keepdim=True), image))
    batch = torch.stack(images).to(model.device)
    covariates = one.sample["covariates"] if model.covariates is not None else None
    with torch.no_grad():
        values = log_odds_of(model, model.backbone(batch), covariates, one.index, one.positive).cpu().numpy()
    return float(values[0] - values[1]), float(values[0] - values[2:].mean())


def _of_size(places_hw: npt.NDArray[np.bool_], size: Sequence[int]) -> Tensor:
    """Places as areas of an image, (H, W)."""
    grown = torch.nn.functional.interpolate(
        torch.from_numpy(places_hw)[None, None].float(), tuple(size), mode="nearest"
    )
    return grown[0, 0].bool()


@contextmanager
def shuffled_weights(model: Classifier) -> Iterator[None]:
    """Lend a model whose weights are shuffled, each tensor in itself; the learnt ones are put back."""
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    try:
        with torch.random.fork_rng(), torch.no_grad():
            torch.default_generator.manual_seed(0)
            for module in model.modules():
                for parameter in module.parameters(recurse=False):
                    # Not drawn anew: so their sizes stay as they were learnt, and with them those of the activations.
                    parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
        yield
    finally:
        model.load_state_dict(kept)


def _rank_correlation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one.ravel(), other.ravel()).statistic)
