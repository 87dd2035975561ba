"""Augmentations of prepared volumes, with a new seed each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandAffine, RandBiasField, RandFlip
from torch import Tensor

from medsoft.data.volumes.transforms.intensity import Dynamic, background


@dataclass(frozen=True)
class Augmentation:
    """How much is changed at random; 0 switches a change off.

    Attributes:
        flip_axes: axes that are mirrored, each in half of the volumes.
        rotation: largest rotation about each axis in degrees.
        zoom: largest relative change of size.
        shift: largest shift along each axis, as a part of its length.
        jitter: largest relative change of contrast, and largest change of brightness in standard deviations.
        noise: largest standard deviation of Gaussian noise, in standard deviations of the volume.
        bias: largest coefficient of a smooth field that multiplies the signal, as the coils of a scanner do: what is
            above the lowest value of a channel, and of subtractions all.
        dynamic: which channels are subtractions.
    """

    flip_axes: tuple[int, ...]
    rotation: float
    zoom: float
    shift: float
    jitter: float
    noise: float
    bias: float
    dynamic: Dynamic = "none"

    def __call__(self, volume_CXYZ: Tensor, seed: int) -> Tensor:
        """Change a volume: the same volume and seed give the same result anywhere. ``volume_CXYZ`` stays as it is.

        All channels are changed alike but for the noise, so that they stay comparable.
        """
        return self.with_mask(volume_CXYZ, None, seed)[0]

    def with_mask(self, volume_CXYZ: Tensor, mask_XYZ: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """The same of a volume and of its mask, which moves as the volume does.

        Args:
            volume_CXYZ: (C, X, Y, Z).
            mask_XYZ: (X, Y, Z) uint8; 0 comes in from outside, and no value is mixed from others. None: there is none.
            seed: 0 or more.
        """
        rng = np.random.default_rng(seed)
        out, mask = volume_CXYZ, mask_XYZ
        for step in self._in_space(volume_CXYZ.shape[1:]):
            state = int(rng.integers(2**31))
            out = _plain(step.set_random_state(seed=state)(out))
            if mask is not None:
                how = {"mode": "nearest", "padding_mode": "zeros"} if isinstance(step, RandAffine) else {}
                moved = step.set_random_state(seed=state)(mask[None].float(), **how)
                mask = _plain(moved)[0].round().to(torch.uint8)
        if self.bias:
            nothing = background(out, self.dynamic)[:, None, None, None]
            field = _seeded(RandBiasField(coeff_range=(-self.bias, self.bias), prob=1.0), rng)
            out = _plain(field(out - nothing)) + nothing
        mean, sd = float(out.mean()), float(out.std())
        if self.jitter:
            contrast, brightness = rng.uniform(-self.jitter, self.jitter, 2)
            out = mean + (out - mean) * (1 + contrast) + brightness * sd
        if self.noise:
            level = rng.uniform(0, self.noise) * sd
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            out = out + level * torch.randn(out.shape, generator=generator)
        return out.float().contiguous(), None if mask is None else mask.contiguous()

    def _in_space(self, size: Sequence[int]) -> list[Any]:
        steps: list[Any] = []
        steps += [RandFlip(prob=0.5, spatial_axis=axis) for axis in self.flip_axes]
        if self.rotation or self.zoom or self.shift:
            steps.append(
                RandAffine(
                    prob=1.0,
                    rotate_range=[float(np.deg2rad(self.rotation))] * 3,
                    scale_range=[self.zoom] * 3,
                    translate_range=[self.shift * side for side in size],
                    padding_mode="border",
                )
            )
        return steps


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's metadata, which networks stumble over."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _seeded(step: Any, rng: np.random.Generator) -> Any:
    return step.set_random_state(seed=int(rng.integers(2**31)))
