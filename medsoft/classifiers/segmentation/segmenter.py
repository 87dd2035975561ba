"""The model that says the class of every pixel: an encoder, a decoder, and masks on the grid of the input."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import medsoft.models  # noqa: F401 (registers our backbones with timm)
from medsoft.classifiers.fine_tuning import FineTunedClassifier
from medsoft.classifiers.optimizer import aggregator_groups
from medsoft.classifiers.segmentation.measure import measure
from medsoft.classifiers.segmentation.networks import Decoder, build_segmentation_network
from medsoft.classifiers.segmentation.objective import Loss, MaskObjective
from medsoft.data.masks.place import to_input
from medsoft.data.masks.read import BACKGROUND, Mask, MaskValues
from medsoft.data.masks.write import write_mask
from medsoft.encoders.start import begun_with, complete, find_start
from medsoft.errors import InputError, check_range
from medsoft.specs import SegmentationSpec

WINDOWS = 4
"""Windows of a large image in one step of the network."""


class Segmenter(FineTunedClassifier):
    """A timm pyramid below a decoder of segmentation-models-pytorch.

    Args:
        spec: what the model must know of the data; comes from the data module.
        backbone: name of a timm model with a pyramid of feature maps, such as soft_norm_tiny, soft_tiny, pvt_v2_b1 or
            resnet18.
        backbone_args: keyword arguments for the backbone.
        decoder: upernet, fpn, unet or segformer.
        encoder: name of a pretrained encoder (medsoft encoders lists them), or the folder of a medsoft pretrain: the
            backbone, its weights and the scaling of the images in one.
        pretrained: local file with weights for the backbone, or its name in MEDSOFT_WEIGHTS, or the name of an encoder;
            with encoder, the file of its weights.
        loss: dice_ce (soft Dice and cross-entropy), dice_focal or tversky.
        overlap: share of a window that the next one shows again, where images are predicted window by window
            (data.patches).
        tolerance: distance in pixels within which outlines agree, of the surface Dice.
        lr: peak learning rate of AdamW.
        **training: see ``FineTunedClassifier``.
    """

    begins_with = ("pretrained", "encoder")

    def __init__(
        self,
        spec: SegmentationSpec,
        backbone: str = "soft_norm_tiny",
        backbone_args: dict[str, Any] | None = None,
        decoder: Decoder = "fpn",
        encoder: str | None = None,
        pretrained: str | None = None,
        loss: Loss = "dice_ce",
        overlap: float = 0.5,
        tolerance: float = 2.0,
        lr: float = 1e-3,
        **training: Any,
    ) -> None:
        check_range("model.overlap", overlap, 0, 0.9)
        check_range("model.tolerance", tolerance, 0)
        if not spec.task.has_masks:
            raise InputError(f"use.model segmenter gives masks, the task is {spec.task.kind}: use.data masks")
        super().__init__(spec, lr, **training)
        self.objective = MaskObjective(self.objective.outputs, loss)
        start = find_start(encoder, pretrained)
        if encoder is not None:
            assert start is not None
            assert start.recipe is not None
            start.recipe.check_images("model.encoder", spec.channels, len(spec.image_size))
            backbone, backbone_args = begun_with(encoder, backbone, backbone_args)
        self.start = start
        self.backbone_name, self.decoder_name = backbone, decoder
        outputs, arguments = self.objective.outputs, backbone_args or {}
        self.backbone: Any = build_segmentation_network(decoder, backbone, spec, outputs, arguments, start)
        self.overlap, self.tolerance = overlap, tolerance
        self.values: MaskValues = spec.values
        self.masks: Path | None = None
        self.others: tuple[Segmenter, ...] = ()
        self.begin()

    @classmethod
    def complete(
        cls, model: MutableMapping[str, Any], transforms: MutableMapping[str, Any], typed: Sequence[str]
    ) -> list[str]:
        """Fill in what ``encoder`` and ``pretrained`` decide, see ``medsoft.encoders.start.complete``."""
        return complete(model, transforms, typed)

    @property
    def pretrained_part(self) -> nn.Module:
        """The encoder."""
        encoder: nn.Module = self.backbone.encoder
        return encoder

    def all_parameter_groups(self) -> list[dict[str, Any]]:
        """Encoder and decoder apart, as the encoder may rest at first."""
        encoder = set(map(id, self.pretrained_part.parameters()))
        groups = aggregator_groups(self.backbone, self.lr, self.weight_decay)
        parts = []
        for group in groups:
            for inside in (True, False):
                parameters = [p for p in group["params"] if (id(p) in encoder) == inside]
                parts.append(group | {"params": parameters})
        return parts

    def facts(self) -> dict[str, Any]:
        """The network's parts, and what it is shown."""
        shown = {"channels": self.spec.channels, "image_size": list(self.spec.image_size)}
        return {"backbone": self.backbone_name, "decoder": self.decoder_name, **shown}

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K, H, W), float32; larger ones than the model is made for by windows."""
        size = tuple(self.spec.image_size)
        if tuple(image.shape[2:]) == size:
            logits: Tensor = self.backbone(image)
            return logits.float()
        from monai.inferers import sliding_window_inference

        found = sliding_window_inference(image, size, WINDOWS, self.backbone, overlap=self.overlap, mode="gaussian")
        assert isinstance(found, Tensor)
        return found.float()

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, K, H, W) of a batch of images."""
        found: Tensor = self(batch["image"])
        return found

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Overlap on the input's own grid; distances of outlines wait for the predictions."""
        logits = self.logits(batch)
        target = batch["target"]
        losses = torch.stack([self.objective.loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))])
        answers = self._answers(batch, logits, surfaces=False)
        known = [1.0 if bool(truth.any()) else float("nan") for truth in batch["truth"]]
        nothing = losses.new_zeros(len(losses), 1)
        self._outputs.append((batch["index"], answers, torch.tensor(known), losses, nothing))

    def diverged(self, answers: np.ndarray, losses: np.ndarray) -> bool:
        """Whether the losses are no numbers; the answers may be undefined."""
        return not np.isfinite(losses).all()

    def join(self, others: Sequence[Segmenter]) -> None:
        """Predict with the mean of the probabilities of this model and of these, which see the same pictures."""
        self.others = tuple(others)

    def on_predict_start(self) -> None:
        """Bring the models of an ensemble to the device."""
        for other in self.others:
            other.to(self.device).eval()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> tuple[Tensor, ...]:
        """(index of the sample in its data set (B,), what is measured of its mask (B, P)); writes the masks."""
        return batch["index"], self._answers(batch, self.logits(batch), surfaces=True, write=True)

    def _answers(self, batch: dict[str, Any], logits: Tensor, surfaces: bool, write: bool = False) -> Tensor:
        p = self.objective.probabilities(logits)
        for other in self.others:
            p = p + other.objective.probabilities(other.logits(batch))
        p_BKhw: np.ndarray = (p / (1 + len(self.others))).cpu().numpy()
        rows = []
        for index, (truth, placement) in enumerate(zip(batch["truth"], batch["placement"], strict=True)):
            known: Mask = truth.cpu().numpy()
            mask = mask_of(p_BKhw[index], placement, known.shape)
            if write and self.masks is not None:
                write_mask(self.masks / f"{batch['name'][index]}.png", self.values.decoded(mask))
            classes = len(self.spec.task.classes)
            rows.append(measure(mask, known, classes, (1.0,) * mask.ndim, self.tolerance, surfaces))
        return torch.from_numpy(np.stack(rows))


def mask_of(p_Khw: np.ndarray, placement: Any, size: tuple[int, ...]) -> Mask:
    """The most probable class of each pixel of the input; background where the model was not shown it.

    Args:
        p_Khw: (K, h, w) probabilities on the grid of the prepared picture.
        placement: of that in the input.
        size: (H, W) of the input.

    Returns:
        (H, W) uint8, see ``medsoft.data.masks.read``.
    """
    p_KHW, seen = to_input(p_Khw.astype(np.float32), placement, (size[0], size[1]))
    mask: Mask = p_KHW.argmax(axis=0).astype(np.uint8) + np.uint8(BACKGROUND)
    mask[~seen] = BACKGROUND
    return mask
