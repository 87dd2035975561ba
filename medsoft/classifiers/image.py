"""The classifier for images and volumes: a backbone, a linear head, and the objective of the task."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

import medsoft.models  # noqa: F401 (registers our backbones with timm)
from medsoft.classifiers.fine_tuning import FineTunedClassifier
from medsoft.classifiers.optimizer import parameter_groups
from medsoft.encoders.start import begun_with, complete, find_start
from medsoft.errors import InputError, check_range
from medsoft.models.build import build_network
from medsoft.models.hybrid import Hybrid
from medsoft.models.weights import refuse_fetching
from medsoft.specs import DataSpec


class Classifier(FineTunedClassifier):
    """Any timm backbone, ours among them, with a linear head for the task.

    Args:
        spec: what the model must know of the data; comes from the data module.
        backbone: name of a timm model, such as vit_seqnorm_tiny_patch16_224, vit_softmax_tiny_patch16_224 or resnet18;
            for volumes, one of medsoft's vision transformers, or resnet18_3d, resnet34_3d, resnet50_3d.
        backbone_args: keyword arguments for the backbone, such as {patch_size: 8, depth: 4, global_pool: map}.
        encoder: name of a pretrained encoder (medsoft encoders lists them), or the folder of a medsoft pretrain: the
            backbone, its weights and the scaling of the images in one; with backbone hybrid, its map is read by further
            blocks.
        pretrained: local file with weights for the backbone (.safetensors, a state dict or a checkpoint), or its name
            in MEDSOFT_WEIGHTS, or the name of an encoder; with encoder, the file of its weights.
        dropout: dropout before the head.
        lr: peak learning rate of AdamW.
        **training: see ``FineTunedClassifier``.
    """

    begins_with = ("pretrained", "encoder")
    """Options that a checkpoint makes needless: what the training began with."""

    def __init__(
        self,
        spec: DataSpec,
        backbone: str = "vit_seqnorm_tiny_patch16_224",
        backbone_args: dict[str, Any] | None = None,
        encoder: str | None = None,
        pretrained: str | None = None,
        dropout: float = 0.0,
        lr: float = 1e-3,
        **training: Any,
    ) -> None:
        check_range("model.dropout", dropout, 0, 1)
        super().__init__(spec, lr, **training)
        start = self.start = find_start(encoder, pretrained)
        if encoder is not None:
            assert start is not None
            assert start.recipe is not None
            start.recipe.check_images("model.encoder", spec.channels, len(spec.image_size))
            backbone, backbone_args = begun_with(encoder, backbone, backbone_args)
        self.backbone_name = backbone
        self.backbone = create_backbone(backbone, spec, backbone_args or {})
        if start is not None:
            start.load(self.pretrained_part)
        self.head_drop = nn.Dropout(dropout)
        self.head = nn.Linear(_feature_width(self.backbone, spec), self.objective.outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.begin()

    @classmethod
    def complete(
        cls, model: MutableMapping[str, Any], transforms: MutableMapping[str, Any], typed: Sequence[str]
    ) -> list[str]:
        """Fill in what ``encoder`` and ``pretrained`` decide, see ``medsoft.encoders.start.complete``."""
        return complete(model, transforms, typed)

    def forward(self, image_BCx: Tensor, covariates_BN: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W), or volumes (B, C, X, Y, Z), to logits (B, K), float32.

        Args:
            image_BCx: the images.
            covariates_BN: clinical covariates, NaN where missing; of a model that was trained with some.

        Raises:
            ValueError: covariates are missing, or there are none to be given.
        """
        if (covariates_BN is None) != (self.covariates is None):
            raise ValueError("give covariates only to a model that was trained with them")
        logits: Tensor = self.head(self.head_drop(self.backbone(image_BCx))).float()
        if self.covariates is not None:
            logits = logits + self.covariates(covariates_BN)
        return logits

    @property
    def pretrained_part(self) -> nn.Module:
        """The backbone; of a hybrid its encoder."""
        return self.backbone.encoder if isinstance(self.backbone, Hybrid) else self.backbone

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, K) of a batch of images."""
        logits: Tensor = self(batch["image"], batch.get("covariates"))
        return logits

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks of a vision transformer, or the stages of a residual network; of others none."""
        blocks = getattr(self.backbone, "blocks", None)
        if isinstance(blocks, nn.ModuleList | nn.Sequential) and hasattr(self.backbone, "patch_embed"):
            return list(blocks)
        stages = [getattr(self.backbone, f"layer{number}", None) for number in range(1, 5)]
        return [stage for stage in stages if stage is not None] if all(stages) else []

    def all_parameter_groups(self) -> list[dict[str, Any]]:
        """Earlier layers learn slower where ``layer_decay`` says so."""
        heads = nn.ModuleList([self.head] if self.covariates is None else [self.head, self.covariates])
        return parameter_groups(self.backbone, heads, self.lr, self.weight_decay, self.layer_decay)

    def facts(self) -> dict[str, Any]:
        """The backbone's name, and what it is shown."""
        shown = {"channels": self.spec.channels, "image_size": list(self.spec.image_size)}
        return {"backbone": self.backbone_name, **shown}


def create_backbone(name: str, spec: DataSpec, arguments: dict[str, Any], option: str = "backbone") -> nn.Module:
    """A timm model without a head, for the image size where it must know it.

    Args:
        name: that timm knows.
        spec: of the images.
        arguments: for timm.
        option: of the model that names it, for messages.

    Raises:
        InputError: no model of this name (the nearest are listed), or arguments that it does not take.
    """
    if not timm.is_model(name):
        import difflib

        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise InputError(f"model.{option}: no model {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    refuse_fetching("model.backbone_args", arguments, "model.pretrained")
    try:
        return build_network(name, spec.channels, spec.image_size, arguments, len(spec.image_size))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"model.{option}_args: {name} cannot be built with {arguments}: {error}") from None


def _feature_width(backbone: nn.Module, spec: DataSpec) -> int:
    """Width of the pooled features, as the backbone gives them (timm's attributes differ by architecture)."""
    was_training = backbone.training
    try:
        with torch.no_grad():
            features: Tensor = backbone.eval()(torch.zeros(1, spec.channels, *spec.image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        size = " x ".join(map(str, spec.image_size))
        kind, unit = ("images", "px") if len(spec.image_size) == 2 else ("volumes", "voxels")
        other = "; vit_seqnorm_tiny_patch8_224 and resnet18_3d do" if kind == "volumes" else ""
        raise InputError(
            f"model.backbone: takes no {kind} of {size} {unit}, {spec.channels} channels{other}: {error}"
        ) from None
    backbone.train(was_training)
    if features.ndim != 2:
        raise InputError(f"model.backbone: gives {tuple(features.shape)}, not one vector per image; choose a pooling")
    return int(features.shape[1])
