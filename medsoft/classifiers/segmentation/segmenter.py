"""The model that says the class of every pixel: an encoder, a decoder, and masks on the grid of the input."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import medsoft.models  # noqa: F401 (registers our backbones with timm)
from medsoft.classifiers.fine_tuning import FineTunedClassifier
from medsoft.classifiers.optimizer import groups_apart
from medsoft.classifiers.segmentation.networks import Decoder, build_segmentation_network
from medsoft.classifiers.segmentation.objective import Loss, MaskObjective
from medsoft.classifiers.segmentation.with_masks import WithMasks
from medsoft.data.masks.place import to_input
from medsoft.data.masks.read import BACKGROUND, Mask
from medsoft.data.masks.write import write_mask
from medsoft.encoders.start import begun_with, complete, find_start
from medsoft.errors import InputError
from medsoft.specs import SegmentationSpec


class Segmenter(WithMasks, FineTunedClassifier):
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
        self.measure_with(spec.values, overlap, tolerance)
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
        return groups_apart(self.backbone, self.pretrained_part, self.lr, self.weight_decay)

    def facts(self) -> dict[str, Any]:
        """The network's parts, and what it is shown."""
        shown = {"channels": self.spec.channels, "image_size": list(self.spec.image_size)}
        return {"backbone": self.backbone_name, "decoder": self.decoder_name, **shown}

    def mask_of(self, p_Khw: np.ndarray, batch: dict[str, Any], index: int) -> Mask:
        """See ``WithMasks.mask_of``."""
        return mask_of(p_Khw, batch["placement"][index], tuple(batch["truth"][index].shape))

    def spacing_of(self, batch: dict[str, Any], index: int) -> tuple[float, ...]:
        """1: distances are in pixels."""
        return (1.0, 1.0)

    def write(self, folder: Path, mask: Mask, batch: dict[str, Any], index: int) -> None:
        """As PNG."""
        write_mask(folder / f"{batch['name'][index]}.png", self.values.decoded(mask))


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
