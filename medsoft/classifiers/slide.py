"""The classifier for slides: an aggregator over bags of encoded tiles, and the objective of the task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.classifiers.base import TableClassifier
from medsoft.classifiers.optimizer import aggregator_groups
from medsoft.classifiers.pixel_statistics import bag_statistic_names, bag_statistics
from medsoft.classifiers.probe_training import stand_on_probe
from medsoft.data.datasets.bag_index import differences
from medsoft.data.datasets.feature_scale import Scale
from medsoft.data.features.provenance import EncoderIdentity
from medsoft.errors import InputError
from medsoft.models.aggregators import SOLVED, Aggregator, OnProbe, Standardise, build_aggregator, read_logits
from medsoft.models.covariates import restore_covariates
from medsoft.runs.bundle import Bundle
from medsoft.runs.checkpoint_io import AtomicCheckpointIO
from medsoft.runs.checkpoint_paths import checkpoint_file
from medsoft.specs import BagSpec, Covariates
from medsoft.task import Task


class SlideClassifier(TableClassifier):
    """An aggregator whose logits answer the task.

    Args:
        spec: what the model must know of the bags; comes from the data module.
        aggregator: aggregator: mean, max, abmil or transformer; or a model of torchmil, such as torchmil:TransMIL
            (needs medsoft[mil]).
        aggregator_args: its options, such as {attention: seqnorm, dim: 256, depth: 2, coordinates: true, drop: 0.1}.
        lr: peak learning rate of AdamW.
        **training: see ``TableClassifier``.
    """

    def __init__(
        self,
        spec: BagSpec,
        aggregator: str = "transformer",
        aggregator_args: dict[str, Any] | None = None,
        lr: float = 3e-4,
        **training: Any,
    ) -> None:
        super().__init__(spec, lr, **training)
        self.aggregator_name, self.aggregator_options = aggregator, dict(aggregator_args or {})
        if self.aggregator_options.get("coordinates") is True and spec.frame != "um":
            self.aggregator_options["coordinates"] = spec.frame
        self._correction: Tensor | None = None
        self.aggregator = _build(aggregator, spec.num_features, self.objective.outputs, self.aggregator_options)
        of_two = self.objective.link == "softmax" and self.objective.outputs == 2
        if (reason := self.aggregator.two_classes_only) and not of_two:
            raise InputError(
                f"model.aggregator {aggregator} can only tell two classes ({reason}), and the task is "
                f"{spec.task.kind}: take another aggregator"
            )
        self._check_places(spec)

    def _check_places(self, spec: BagSpec) -> None:
        """Refuse an aggregator that needs the places of the tiles where bags have none."""
        if self.aggregator.needs_coordinates and not spec.has_coordinates:
            raise InputError(
                f"model.aggregator {self.aggregator_name} makes a graph from the places of a bag's tiles, and these "
                "feature files have none, or data.group patient pools several slides: take another aggregator"
            )
        if self.aggregator_options.get("coordinates") and not spec.has_coordinates:
            if spec.images is not None:
                raise InputError(
                    "model.aggregator_args: coordinates needs the places of all tokens, and some feature files have "
                    "none: encode with --tokens true, or leave out coordinates"
                )
            raise InputError(
                "model.aggregator_args: coordinates needs the places of all tiles, in one slide or image per bag. Some "
                "feature files have no places, or do not know their slide's resolution, or data.group patient pools "
                "several slides: leave out coordinates"
            )

    def forward(
        self,
        x_BNF: Tensor,
        mask_BN: Tensor | None = None,
        coords_BNA: Tensor | None = None,
        covariates_BN: Tensor | None = None,
    ) -> Tensor:
        """Bags to logits (B, K), float32.

        Args:
            x_BNF: features.
            mask_BN: True where a tile is real; None where all are.
            coords_BNA: places, for a model that needs them.
            covariates_BN: clinical covariates, NaN where missing; of a model that was trained with some.

        Raises:
            ValueError: covariates are missing, or there are none to be given.
        """
        return self.with_covariates(self.aggregator(x_BNF, mask_BN, coords_BNA), covariates_BN)

    def with_covariates(self, logits_BK: Tensor, covariates_BN: Tensor | None) -> Tensor:
        """An aggregator's logits, and what covariates add to them; float32; raises as ``forward``."""
        if (covariates_BN is None) != (self.covariates is None):
            raise ValueError("give covariates only to a model that was trained with them")
        if self.covariates is None:
            return logits_BK.float()
        added_BK: Tensor = self.covariates(covariates_BN)
        return logits_BK.float() + added_BK

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Logits (B, K) of a batch of bags; of one bag in pieces without holding it, where the aggregator can.

        In training, what stands on a probe is seen beside the probe's logits of rows that it was not solved for.
        """
        if "pieces" in batch:
            return self.with_covariates(read_logits(self.aggregator, batch["pieces"]), batch.get("covariates"))
        logits_BK: Tensor = self(batch["features"], batch.get("mask"), batch.get("coords"), batch.get("covariates"))
        if self.training and self._correction is not None:
            logits_BK = logits_BK + self._correction[batch["index"]]
        return logits_BK

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss over a batch of bags, with those that the aggregator brings of its own."""
        loss = super().training_loss(batch)
        return self.aggregator.with_own_losses(loss, self.objective.loss, batch["target"])

    @property
    def solves_probe(self) -> bool:
        """Whether a training begins with the solution of a probe."""
        return isinstance(self.aggregator, OnProbe)

    @property
    def last_layer(self) -> nn.Module:
        """The aggregator's: what it reads is the slide's embedding."""
        return self.aggregator.head

    def input_statistics(self, batch: dict[str, Any]) -> Tensor:
        """Statistics of each bag's features (B, 2 · F + 1); see ``bag_statistics``."""
        if "pieces" in batch:
            return bag_statistics(features for features, _ in batch["pieces"]())[None]
        masks = batch.get("mask")
        bags = [x_NF if masks is None else x_NF[masks[index]] for index, x_NF in enumerate(batch["features"])]
        return torch.stack([bag_statistics([x_NF]) for x_NF in bags])

    @property
    def input_names(self) -> list[str]:
        """Names of the columns of ``input_statistics``."""
        return bag_statistic_names(int(self.spec.num_features))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One learning rate for all of it; beside a probe the first epoch has none, so that the probe is validated."""
        groups = aggregator_groups(self.aggregator, self.lr, self.weight_decay)
        if self.covariates is not None:
            groups += aggregator_groups(self.covariates, self.lr, self.weight_decay)
        rest = {"rest_epochs": 1} if isinstance(self.aggregator, OnProbe) else {}
        return [group | rest for group in groups]

    def facts(self) -> dict[str, Any]:
        """All that the aggregator is built from, and how the slides became features."""
        aggregator = {
            "name": self.aggregator_name,
            "num_features": self.spec.num_features,
            "num_classes": self.objective.outputs,
            "options": self.aggregator_options,
        }
        made = {"slides": self.spec.slides, "images": self.spec.images, "features": self.spec.identity}
        return {"aggregator": aggregator, "group": self.spec.group, **made}

    def check_training(self, config: Any, data: Any) -> None:
        """Refuse an aggregator of a probe, which learns nothing in steps, and a single epoch beside a probe.

        Raises:
            InputError: it is one, or there is one.
        """
        if self.aggregator_name in SOLVED:
            raise InputError(f"model.aggregator {self.aggregator_name} is that of --config probe --model.head knn")
        if not isinstance(self.aggregator, OnProbe):
            return
        if self.task.parts:
            raise InputError(
                "model.aggregator_args: on_probe begins with a model of one target: with data.targets say "
                "--model.aggregator_args.on_probe false"
            )
        if self.objective.link == "hazard" and self.objective.outputs > 1:
            raise InputError(
                "model.aggregator_args: on_probe needs model.survival cox, whose linear model can be solved first; or "
                "say on_probe: false"
            )
        if config.trainer.max_epochs == 1:
            raise InputError(
                "model.aggregator_args: with on_probe the first epoch validates the probe alone: raise "
                "trainer.max_epochs to 2 or more, or use --config probe"
            )

    def on_fit_start(self) -> None:
        """Learn what the features of the training part are like, where they are standardised, and solve the probe."""
        trainer: Any = self.trainer
        if self.aggregator_options.get("standardise"):
            self.standardise_by(trainer.datamodule.dataset("train").scale())
        if isinstance(self.aggregator, OnProbe):
            part, dataset = trainer.datamodule.part("train"), trainer.datamodule.dataset("train")
            chosen, correction_NK = stand_on_probe(self.aggregator, part, dataset, self.objective)
            self._correction = correction_NK.to(self.device)
            if trainer.is_global_zero:
                loss = "" if chosen.loss is None else f", loss {chosen.loss:.4f} on rows held out"
                print(f"Stands on a linear probe of {len(part)} rows: C = {chosen.value:g}{loss}", flush=True)

    def standardise_by(self, scale: Scale) -> None:
        """Take means and deviations of features."""
        first: Any = self.aggregator.tile
        cast(Standardise, first[0]).learn(torch.from_numpy(scale.mean_F), torch.from_numpy(scale.sd_F))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another task, or that were trained on other features than the bags at hand have.

        Raises:
            InputError: the task or the features differ; says in what.
        """
        super().on_load_checkpoint(checkpoint)
        known = checkpoint["medsoft"]
        if "aggregator" not in known:
            raise InputError("the checkpoint is of a classifier of images, not of bags")
        trained_on, here = known.get("group") or self.spec.group, self.spec.group
        if trained_on != here:
            bag = {"patient": "all slides of a patient", "slide": "a single slide"}
            self.differences = [
                f"WARNING: the model was trained on bags of {bag[trained_on]} (data.group {trained_on}), and here a "
                f"bag is {bag[here]} (data.group {here}): its predictions are of another kind of bag"
            ]
        trained = (EncoderIdentity(**known["features"]), int(known["aggregator"]["num_features"]))
        if differing := differences(trained, (EncoderIdentity(**self.spec.identity), self.spec.num_features)):
            advice = ""
            if known.get("images") is not None:
                advice = (
                    "Leave out --data.features, then the images are encoded as those of the training; or encode them "
                    "so (medsoft encode)"
                )
            elif trained[0].origin == "medsoft":
                advice = "Encode the slides as those of the training (medsoft slides encode)"
            raise InputError(
                f"these feature files are not what the checkpoint was trained on: {differing}. {advice}".rstrip()
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
        covariates: columns of the clinical covariates that it takes beside a bag; often none.
        group: what one bag of the training was of, "slide" or "patient"; None where the checkpoint (of version 0.1)
            does not say it.
    """

    model: SlideClassifier
    task: Task
    slides: dict[str, Any] | None
    features: dict[str, str]
    covariates: tuple[str, ...]
    group: str | None

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
    task = Task.from_json(known["task"])
    about = known["aggregator"]
    # What only a training asks for is left at nothing: counts of classes, and places, which predictions bring along.
    nothing = np.zeros(len(task.classes), np.int64)
    scale = known.get("target_scale")
    made = {"slides": known["slides"], "images": known.get("images")}
    beside, group = known.get("covariates"), known.get("group")
    names = tuple(beside["names"]) if beside else ()
    made |= {"covariates": Covariates(names, None) if names else None, "group": group or "slide"}
    spec = BagSpec(task, nothing, about["num_features"], True, known["features"], target_scale=scale, **made)
    hazards = known.get("hazards", {})
    intervals = len(hazards["cuts"]) if "cuts" in hazards else None
    model = SlideClassifier(spec, about["name"], about["options"], survival=hazards.get("head"), intervals=intervals)
    model.objective.restore(known)
    try:
        model.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise InputError(
            f"{path}: its weights do not fit its description: {str(error).splitlines()[1].strip()}"
        ) from None
    restore_covariates(model.covariates, beside)
    return LoadedSlideClassifier(model.eval(), task, known["slides"], known["features"], names, group)


def _build(name: str, num_features: int, outputs: int, options: dict[str, Any]) -> Aggregator:
    try:
        return build_aggregator(name, num_features, outputs, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"model.aggregator {name}, aggregator_args {options}: {error}") from None
