"""The base LightningModule of all classifiers: objective, steps, and what checkpoints store."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from medsoft.classifiers.optimizer import WarmupCosine
from medsoft.classifiers.out_of_distribution import Detector
from medsoft.classifiers.pixel_statistics import pixel_statistics, statistic_names
from medsoft.classifiers.survival.joint_step import JointStep
from medsoft.data.datasets.sampling import EpochBatchSampler
from medsoft.data.transforms.views import AnyView
from medsoft.errors import InputError, RunError, check_range
from medsoft.evaluation.metrics.score import headline, score
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.models.covariates import CovariateHead, restore_covariates
from medsoft.ops.distributed import of_all_processes, rows_of_all_processes
from medsoft.specs import Spec
from medsoft.task import Task
from medsoft.task_types import KEPT, ObjectiveOptions


class TableClassifier(LightningModule):
    """What classifiers of images and of bags have in common; a subclass makes the network.

    Args:
        spec: what the model must know of the data.
        lr: peak learning rate of AdamW.
        weight_decay: weight decay of matrices and kernels; it is not applied to vectors, position embeddings and
            tokens.
        warmup_epochs: epochs of linear warm-up before the cosine schedule.
        final_lr: final learning rate as a fraction of the peak.
        class_weights: balanced weights each class by the inverse of its frequency in the training part.
        label_smoothing: fraction of the target that is spread evenly over all classes; not for ordinal tasks.
        regression_loss: loss of a regression: huber (quadratic up to one standard deviation, then linear) or mse.
        survival: model of a survival task: cox (proportional hazards; the default), discrete (hazards of intervals of
            time) or logistic (multi-task logistic regression).
        intervals: number of intervals of time, at quantiles of the training part's events, for survival discrete and
            logistic; 8 if not given.

    Attributes:
        differences: how the data at hand differ from those that loaded weights were trained on, where they can still
            be predicted; a sentence each.

    Raises:
        InputError: a number is out of its range, or an option has no meaning for the task.
    """

    def __init__(
        self,
        spec: Spec,
        lr: float,
        weight_decay: float = 0.05,
        warmup_epochs: float = 2.0,
        final_lr: float = 0.01,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
        regression_loss: Literal["huber", "mse"] = "huber",
        survival: Literal["cox", "discrete", "logistic"] | None = None,
        intervals: int | None = None,
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
        try:
            weights = spec.task.class_weights(spec.class_counts) if class_weights == "balanced" else None
            how = (survival, intervals, spec.event_times)
            options = ObjectiveOptions(weights, label_smoothing, spec.target_scale, regression_loss, *how)
            spec.task.check_objective(options)
            self.objective = spec.task.objective(options)
        except ValueError as error:
            raise InputError(f"model: {error}") from None
        self.task = spec.task.answered_by(self.objective.outputs)
        covariates = getattr(spec, "covariates", None)
        self.covariates = CovariateHead(covariates, self.objective.outputs) if covariates else None
        self.views: tuple[AnyView, ...] = ()
        self.detector: Detector | None = None
        self.differences: list[str] = []
        self._outputs: list[tuple[Tensor, ...]] = []
        self._learnt: list[tuple[Tensor, Tensor]] = []
        self._step = JointStep(self)

    @abstractmethod
    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, K) of a batch, float32."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, with ``params``, ``lr`` and ``weight_decay``."""

    def check_training(self, config: Any, data: Any) -> None:
        """Check that the options of a training can be followed, before its folder is begun.

        Args:
            config: the parsed command line.
            data: the data module.

        Raises:
            InputError: one cannot; says which.
        """

    @property
    def kept(self) -> dict[str, Any]:
        """What an evaluation must know of the training part, such as its censoring; often nothing."""
        found: dict[str, Any] = self.objective.state().get(KEPT, {})
        return found

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of the network, beside the task: plain numbers and text."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.objective.joint:
            return self._step(batch, batch_idx)
        loss = self.training_loss(batch)
        share = self.share(batch_idx)
        counted = len(batch["target"]) if share else 0
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=counted, sync_dist=True)
        return loss * share

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss over a batch."""
        logits = self.logits(batch)
        self.keep_learnt(logits, batch["target"])
        return self.objective.loss(logits, batch["target"])

    def keep_learnt(self, logits: Tensor, target: Tensor) -> None:
        """Keep a step's outputs, where predictions need something of the training part."""
        if self.objective.learns:
            self._learnt.append((logits.detach(), target))

    def share(self, batch_idx: int) -> float:
        """What this process's mean counts among those of all processes."""
        if self.trainer.world_size == 1:
            return 1.0
        loader: Any = self.trainer.train_dataloader
        order: EpochBatchSampler = loader.batch_sampler
        return order.share(self.trainer.current_epoch, batch_idx)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self.logits(batch)
        # A joint loss waits for the whole part.
        loss = logits.new_zeros(()) if self.objective.joint else self.objective.loss(logits, batch["target"])
        p = self.objective.probabilities(logits)
        self._outputs.append((batch["index"], p, batch["target"], loss.expand(len(logits)), logits))

    def on_validation_epoch_start(self) -> None:
        """Let predictions know of the training part what the epoch's outputs say; at the end it is learnt exactly."""
        if not self._learnt:
            return
        own = [torch.cat(parts).float().cpu().numpy() for parts in zip(*self._learnt, strict=True)]
        self._learnt.clear()
        self.objective.learn(*(torch.from_numpy(rows) for rows in rows_of_all_processes(*own)))

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the headline metrics, computed just as they will be from the predictions table.

        Raises:
            RunError: the training has diverged.
        """
        own = (torch.cat(parts).cpu().numpy() for parts in zip(*self._outputs, strict=True))
        self._outputs.clear()
        index, p, target, loss, logits = of_all_processes(*own)
        if self.objective.joint:
            loss = self.objective.loss(torch.from_numpy(logits), torch.from_numpy(target)).numpy()
        self.log("val_loss", float(loss.mean(dtype=np.float64)), prog_bar=True)
        if self.diverged(p, loss):
            raise RunError(
                f"the training has diverged in epoch {self.current_epoch + 1}: the model's outputs are not numbers. "
                "Lower model.lr, clip gradients with trainer.gradient_clip_val, or set trainer.precision to 32-true. "
                "Checkpoints of the epochs before are kept"
            )
        frame = make_predictions(self.spec.task, index.astype(str).tolist(), p, target)
        for name, value in headline(score(frame, self.spec.task)).items():
            if value is not None:
                self.log(f"val_{name}", value)

    def diverged(self, answers: np.ndarray, losses: np.ndarray) -> bool:
        """Whether answers (N, C) to the validation part, or its losses (N,), show that the training has failed."""
        return not np.isfinite(answers).all()

    @property
    def last_layer(self) -> nn.Module:
        """The linear layer whose inputs are the features that the answer is read from."""
        head: Any = self.head
        layer: nn.Module = head
        return layer

    @property
    def layers(self) -> list[nn.Module]:
        """Blocks whose outputs the out-of-distribution detector looks at; none: the inputs of the last layer."""
        return []

    def logits_and_layers(self, batch: dict[str, Tensor], last: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K) of a batch, and the features (B, D_l) of each of the ``layers``, all float32.

        Args:
            batch: of samples.
            last: the inputs of the last layer alone, whatever ``layers`` says.
        """
        if last or not self.layers:
            with inputs_of(self.last_layer) as seen:
                logits = self.logits(batch)
            return logits, seen[:1]
        with outputs_of(self.layers) as found:
            logits = self.logits(batch)
        return logits, [found[index] for index in range(len(self.layers))]

    def input_statistics(self, batch: dict[str, Any]) -> Tensor:
        """Statistics of each input (B, S) float32, for the out-of-distribution detector; here of pixels or voxels."""
        return pixel_statistics(batch["image"])

    @property
    def input_names(self) -> list[str]:
        """Names of the columns of ``input_statistics``."""
        return statistic_names(int(self.spec.channels))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, ...]:
        """(index of the sample in its data set (B,), probabilities (B, C) or predicted numbers (B, 1)).

        Where there are ``views``, the mean over them. Where there is a ``detector``, of the sample as it is follow its
        score (B,) float64, the statistics of the input (B, S), and (B, 2) the size of an image as it is stored.
        """
        seen = [batch | {"image": view(batch["image"])} for view in self.views] or [batch]
        of_old_kind = self.detector is not None and self.detector.inputs is None
        logits, layers = self.logits_and_layers(seen[0], last=of_old_kind)
        answers = [self.objective.probabilities(part) for part in (logits, *map(self.logits, seen[1:]))]
        answer = answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)
        if self.detector is None:
            return batch["index"], answer
        inputs = self.input_statistics(batch).cpu()
        score = torch.from_numpy(self.detector.score([one.cpu().numpy() for one in layers], inputs.numpy()))
        return (batch["index"], answer, score, inputs, *([batch["stored_size"]] if "stored_size" in batch else []))

    def configure_optimizers(self) -> Any:
        # Fused is faster, but unscales gradients by itself in mixed precision, where they then could not be clipped.
        fused = None if "mixed" in str(self.trainer.precision) else True
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=self.lr, fused=fused)
        total = int(self.trainer.estimated_stepping_batches)
        epochs = max(1, self.trainer.max_epochs or 1)
        warmup = min(total - 1, round(total * self.warmup_epochs / epochs))
        an_epoch = -(-int(self.trainer.num_training_batches) // self.trainer.accumulate_grad_batches)
        schedule = WarmupCosine(optimizer, warmup, total, self.final_lr, an_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what the weights answer, so that they are never asked another question."""
        checkpoint["medsoft"] = {"task": self.task.to_json(), **self.facts(), **self.objective.state()}
        if scaling := self._scaling():
            checkpoint["medsoft"]["scaling"] = scaling
        if self.covariates is not None:
            checkpoint["medsoft"]["covariates"] = self.covariates.state()

    def _scaling(self) -> dict[str, Any]:
        """How images were scaled, for those who begin with these weights; empty where that is nobody's affair."""
        trainer: Any = self._trainer
        transforms = getattr(getattr(trainer, "datamodule", None), "transforms", None)
        found = {name: getattr(transforms, name) for name in ("mean", "std", "intensity") if hasattr(transforms, name)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained for another task, or with other covariates.

        Raises:
            InputError: other task, classes or covariates than the configuration's.
        """
        known = checkpoint.get("medsoft", {}).get("task")
        trained = None if known is None else Task.from_json(known)
        if trained is None or not trained.asks_the_same(self.spec.task):
            raise InputError(
                f"the checkpoint answers {trained or 'no task that medsoft knows'}; the configuration and table ask "
                f"for {self.spec.task}. Use the configuration that was saved with the run."
            )
        try:
            self.objective.restore(checkpoint["medsoft"])
        except ValueError as error:
            raise InputError(f"{error}. Use the configuration that was saved with the run.") from None
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


@contextmanager
def outputs_of(layers: list[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """A dictionary that is filled with the means (B, D) over places of what each layer gives, float32, by its index."""
    found: dict[int, Tensor] = {}

    def keep(index: int, _: nn.Module, __: Any, output: Tensor) -> None:
        found[index] = pooled(output.detach().float())

    hooks = [layer.register_forward_hook(partial(keep, index)) for index, layer in enumerate(layers)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def pooled(output: Tensor) -> Tensor:
    """Tokens (B, N, D), or maps (B, C, ...), to their means over places (B, D)."""
    return output.mean(dim=1) if output.ndim == 3 else output.flatten(2).mean(dim=2)
