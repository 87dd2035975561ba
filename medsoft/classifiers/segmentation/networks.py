"""Networks for masks: any timm pyramid below a decoder of segmentation-models-pytorch."""

from __future__ import annotations

from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from medsoft.classifiers.image import create_backbone
from medsoft.encoders.start import Start
from medsoft.errors import InputError
from medsoft.models.weights import refuse_fetching
from medsoft.specs import DataSpec

Decoder = Literal["upernet", "fpn", "unet", "segformer"]
DECODERS: dict[str, str] = {"upernet": "UPerNet", "fpn": "FPN", "unet": "Unet", "segformer": "Segformer"}
"""By name, the class of segmentation-models-pytorch: Xiao et al. 2018, Kirillov et al. 2019, Ronneberger et al. 2015,
Xie et al. 2021."""


def build_segmentation_network(
    decoder: str, backbone: str, spec: DataSpec, outputs: int, arguments: dict[str, Any], start: Start | None
) -> nn.Module:
    """A network from images (B, C, H, W) to logits (B, K, H, W).

    Args:
        decoder: a key of ``DECODERS``.
        backbone: name of a timm model with feature maps of falling size.
        spec: of the images.
        outputs: K.
        arguments: for timm.
        start: weights of the backbone to begin with.

    Raises:
        InputError: segmentation-models-pytorch is not installed, there is no such model, it has no pyramid of feature
            maps, it does not take such images, or the weights are of another network.
    """
    smp = import_decoders("model.decoder")
    if not timm.is_model(backbone):
        create_backbone(backbone, spec, arguments)  # says which name is meant
    refuse_fetching("model.backbone_args", arguments, "model.pretrained")
    size = " x ".join(map(str, spec.image_size))
    try:
        network: nn.Module = getattr(smp, DECODERS[decoder])(
            f"tu-{backbone}", encoder_weights=None, in_channels=spec.channels, classes=outputs, **arguments
        )
        _try(network, spec, outputs)
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model.backbone: {backbone} under {decoder} gives no masks of images of {size} px, {spec.channels} "
            f"channels; it must be a pyramid of feature maps, such as soft_norm_tiny or resnet18, and the size a "
            f"multiple of 32: {type(error).__name__}: {reason}"
        ) from None
    if start is not None:
        whole = create_backbone(backbone, spec, arguments)
        start.load(whole)
        encoder: Any = network.encoder
        copy_weights(whole, encoder.model, start.name)
    return network


def import_decoders(option: str) -> Any:
    """segmentation-models-pytorch.

    Args:
        option: that needs it, for the message.

    Raises:
        InputError: it is not installed.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise InputError(
            f"{option}: decoders are those of segmentation-models-pytorch, which is not installed: "
            "pip install 'medsoft[segmentation]'"
        ) from None
    return smp


def _try(network: nn.Module, spec: DataSpec, outputs: int) -> None:
    was_training = network.training
    with torch.no_grad():
        found: Tensor = network.eval()(torch.zeros(1, spec.channels, *spec.image_size))
    network.train(was_training)
    if found.shape != (1, outputs, *spec.image_size):
        raise ValueError(f"the logits have shape {tuple(found.shape)}")


def copy_weights(whole: nn.Module, features: nn.Module, source: str) -> None:
    """Copy a network's weights into the same network as timm builds it for its feature maps, in place.

    timm renames ``stages.0`` to ``stages_0`` there, and leaves out what no feature map needs.

    Raises:
        InputError: a weight is missing.
    """
    have = {name.replace(".", "_"): value for name, value in whole.state_dict().items()}
    state, missing = {}, []
    for name, own in features.state_dict().items():
        value = have.get(name.replace(".", "_"))
        if value is None or value.shape != own.shape:
            missing.append(name)
        else:
            state[name] = value
    if missing:
        raise InputError(
            f"{source}: its weights do not fit the feature maps of this backbone: {len(missing)} are missing, such as "
            f"{missing[0]}; choose another encoder"
        )
    features.load_state_dict(state)
