"""The model that puts boxes around objects: an encoder, a feature pyramid, a head of torchvision."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import medsoft.models  # noqa: F401 (registers our backbones with timm)
from medsoft.classifiers.detection.networks import Found, Network, build_detection_network
from medsoft.classifiers.fine_tuning import FineTunedClassifier
from medsoft.classifiers.optimizer import groups_apart
from medsoft.data.boxes.of_images import Boxes
from medsoft.data.boxes.place import to_input
from medsoft.encoders.start import begun_with, complete, find_start
from medsoft.errors import InputError, check_range
from medsoft.evaluation.detection.answers import pack
from medsoft.evaluation.detection.matching import hits
from medsoft.specs import DataSpec

DIGITS = 6
"""Of a score; the table of predictions and the files of boxes say the same."""

KEYS = ("boxes", "scores", "labels")
"""What torchvision says of the boxes of an image."""


@dataclass(frozen=True, eq=False)
class FoundBoxes:
    """Boxes of an image, best first.

    Attributes:
        corners_D4: x_min, y_min, x_max, y_max in pixels of the image as stored.
        class_D: index of each one's class.
        score_D: from 0 to 1.
        bits_D: which true boxes they hit (``medsoft.evaluation.detection.matching``).
        true: the true boxes; None where they are not known.
    """

    corners_D4: npt.NDArray[np.float64]
    class_D: npt.NDArray[np.int64]
    score_D: npt.NDArray[np.float64]
    bits_D: npt.NDArray[np.int64]
    true: Boxes | None


Writer = Callable[[str, FoundBoxes], None]
"""Takes the name of an image, for files, and its boxes."""


class Detector(FineTunedClassifier):
    """A timm pyramid below a feature pyramid network and a head of torchvision.

    Args:
        spec: what the model must know of the data; comes from the data module.
        backbone: name of a timm model with feature maps of the strides 8, 16 and 32, such as soft_norm_tiny, soft_tiny,
            pvt_v2_b1 or resnet18.
        backbone_args: keyword arguments for the backbone.
        network: retinanet (with anchors) or fcos (without).
        fpn_channels: width of the feature pyramid and of the heads, a multiple of 32, at least 64.
        encoder: name of a pretrained encoder (medsoft encoders lists them), or the folder of a medsoft pretrain: the
            backbone, its weights and the scaling of the images in one.
        pretrained: local file with weights for the backbone, or its name in MEDSOFT_WEIGHTS, or the name of an encoder;
            with encoder, the file of its weights.
        least_score: boxes with a lower score are left out of all tables.
        most_boxes: largest number of boxes of an image.
        called: score from which a box counts in predictions.csv and is drawn in the report; metrics take all boxes.
        lr: peak learning rate of AdamW.
        **training: see ``FineTunedClassifier``.

    Attributes:
        writer: takes the boxes of each predicted image; None for none.
    """

    begins_with = ("pretrained", "encoder")

    def __init__(
        self,
        spec: DataSpec,
        backbone: str = "soft_norm_tiny",
        backbone_args: dict[str, Any] | None = None,
        network: Network = "retinanet",
        fpn_channels: int = 256,
        encoder: str | None = None,
        pretrained: str | None = None,
        least_score: float = 0.05,
        most_boxes: int = 100,
        called: float = 0.5,
        lr: float = 5e-4,
        **training: Any,
    ) -> None:
        if not spec.task.has_boxes:
            raise InputError(f"use.model detector gives boxes, the task is {spec.task.kind}: use.data boxes")
        check_range("model.least_score", least_score, 0, 1)
        check_range("model.called", called, least_score, 1)
        check_range("model.most_boxes", most_boxes, 1)
        super().__init__(spec, lr, **training)
        start = find_start(encoder, pretrained)
        if encoder is not None:
            assert start is not None
            assert start.recipe is not None
            start.recipe.check_images("model.encoder", spec.channels, len(spec.image_size))
            backbone, backbone_args = begun_with(encoder, backbone, backbone_args)
        self.start = start
        self.backbone_name, self.network_name = backbone, network
        self.most_boxes, self.called = most_boxes, called
        self.writer: Writer | None = None
        self.network: Any = build_detection_network(
            network, backbone, spec, fpn_channels, backbone_args or {}, start, least_score, most_boxes
        )
        self.begin()

    @classmethod
    def complete(
        cls, model: MutableMapping[str, Any], transforms: MutableMapping[str, Any], typed: Sequence[str]
    ) -> list[str]:
        """Fill in what ``encoder`` and ``pretrained`` decide, see ``medsoft.encoders.start.complete``."""
        return complete(model, transforms, typed)

    @property
    def pretrained_part(self) -> nn.Module:
        """The backbone below the feature pyramid."""
        body: nn.Module = self.network.backbone.body
        return body

    def all_parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone and the rest apart, as the backbone may rest at first."""
        return groups_apart(self.network, self.pretrained_part, self.lr, self.weight_decay)

    def facts(self) -> dict[str, Any]:
        """The network's parts, and what it is shown."""
        shown = {"channels": self.spec.channels, "image_size": list(self.spec.image_size)}
        return {"backbone": self.backbone_name, "network": self.network_name, **shown}

    def forward(self, image: Tensor) -> Found:
        """Images (B, C, H, W) to the ``boxes``, ``scores`` and ``labels`` of each, in its pixels, best first."""
        found: Found = self.network(list(image))
        return found

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Class logits (B, A, K) of all anchors A of a batch of images."""
        maps = list(self.network.backbone(batch["image"]).values())
        logits: Tensor = self.network.head(maps)["cls_logits"].float()
        return logits

    def training_loss(self, batch: dict[str, Any]) -> Tensor:
        """The sum of the network's losses, the mean over the batch.

        Focal loss and L1 of corners for RetinaNet; focal loss, GIoU and centre-ness for FCOS.
        """
        targets = [
            {"boxes": boxes, "labels": labels} for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True)
        ]
        was_training = self.network.training
        self.network.training = True  # its own flag alone: its parts stay in their modes, and batch statistics rest
        try:
            losses: dict[str, Tensor] = self.network(list(batch["image"]), targets)
        finally:
            self.network.training = was_training
        return torch.stack(list(losses.values())).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        n = len(batch["index"])
        losses = self.training_loss(batch).float().expand(n)
        answers = self._answers(batch, None)
        nothing = losses.new_zeros(n, 1)
        self._outputs.append((batch["index"], answers, batch["target"], losses, nothing))

    def diverged(self, answers: np.ndarray, losses: np.ndarray) -> bool:
        """Whether the losses are no numbers; the answers of images without known boxes are undefined."""
        return not np.isfinite(losses).all()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> tuple[Tensor, ...]:
        """(index of the sample in its data set (B,), numbers of its boxes (B, W)); hands the boxes to ``writer``.

        The numbers are those of ``medsoft.evaluation.detection.answers.pack``.
        """
        return batch["index"], self._answers(batch, self.writer)

    def _answers(self, batch: dict[str, Any], writer: Writer | None) -> Tensor:
        rows, classes = [], len(self.spec.task.classes)
        for index, one in enumerate(self(batch["image"])):
            found = self._in_input(one, batch["placement"][index], batch["stored"][index], batch["true"][index])
            true_C = np.full(classes, np.nan)
            if found.true is not None:
                true_C = np.bincount(found.true.class_N, minlength=classes).astype(np.float64)
            what = (found.class_D, found.score_D, found.bits_D)
            rows.append(pack(classes, self.most_boxes, *what, self.called, true_C))
            if writer is not None:
                writer(batch["name"][index], found)
        return torch.from_numpy(np.stack(rows))

    def _in_input(
        self, one: dict[str, Tensor], placement: Any, stored: tuple[int, int], known: tuple[Any, Any] | None
    ) -> FoundBoxes:
        corners, scores, labels = (one[name].float().cpu().numpy().astype(np.float64) for name in KEYS)
        corners, share = to_input(corners, placement, stored)
        order = np.argsort(-scores, kind="stable")
        order = order[(share > 0)[order]]  # what lies in the black around the image is gone
        corners, scores, class_D = corners[order], scores[order], labels[order].astype(np.int64)
        scores = np.array([float(f"{score:.{DIGITS}g}") for score in scores], np.float64)
        bits = np.zeros(len(scores), np.int64)
        true = None if known is None else Boxes(*known)
        if true is not None:
            bits = hits(corners, class_D, true.corners_N4, true.class_N)
        return FoundBoxes(corners, class_D, scores, bits, true)
