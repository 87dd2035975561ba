"""The model that says the class of every voxel, with masks on the grid of the volume that was read."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.classifiers.optimizer import aggregator_groups
from medsoft.classifiers.segmentation.objective import Loss, MaskObjective
from medsoft.classifiers.segmentation.with_masks import WithMasks
from medsoft.data.masks.place_volumes import most_probable
from medsoft.data.masks.read import Mask
from medsoft.data.masks.write import write_volume_mask
from medsoft.errors import InputError
from medsoft.specs import SegmentationSpec


class VolumeSegmenter(WithMasks):
    """A network from volumes to the class of every voxel.

    Args:
        spec: what the model must know of the data; comes from the data module.
        network: unet_soft_norm, unet_seqnorm, unet_soft, unet_sima, unet_relu_linear or unet_softmax (convolutions
            above, attention at the coarse levels), unet or swin_unetr (MONAI's).
        network_args: keyword arguments for the network, such as {widths: [16, 32, 64, 128], depth: 2, conv_levels: 2},
            or {feature_size: 12} of swin_unetr.
        loss: dice_ce (soft Dice and cross-entropy), dice_focal or tversky.
        overlap: share of a window that the next one shows again.
        tolerance: distance in mm within which surfaces agree, of the surface Dice.
        lr: peak learning rate of AdamW.
        **training: see ``TableClassifier``.
    """

    def __init__(
        self,
        spec: SegmentationSpec,
        network: str = "unet_soft_norm",
        network_args: dict[str, Any] | None = None,
        loss: Loss = "dice_ce",
        overlap: float = 0.5,
        tolerance: float = 2.0,
        lr: float = 1e-3,
        **training: Any,
    ) -> None:
        if not spec.task.has_masks or len(spec.image_size) != 3:
            raise InputError(
                f"use.model volume_segmenter gives masks of volumes, the task is {spec.task.kind}: use.data "
                "volume_masks"
            )
        super().__init__(spec, lr, **training)
        self.objective = MaskObjective(self.objective.outputs, loss)
        self.backbone_name = network
        self.backbone: Any = build_volume_network(network, spec, self.objective.outputs, network_args or {})
        self.measure_with(spec.values, overlap, tolerance)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One rate for all; no weight decay on vectors."""
        return [group for group in aggregator_groups(self.backbone, self.lr, self.weight_decay) if group["params"]]

    def facts(self) -> dict[str, Any]:
        """The network's name, and what it is shown."""
        shown = {"channels": self.spec.channels, "image_size": list(self.spec.image_size)}
        return {"backbone": self.backbone_name, **shown}

    def mask_of(self, p_Kxyz: np.ndarray, batch: dict[str, Any], index: int) -> Mask:
        """See ``WithMasks.mask_of``."""
        return most_probable(p_Kxyz, batch["placement"][index], tuple(batch["truth"][index].shape))

    def spacing_of(self, batch: dict[str, Any], index: int) -> tuple[float, ...]:
        """In mm, or in voxels of an array that does not say it."""
        return tuple(np.linalg.norm(batch["grid"][index][:3, :3], axis=0).tolist())

    def write(self, folder: Path, mask: Mask, batch: dict[str, Any], index: int) -> None:
        """As NIfTI with the volume's affine, and as DICOM SEG where the data name a series."""
        name = batch["name"][index]
        write_volume_mask(folder / f"{name}.nii.gz", self.values.decoded(mask), batch["grid"][index])
        if batch["source"][index]:
            from medsoft.data.masks.dicom_seg import write_dicom_seg

            series, *select = batch["source"][index]
            write_dicom_seg(folder / f"{name}.dcm", mask, self.spec.task.classes, series, select)


def build_volume_network(name: str, spec: SegmentationSpec, outputs: int, arguments: dict[str, Any]) -> nn.Module:
    """A network from volumes (B, C, X, Y, Z) to logits (B, K, X, Y, Z).

    Args:
        name: a key of ``medsoft.models.segmentation.volume_unet.NETWORKS``.
        spec: of the volumes.
        outputs: K.
        arguments: of the network.

    Raises:
        InputError: there is no such network, it does not take these arguments, or no patches of this size.
    """
    from medsoft.models.segmentation.volume_unet import NETWORKS

    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=1)
        did = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"model.network: no network {name!r}: one of {', '.join(NETWORKS)}{did}")
    try:
        network = NETWORKS[name](spec.channels, outputs, arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"model.network_args: {name} cannot be built with {arguments}: {reason}") from None
    try:
        state = {key: value.clone() for key, value in network.state_dict().items()}
        with torch.no_grad():  # as in training, where normalisation needs more than one voxel
            found: Tensor = network(torch.zeros(1, spec.channels, *spec.image_size))
        network.load_state_dict(state)
    except (RuntimeError, ValueError, AssertionError) as error:
        size, reason = " x ".join(map(str, spec.image_size)), " ".join(str(error).split())[:200]
        raise InputError(f"model.network: {name} takes no patches of {size} voxels: {reason}") from None
    if found.shape[1:] != (outputs, *spec.image_size):
        raise InputError(f"model.network_args: {name} gives logits of the shape {tuple(found.shape)}")
    return network
