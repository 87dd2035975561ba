"""The 2.5D classifier for volumes: a 2D encoder for each slice, and an aggregator of the slices' features."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from medsoft.classifiers.fine_tuning import FineTunedClassifier
from medsoft.classifiers.image import create_backbone
from medsoft.classifiers.optimizer import aggregator_groups, parameter_groups
from medsoft.encoders.start import complete_slices, find_start
from medsoft.errors import InputError, check_range
from medsoft.models.aggregators import TORCHMIL, build_aggregator
from medsoft.specs import DataSpec

AXES: dict[str, int] = {"x": 0, "y": 1, "z": 2}


class SliceClassifier(FineTunedClassifier):
    """Any timm backbone for pictures over the slices of a volume, and a slide aggregator over their features.

    Args:
        spec: what the model must know of the data; comes from the data module.
        axis: axis of the prepared volume that slices are perpendicular to; z of RAS gives axial slices.
        step: distance between the slices that are used; 2 uses every second slice.
        neighbours: neighbouring slices on each side that are added to a slice as channels; beyond the ends the last
            slice is repeated.
        encoder: name of a timm model for 2D images, or of a pretrained encoder such as efficientnet-lite0 (medsoft
            encoders lists them).
        encoder_args: keyword arguments for the encoder, such as {patch_size: 8, depth: 4}.
        pretrained: local file with weights for the encoder, or the name of a pretrained encoder.
        mean: that slices are scaled with, for values from 0 to 1, one per channel of the encoder; comes with a
            pretrained encoder.
        std: standard deviation, likewise.
        aggregator: aggregator: mean, max, abmil or transformer.
        aggregator_args: its options, such as {attention: seqnorm, dim: 128, depth: 2}; it does not know the positions
            of slices.
        lr: peak learning rate of AdamW.
        **training: see ``FineTunedClassifier``.
    """

    mean_C: Tensor | None
    std_C: Tensor | None

    def __init__(
        self,
        spec: DataSpec,
        axis: Literal["x", "y", "z"] = "z",
        step: int = 1,
        neighbours: int = 0,
        encoder: str = "vit_seqnorm_tiny_patch8_224",
        encoder_args: dict[str, Any] | None = None,
        pretrained: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        aggregator: str = "transformer",
        aggregator_args: dict[str, Any] | None = None,
        lr: float = 5e-4,
        **training: Any,
    ) -> None:
        super().__init__(spec, lr, **training)
        if len(spec.image_size) != 3:
            raise InputError("slices are of volumes; for pictures leave out use: {model: …}")
        check_range("model.step", step, 1, spec.image_size[AXES[axis]])
        check_range("model.neighbours", neighbours, 0)
        if (aggregator_args or {}).get("coordinates"):
            raise InputError("model.aggregator_args: slices have no places in µm; leave out coordinates")
        if (aggregator_args or {}).get("on_probe"):
            raise InputError("model.aggregator_args: features of slices change in training; leave out on_probe")
        self.axis, self.step, self.neighbours = AXES[axis], step, neighbours
        self.encoder_name, self.aggregator_name = encoder, aggregator
        height, width = (side for index, side in enumerate(spec.image_size) if index != self.axis)
        seen = DataSpec(spec.task, spec.channels * (2 * neighbours + 1), (height, width), spec.class_counts)
        self.encoder = create_backbone(encoder, seen, encoder_args or {}, option="encoder")
        self.start = find_start(None, pretrained)
        if self.start is not None:
            self.start.load(self.encoder)
        self._take_scaling(mean, std, seen.channels)
        features = self._width(seen)
        if aggregator in TORCHMIL:
            # Their losses and graphs are of bags, and maps of slices show contributions, which they do not give.
            raise InputError(f"model.aggregator {aggregator} is for bags of encoded tiles (--config histo)")
        try:
            options = aggregator_args or {}
            self.aggregator = build_aggregator(aggregator, features, self.objective.outputs, **options)
        except (ValueError, TypeError) as error:
            raise InputError(f"model.aggregator {aggregator}, aggregator_args {options}: {error}") from None
        self.begin()

    @classmethod
    def complete(
        cls, model: MutableMapping[str, Any], transforms: MutableMapping[str, Any], typed: Sequence[str]
    ) -> list[str]:
        """Fill in what a pretrained encoder decides, see ``medsoft.encoders.start.complete_slices``."""
        return complete_slices(model, transforms, typed, timm.is_model(str(model["encoder"])))

    def _take_scaling(self, mean: list[float] | None, std: list[float] | None, channels: int) -> None:
        """Mean and deviation for each channel of a slice, which no checkpoint needs to hold.

        Weights for three colours are given to more channels in turn, and to a single one as their sum (timm's
        ``adapt_input_conv``); so are mean and deviation, the latter as their means.

        Raises:
            InputError: only one of the two is given, or a pretrained encoder has none.
        """
        if (mean is None) != (std is None):
            raise InputError("model.mean and model.std go together: give both, or neither")
        if mean is None or std is None:
            if self.start is not None:
                raise InputError(f"model.pretrained {self.start.name}: needs model.mean and model.std")
            self.mean_C = self.std_C = None
            return
        if len(mean) != len(std) or not std or min(std) <= 0:
            raise InputError(f"model.mean {mean}, model.std {std}: as many numbers each, and deviations above 0")
        for name, values in (("mean_C", mean), ("std_C", std)):
            taken = [sum(values) / len(values)] if channels == 1 else [values[i % len(values)] for i in range(channels)]
            self.register_buffer(name, torch.tensor(taken), persistent=False)

    @property
    def pretrained_part(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def _width(self, seen: DataSpec) -> int:
        try:
            with torch.no_grad():
                features: Tensor = self.encoder.eval()(torch.zeros(1, seen.channels, *seen.image_size))
        except (RuntimeError, ValueError, AssertionError) as error:
            size = " x ".join(map(str, seen.image_size))
            raise InputError(
                f"model.encoder: takes no slices of {size} px, {seen.channels} channels: {error}"
            ) from None
        if features.ndim != 2:
            raise InputError(
                f"model.encoder: gives {tuple(features.shape)}, not one vector per slice; choose a pooling"
            )
        return int(features.shape[1])

    def slice_features(self, volume_BCXYZ: Tensor) -> Tensor:
        """Features (B, N, F) of the N slices that are taken, scaled as the encoder's pictures were."""
        slices_BNCHW = self.slices(volume_BCXYZ)
        if self.mean_C is not None and self.std_C is not None:
            slices_BNCHW = (slices_BNCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        features: Tensor = self.encoder(slices_BNCHW.flatten(0, 1))
        return features.reshape(*slices_BNCHW.shape[:2], -1)

    def slices(self, volume_BCXYZ: Tensor) -> Tensor:
        """Slices (B, N, C · (2 · neighbours + 1), H, W)."""
        ordered_BNCHW = volume_BCXYZ.movedim(2 + self.axis, 1)
        depth = ordered_BNCHW.shape[1]
        centres = torch.arange(0, depth, self.step, device=volume_BCXYZ.device)
        around = torch.arange(-self.neighbours, self.neighbours + 1, device=volume_BCXYZ.device)
        index = (centres[:, None] + around).clamp(0, depth - 1)
        return ordered_BNCHW[:, index].flatten(2, 3)

    def forward(self, volume_BCXYZ: Tensor, covariates_BN: Tensor | None = None) -> Tensor:
        """Volumes (B, C, X, Y, Z) to logits (B, K), float32.

        Raises:
            ValueError: covariates are missing, or there are none to be given.
        """
        if (covariates_BN is None) != (self.covariates is None):
            raise ValueError("give covariates only to a model that was trained with them")
        logits: Tensor = self.aggregator(self.slice_features(volume_BCXYZ)).float()
        return logits if self.covariates is None else logits + self.covariates(covariates_BN)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, K) of a batch of volumes."""
        logits: Tensor = self(batch["image"], batch.get("covariates"))
        return logits

    @property
    def last_layer(self) -> nn.Module:
        """The aggregator's: what it reads is the volume's embedding."""
        return self.aggregator.head

    def all_parameter_groups(self) -> list[dict[str, Any]]:
        """Earlier layers of the encoder learn slower where ``layer_decay`` says so."""
        nothing = nn.ModuleList([])
        own = parameter_groups(self.encoder, nothing, self.lr, self.weight_decay, self.layer_decay)
        groups = [*own, *aggregator_groups(self.aggregator, self.lr, self.weight_decay)]
        if self.covariates is not None:
            groups += aggregator_groups(self.covariates, self.lr, self.weight_decay)
        return groups

    def facts(self) -> dict[str, Any]:
        """What it is built of."""
        slices = {"axis": self.axis, "step": self.step, "neighbours": self.neighbours}
        shown = {"channels": self.spec.channels, "image_size": list(self.spec.image_size)}
        return {"encoder": self.encoder_name, "slice_aggregator": self.aggregator_name, "slices": slices, **shown}
