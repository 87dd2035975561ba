"""Distillation: a backbone learns to predict the features of a teacher, pooled and at each place.

Features are matched after a linear layer, as FitNets do (Romero et al. 2015, arXiv 1412.6550), by smooth-L1 and cosine.
The teacher's features are standardised dimension by dimension first: otherwise a few large ones are all that is learnt.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medsoft.pretraining.base import Pretraining, Rates
from medsoft.pretraining.closeness import mean_cosine, neighbours_shared
from medsoft.pretraining.networks import features_and_map
from medsoft.pretraining.teacher import Teacher

LEAST_STD = 0.05
"""Of a dimension, as a fraction of the mean standard deviation: what never changes is not blown up to noise."""


class Distillation(Pretraining):
    """A student that predicts a teacher's features of the same view.

    The teacher is no part of the checkpoints.

    Args:
        backbone: the student, a timm model without a head.
        teacher: whose features are learnt.
        size: side of the student's input in px.
        mean: of the student's input, one value a channel.
        std: likewise.
        rates: of the optimiser.
        token_weight: of the loss on the map.
    """

    monitor = "val_loss"
    pooled_mean: Tensor
    pooled_std: Tensor
    map_mean: Tensor
    map_std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        rates: Rates,
        token_weight: float = 1.0,
    ) -> None:
        super().__init__(backbone, mean, std, rates)
        self.token_weight = token_weight
        self._teacher = (teacher,)  # in a tuple, so that its weights are not this module's
        image = torch.zeros(2, len(mean), size, size, dtype=torch.uint8)
        with torch.no_grad():
            own, own_map = features_and_map(backbone.eval(), self.normalised(image))
            theirs, their_map = teacher(image)
        backbone.train()
        self.pooled_head = nn.Linear(own.shape[1], theirs.shape[1])
        self.map_head = nn.Linear(own_map.shape[1], their_map.shape[1])
        for name, width in (("pooled", theirs.shape[1]), ("map", their_map.shape[1])):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))
        self._seen: list[tuple[Tensor, ...]] = []
        self._verdict: dict[str, float] = {}

    @property
    def teacher(self) -> Teacher:
        """Whose features are learnt."""
        return self._teacher[0]

    @property
    def heads(self) -> nn.Module:
        """The linear layers between the student's features and the teacher's."""
        return nn.ModuleList([self.pooled_head, self.map_head])

    @torch.no_grad()
    def learn_scale(self, images_BCHW: Iterable[Tensor]) -> None:
        """Take mean and standard deviation of the teacher's features from some images of the training part.

        Args:
            images_BCHW: batches of 8 bits.
        """
        pooled, places = [], []
        for image_BCHW in images_BCHW:
            features, map_BDhw = self.teacher(image_BCHW)
            pooled.append(features.cpu().double())
            flat = map_BDhw.cpu().double().flatten(2)
            places.append((flat.mean(dim=(0, 2)), flat.square().mean(dim=(0, 2)), len(image_BCHW)))
        n = sum(count for _, _, count in places)
        mean = sum((part * (count / n) for part, _, count in places), torch.zeros(()))
        square = sum((part * (count / n) for _, part, count in places), torch.zeros(()))
        all_pooled = torch.cat(pooled)
        self._set_scale("pooled", all_pooled.mean(0), all_pooled.std(0, correction=0))
        self._set_scale("map", mean, (square - mean.square()).clamp_min(0).sqrt())

    def _set_scale(self, name: str, mean: Tensor, std: Tensor) -> None:
        least = (LEAST_STD * std.mean()).clamp_min(1e-6)
        getattr(self, f"{name}_mean").copy_(mean)
        getattr(self, f"{name}_std").copy_(std.clamp_min(least))

    def on_fit_start(self) -> None:
        """Bring the teacher to where the student is."""
        self.teacher.to(self.device)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Of pooled features and, weighted, of the map."""
        return self._compare(batch["image"])[0]

    def _compare(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, the student's pooled features, what they predict, and the teacher's standardised features."""
        own, own_map = features_and_map(self.backbone, self.normalised(image_BCHW))
        with torch.no_grad():
            theirs, their_map = self.teacher(image_BCHW)
        target = (theirs.float() - self.pooled_mean) / self.pooled_std
        predicted = self.pooled_head(own).float()
        loss = difference(predicted, target)
        if self.token_weight:
            grid = (int(their_map.shape[2]), int(their_map.shape[3]))
            places = self.map_head(to_grid(own_map, grid).flatten(2).transpose(1, 2)).float()
            wanted = (their_map.float().flatten(2).transpose(1, 2) - self.map_mean) / self.map_std
            loss = loss + self.token_weight * difference(places, wanted)
        return loss, own, predicted, target

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        loss, *features = self._compare(batch["image"])
        self.log("val_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch["index"]))
        self._seen.append(tuple(part.float().cpu() for part in features))

    def on_validation_epoch_end(self) -> None:
        """Log how close the student is on the held-out images."""
        own, predicted, target = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        self._verdict = {
            "val_cosine": mean_cosine(predicted, target),
            "val_neighbours": neighbours_shared(own, target),
        }
        self.log_dict(self._verdict)

    def verdict(self) -> dict[str, float]:
        """``val_cosine``: of predicted and true pooled features, standardised, so that 0 is what the mean image gives.

        ``val_neighbours``: share of the nearest held-out images that student and teacher agree on.
        """
        return self._verdict


def difference(predicted: Tensor, target: Tensor) -> Tensor:
    """Smooth-L1 and one minus the cosine, along the last axis; the mean over all others."""
    cosine = F.cosine_similarity(predicted, target, dim=-1)
    return F.smooth_l1_loss(predicted, target) + (1 - cosine).mean()


def to_grid(map_BDhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map resampled to another grid of the same field of view; coarser ones average, as an image is scaled down."""
    if tuple(map_BDhw.shape[2:]) == grid:
        return map_BDhw
    return F.interpolate(map_BDhw, size=grid, mode="bilinear", align_corners=False, antialias=True)
