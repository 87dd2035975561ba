"""Slides: an aggregator over bags of encoded tiles, and the objective of the task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.data.bag_files import differences
from medsoft.data.bags.facts import EncoderIdentity
from medsoft.errors import InputError
from medsoft.learn.bundle import Bundle
from medsoft.learn.checkpoint_file import checkpoint_file
from medsoft.learn.checkpoint_io import AtomicCheckpointIO
from medsoft.learn.optimisation import aggregator_groups
from medsoft.learn.table_classifier import TableClassifier
from medsoft.models.aggregators import Aggregator, build_aggregator, can_stream, stream_logits
from medsoft.task import BagSpec, Task


class SlideClassifier(TableClassifier):
    """An aggregator whose logits answer the task.

    Args:
        spec: what the model must know of the bags; comes from the data module.
        aggregator: one of mean, max, abmil, transformer.
        aggregator_args: its options, such as {attention: seqnorm, dim: 256, depth: 2, coordinates: true, drop: 0.1}.
        lr: peak learning rate of AdamW.
        weight_decay: weight decay of matrices; vectors and the class token have none.
        warmup_epochs: epochs of linear warm-up before the cosine.
        final_lr: last learning rate as a fraction of the peak.
        class_weights: balanced weighs each class by the inverse of its frequency in the training part.
        label_smoothing: share of the target that is spread over all classes; not for ordinal tasks.
        regression_loss: of a regression: huber (squares up to one standard deviation, then linear), or mse.
    """

    def __init__(
        self,
        spec: BagSpec,
        aggregator: str = "transformer",
        aggregator_args: dict[str, Any] | None = None,
        lr: float = 3e-4,
        weight_decay: float = 0.05,
        warmup_epochs: float = 2.0,
        final_lr: float = 0.01,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
        regression_loss: Literal["huber", "mse"] = "huber",
    ) -> None:
        super().__init__(
            spec, lr, weight_decay, warmup_epochs, final_lr, class_weights, label_smoothing, regression_loss
        )
        self.aggregator_name, self.aggregator_options = aggregator, dict(aggregator_args or {})
        self.aggregator = _build(aggregator, spec.num_features, self.objective.outputs, self.aggregator_options)
        if self.aggregator_options.get("coordinates") and not spec.has_places:
            raise InputError(
                "model.aggregator_args: coordinates needs the places of all tiles in µm, in one slide a bag. Some "
                "feature files do not know their slide's resolution, or data.group patient pools several slides: "
                "leave out coordinates"
            )

    def forward(self, x_BNF: Tensor, mask_BN: Tensor | None = None, coords_BN2_um: Tensor | None = None) -> Tensor:
        """Features (B, N, F), mask (B, N) and places (B, N, 2) to logits (B, K), float32."""
        logits_BK: Tensor = self.aggregator(x_BNF, mask_BN, coords_BN2_um)
        return logits_BK.float()

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Logits (B, K) of a batch of bags; of one bag in pieces without holding it, where the aggregator can."""
        if "pieces" in batch:
            if can_stream(self.aggregator):
                return stream_logits(self.aggregator, batch["pieces"]).float()
            features, places = zip(*batch["pieces"](), strict=True)
            x_1NF = torch.cat(features)[None].to(self.device)
            whole: Tensor = self(x_1NF, None, None if places[0] is None else torch.cat(places)[None].to(self.device))
            return whole
        logits_BK: Tensor = self(batch["features"], batch.get("mask"), batch.get("coords_um"))
        return logits_BK

    @property
    def last_layer(self) -> nn.Module:
        """The aggregator's: what it reads is the slide's embedding."""
        return self.aggregator.head

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One learning rate for all of it."""
        return aggregator_groups(self.aggregator, self.lr, self.weight_decay)

    def facts(self) -> dict[str, Any]:
        """All that the aggregator is built from, and how the slides became features."""
        aggregator = {
            "name": self.aggregator_name,
            "num_features": self.spec.num_features,
            "num_classes": self.objective.outputs,
            "options": self.aggregator_options,
        }
        return {"aggregator": aggregator, "slides": self.spec.slides, "features": self.spec.identity}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another task, or that were trained on other features than the bags at hand have.

        Raises:
            InputError: the task or the features differ; says in what.
        """
        super().on_load_checkpoint(checkpoint)
        known = checkpoint["medsoft"]
        if "aggregator" not in known:
            raise InputError("the checkpoint is of a classifier of images, not of slides")
        trained = (EncoderIdentity(**known["features"]), int(known["aggregator"]["num_features"]))
        if differing := differences(trained, (EncoderIdentity(**self.spec.identity), self.spec.num_features)):
            raise InputError(
                "these feature files are not what the checkpoint was trained on: "
                f"{differing}. Encode the slides as those of the training (medsoft slides encode)"
            )


@dataclass(frozen=True)
class LoadedSlideClassifier:
    """A trained slide classifier, made from its checkpoint alone.

    Attributes:
        model: in evaluation mode, on the CPU; ``model.objective.probabilities(logits)`` gives (B, C).
        task: the question.
        slides: how slides must become features (``encoder``, ``encoder_sha256``, ``encoder_init``,
            ``encoder_settings``, ``tile_settings``, ``tile_px``, ``tile_um``, ``overlap_px``, ``mpp``); None where the
            features came from another tool.
        features: ``dataclasses.asdict`` of the ``EncoderIdentity`` of the bags it was trained on.
    """

    model: SlideClassifier
    task: Task
    slides: dict[str, Any] | None
    features: dict[str, str]

    @property
    def aggregator(self) -> Aggregator:
        """The network, without the loss: what shares and chunked reading are asked of."""
        return self.model.aggregator

    @torch.no_grad()
    def probabilities(self, logits_BK: Tensor) -> Tensor:
        """(B, C) in the order of ``task.classes``."""
        return self.model.objective.probabilities(logits_BK.float())


def load_slide_classifier(source: Path | Bundle) -> LoadedSlideClassifier:
    """A slide classifier from the checkpoint of ``medsoft fit --config histo``, or from a bundle, and nothing besides.

    Args:
        source: a checkpoint's file, the folder of a run, for its best checkpoint; or a bundle.

    Raises:
        InputError: no such file, or no slide classifier.
    """
    if isinstance(source, Bundle):
        path, state = source.path, source.state()
    else:
        path = checkpoint_file(source)
        state = AtomicCheckpointIO().load_checkpoint(path)
    known = state.get("medsoft", {})
    if not known.keys() >= {"task", "aggregator", "slides", "features"}:
        raise InputError(f"{path}: holds no slide classifier (medsoft fit --config histo)")
    task = Task(known["task"]["kind"], tuple(known["task"]["classes"]))
    about = known["aggregator"]
    # What only a training asks for is left at nothing: counts of classes, and places, which predictions bring along.
    nothing = np.zeros(len(task.classes), np.int64)
    scale = known.get("target_scale")
    spec = BagSpec(task, nothing, about["num_features"], True, known["features"], known["slides"], scale)
    model = SlideClassifier(spec, about["name"], about["options"])
    try:
        model.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise InputError(
            f"{path}: its weights do not fit its description: {str(error).splitlines()[1].strip()}"
        ) from None
    return LoadedSlideClassifier(model.eval(), task, known["slides"], known["features"])


def _build(name: str, num_features: int, outputs: int, options: dict[str, Any]) -> Aggregator:
    try:
        return build_aggregator(name, num_features, outputs, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"model.aggregator {name}, aggregator_args {options}: {error}") from None
