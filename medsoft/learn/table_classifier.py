"""The LightningModule that answers a sample table's question: the objective, its steps, and what a checkpoint says."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from medsoft.data.sampling import EpochBatchSampler
from medsoft.data.transforms.views import AnyView
from medsoft.errors import InputError, RunError, check_range
from medsoft.evaluation.metrics import headline, score
from medsoft.evaluation.predictions import make_predictions
from medsoft.learn.covariates import CovariateHead, restore_covariates
from medsoft.learn.familiar import Familiar
from medsoft.learn.objectives import Quantity, build_objective
from medsoft.learn.optimisation import WarmupCosine
from medsoft.learn.processes import of_all_processes
from medsoft.task import Spec


class TableClassifier(LightningModule):
    """What classifiers of images and of bags have in common; a subclass makes the network.

    Args:
        spec: what the model must know of the data.
        lr: peak learning rate of AdamW.
        weight_decay: weight decay of matrices and kernels.
        warmup_epochs: epochs of linear warm-up before the cosine.
        final_lr: last learning rate as a fraction of the peak.
        class_weights: balanced weighs each class by the inverse of its frequency in the training part.
        label_smoothing: share of the target that is spread over all classes; not for ordinal tasks.
        regression_loss: of a regression: huber, or mse for squares everywhere.

    Raises:
        InputError: a number is out of its range, or an option has no meaning for the task.
    """

    def __init__(
        self,
        spec: Spec,
        lr: float,
        weight_decay: float,
        warmup_epochs: float,
        final_lr: float,
        class_weights: Literal["none", "balanced"],
        label_smoothing: float,
        regression_loss: Literal["huber", "mse"] = "huber",
    ) -> None:
        super().__init__()
        check_range("model.lr", lr, 0)
        check_range("model.weight_decay", weight_decay, 0)
        check_range("model.warmup_epochs", warmup_epochs, 0)
        check_range("model.final_lr", final_lr, 0, 1)
        check_range("model.label_smoothing", label_smoothing, 0, 1)
        self.spec: Any = spec
        self.lr, self.weight_decay = lr, weight_decay
        self.warmup_epochs, self.final_lr = warmup_epochs, final_lr
        weights = balanced_weights(spec) if class_weights == "balanced" else None
        try:
            self.objective = build_objective(spec.task, weights, label_smoothing, spec.target_scale, regression_loss)
        except ValueError as error:
            raise InputError(f"model: {error}") from None
        covariates = getattr(spec, "covariates", None)
        self.covariates = CovariateHead(covariates, self.objective.outputs) if covariates else None
        self.views: tuple[AnyView, ...] = ()
        self.familiar: Familiar | None = None
        self._outputs: list[tuple[Tensor, ...]] = []

    @abstractmethod
    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, K) of a batch, float32."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, with ``params``, ``lr`` and ``weight_decay``."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of the network, beside the task: plain numbers and text."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.objective.loss(self.logits(batch), batch["target"])
        share = self._share(batch_idx)
        counted = len(batch["target"]) if share else 0
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=counted, sync_dist=True)
        return loss * share

    def _share(self, batch_idx: int) -> float:
        """What this process's mean counts among those of all processes."""
        if self.trainer.world_size == 1:
            return 1.0
        loader: Any = self.trainer.train_dataloader
        order: EpochBatchSampler = loader.batch_sampler
        return order.share(self.trainer.current_epoch, batch_idx)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self.logits(batch)
        loss = self.objective.loss(logits, batch["target"]).expand(len(logits))
        self._outputs.append((batch["index"], self.objective.probabilities(logits), batch["target"], loss))

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the headline metrics, computed just as they will be from the predictions table.

        Raises:
            RunError: the training has diverged.
        """
        own = (torch.cat(parts).cpu().numpy() for parts in zip(*self._outputs, strict=True))
        self._outputs.clear()
        index, p, target, loss = of_all_processes(*own)
        self.log("val_loss", float(loss.mean(dtype=np.float64)), prog_bar=True)
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

    @property
    def last_layer(self) -> nn.Module:
        """The linear layer whose inputs are the features that the answer is read from."""
        head: Any = self.head
        layer: nn.Module = head
        return layer

    def logits_and_features(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of a batch, and the features (B, D) that they are read from, both float32."""
        with inputs_of(self.last_layer) as seen:
            logits = self.logits(batch)
        return logits, seen[0]

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, ...]:
        """(index of the sample in its data set (B,), probabilities (B, C) or predicted numbers (B, 1)).

        Where there are ``views``, the mean over them. Where it is known what is ``familiar``, the score of the sample
        as it is (B,) follows, float64.
        """
        seen = [batch | {"image": view(batch["image"])} for view in self.views] or [batch]
        logits, features = self.logits_and_features(seen[0])
        answers = [self.objective.probabilities(part) for part in (logits, *map(self.logits, seen[1:]))]
        answer = answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)
        if self.familiar is None:
            return batch["index"], answer
        return batch["index"], answer, torch.from_numpy(self.familiar.score(features.cpu().numpy()))

    def configure_optimizers(self) -> Any:
        # Fused is faster, but unscales gradients by itself in mixed precision, where they then could not be clipped.
        fused = None if "mixed" in str(self.trainer.precision) else True
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=self.lr, fused=fused)
        total = int(self.trainer.estimated_stepping_batches)
        epochs = max(1, self.trainer.max_epochs or 1)
        warmup = min(total - 1, round(total * self.warmup_epochs / epochs))
        schedule = WarmupCosine(optimizer, warmup, total, self.final_lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the weights answer, so that they are never asked another question."""
        checkpoint["medsoft"] = {"task": asdict(self.spec.task), **self.facts()}
        if isinstance(self.objective, Quantity):
            checkpoint["medsoft"]["target_scale"] = self.objective.scale
        if self.covariates is not None:
            checkpoint["medsoft"]["covariates"] = self.covariates.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained for another task, or with other covariates.

        Raises:
            InputError: other task, classes or covariates than the configuration's.
        """
        trained = checkpoint.get("medsoft", {}).get("task")
        asked = asdict(self.spec.task)
        if trained is None or (trained["kind"], list(trained["classes"])) != (asked["kind"], list(asked["classes"])):
            raise InputError(
                f"the checkpoint answers {_describe(trained)}; the configuration and table ask for {_describe(asked)}. "
                "Use the configuration that was saved with the run."
            )
        if isinstance(self.objective, Quantity):
            mean, sd = checkpoint["medsoft"]["target_scale"]
            self.objective.scale = (float(mean), float(sd))
        restore_covariates(self.covariates, checkpoint["medsoft"].get("covariates"))


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """A list that is filled with what the layer reads, (B, D) float32 each time."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().float()))
    try:
        yield seen
    finally:
        hook.remove()


def balanced_weights(spec: Spec) -> Tensor:
    """Inverse class frequencies with mean 1 over the samples; for multilabel negatives over positives, a label.

    A regression has no classes and gets no weights, (0,).
    """
    counts = torch.as_tensor(spec.class_counts, dtype=torch.float32)
    if spec.task.kind == "multilabel":
        return counts[:, 0] / counts[:, 1].clamp(min=1)
    return counts.sum() / (len(counts) * counts.clamp(min=1))


def _describe(task: dict[str, Any] | None) -> str:
    if task is None:
        return "no task that medsoft knows"
    return f"{task['kind']} ({', '.join(task['classes'])})" if task["classes"] else str(task["kind"])
