"""What a training begins with: an encoder by its name or a file of weights, and the scaling that goes with it.

The images that a network is trained on must be scaled as those of its pretraining were. Nothing fails where they are
not: the result is merely worse. So the scaling comes with the weights, and weights of unknown scaling are refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medsoft.data.transforms.base import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD
from medsoft.data.volumes.transforms.scalings import OF_SLICES, SHOWS_PICTURES, WINDOW
from medsoft.encoders.backbone import backbone_arguments
from medsoft.encoders.choice import NONE
from medsoft.encoders.pretrained import find_pretrained
from medsoft.encoders.recipes import Recipe, find_recipe, unknown_encoder
from medsoft.encoders.weights import load_for_training
from medsoft.errors import InputError
from medsoft.models.weights import load_pretrained, quiet_unpickler, read_weights
from medsoft.parsing.configurations import read_configuration
from medsoft.storage.weights_folder import VARIABLE, WeightsFolder, find_weights

HYBRID = "hybrid"
"""The backbone that has an encoder inside (``medsoft.models.hybrid``)."""


@dataclass(frozen=True)
class Start:
    """Weights that a training begins with.

    Attributes:
        name: as the user gave it.
        recipe: of the encoder that they are of; None where that is not known.
        file: of the weights; None where an installed package has them, or nobody has.
        mean: that images are scaled with; None where it is not known.
        std: likewise.
        intensity: how volumes are scaled, as ``transforms.intensity``; "" where it is not known.
        window: the values that become 0 and 1, where that is by a window and known.
    """

    name: str
    recipe: Recipe | None = None
    file: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    intensity: str = ""
    window: tuple[float, float] | None = None

    def load(self, network: nn.Module) -> None:
        """Load the weights into a network without a head, in place.

        Raises:
            InputError: there are none, or they are of another network.
        """
        if self.recipe is None:
            load_pretrained(network, self.name)
        else:
            load_for_training(network, self.recipe, self.file)


def find_start(encoder: str | None, pretrained: str | None) -> Start | None:
    """What ``model.encoder`` and ``model.pretrained`` mean together; None where neither is given.

    Raises:
        InputError: no such encoder; or weights that are not what was added to their folder.
    """
    if encoder is not None:
        start = _of_encoder(encoder)
        if start is None:
            raise unknown_encoder("model.encoder", encoder)
        if pretrained in (None, encoder) or find_recipe(str(pretrained)) == start.recipe:
            return start
        return replace(start, file=find_weights(str(pretrained)))
    if pretrained is None:
        return None
    return _of_listed(pretrained) or _of_encoder(pretrained) or _of_file(pretrained)


def begun_with(encoder: str, backbone: str, arguments: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Backbone and arguments of a model that begins with an encoder.

    Args:
        encoder: its name.
        backbone: ``hybrid``, or whatever the encoder takes the place of.
        arguments: of the backbone: for a hybrid all but the encoder; else those that go beyond the recipe's.

    Raises:
        InputError: no such encoder.
    """
    start = find_start(encoder, None)
    assert start is not None
    assert start.recipe is not None
    recipe = start.recipe
    if backbone == HYBRID:
        # A hybrid reads the map, ahead of any pooling.
        of_encoder = {"encoder": recipe.architecture, "encoder_args": dict(recipe.arguments)}
        return HYBRID, {**(arguments or {}), **of_encoder}
    own = backbone_arguments(recipe)
    return recipe.architecture, {**own, **(arguments or {})} if backbone == recipe.architecture else own


def complete(model: MutableMapping[str, Any], transforms: MutableMapping[str, Any], typed: Sequence[str]) -> list[str]:
    """Fill in what an encoder or weights decide: backbone and arguments of the model, and scaling of the images.

    Args:
        model: options of a classifier of images or volumes; changed.
        transforms: options of the recipe that prepares them; changed.
        typed: names of the options that stand on the command line.

    Returns:
        What the user should know.

    Raises:
        InputError: options that contradict each other, or weights whose scaling is not known.
    """
    if model.get("encoder") == NONE:
        model["encoder"] = None
    _leave_out_what_is_replaced(model, typed)
    start = find_start(model.get("encoder"), model.get("pretrained"))
    if start is None:
        return []
    notes = []
    if start.recipe is not None:
        if "mean" in transforms:  # of pictures; volumes may be read slice by slice, by an encoder of pictures
            start.recipe.check_dims("model.encoder", 2)
        _link_channels(start.recipe, transforms, typed, is_asked=model.get("encoder") is not None)
    if model.get("encoder") is not None:
        backbone = str(model["backbone"])
        assert start.recipe is not None
        if {"model.backbone", "model.encoder"} <= set(typed) and backbone not in (HYBRID, start.recipe.architecture):
            raise InputError(
                f"model.backbone {backbone}: model.encoder {start.name} is a backbone itself; leave one of the two "
                f"out, or read its map with model.backbone {HYBRID}"
            )
        is_typed = any(name.startswith("model.backbone_args") for name in typed)
        given = model.get("backbone_args") if backbone == HYBRID or is_typed else None
        kept = start.recipe.architecture if is_typed and backbone != HYBRID else backbone
        model["backbone"], model["backbone_args"] = begun_with(str(model["encoder"]), kept, given)
        model["pretrained"] = model.get("pretrained") or start.name
    if "mean" in transforms:
        notes += _link_scaling(start, transforms, "transforms", transforms.get("channels"))
    elif "intensity" in transforms:
        notes += _link_intensity(start, transforms)
    return notes


def complete_slices(
    model: MutableMapping[str, Any], transforms: MutableMapping[str, Any], typed: Sequence[str], is_network: bool
) -> list[str]:
    """Fill in what a pretrained encoder of pictures decides that reads the slices of volumes: one rule with pictures.

    The slices are shown between black and white, and the model scales them as the encoder's pictures were: its options
    ``mean`` and ``std`` are filled in, and are part of its configuration from then on.

    Args:
        model: options of a classifier of slices; changed.
        transforms: options of the recipe for volumes; changed.
        typed: names of the options that stand on the command line.
        is_network: whether ``model.encoder`` names an architecture; otherwise it is a pretrained encoder.

    Returns:
        What the user should know.

    Raises:
        InputError: options that contradict each other, or weights whose scaling is not known.
    """
    if not is_network and (asked := _of_encoder(str(model["encoder"]))) is not None and asked.recipe is not None:
        is_typed = any(name.startswith("model.encoder_args") for name in typed)
        more = (model.get("encoder_args") or {}) if is_typed else {}
        model["pretrained"] = model.get("pretrained") or str(model["encoder"])
        model["encoder"], model["encoder_args"] = asked.recipe.architecture, backbone_arguments(asked.recipe) | more
    start = find_start(None, model.get("pretrained"))
    if start is None:
        return []
    if start.recipe is not None:
        start.recipe.check_dims("model.pretrained", 2)
    notes = _link_scaling(start, model, "model", None)
    if transforms["intensity"] == "auto":
        transforms["intensity"] = OF_SLICES
    check_shows_pictures("transforms.intensity", transforms["intensity"])
    return notes


def check_shows_pictures(option: str, intensity: str) -> None:
    """Check that volumes are scaled to between black and white, as an encoder of pictures takes them.

    Raises:
        InputError: they are not.
    """
    if intensity not in SHOWS_PICTURES:
        raise InputError(
            f"{option} {intensity}: an encoder for pictures takes values between black and white: "
            f"{', '.join(SHOWS_PICTURES[:-1])} or {SHOWS_PICTURES[-1]}"
        )


def _leave_out_what_is_replaced(model: MutableMapping[str, Any], typed: Sequence[str]) -> None:
    """Forget what a configuration says and the command line replaces: another backbone, or another encoder."""
    if "model.backbone" in typed and "model.encoder" not in typed and model["backbone"] != HYBRID:
        replaced = model.get("encoder") is not None
        model["encoder"] = None
    else:
        replaced = "model.encoder" in typed
    if replaced and "model.pretrained" not in typed:
        model["pretrained"] = None


def _link_channels(recipe: Recipe, transforms: MutableMapping[str, Any], typed: Sequence[str], is_asked: bool) -> None:
    """Give an encoder the channels that it takes, where the user has not said others."""
    channels = transforms.get("channels")
    if channels is None or channels == recipe.channels or not is_asked:
        return
    if "transforms.channels" in typed:
        recipe.check_images("model.encoder", channels, recipe.dims)
    transforms["channels"] = recipe.channels


def _link_scaling(start: Start, options: MutableMapping[str, Any], group: str, channels: int | None) -> list[str]:
    """Scale images as those of the pretraining were.

    Args:
        start: what the training begins with.
        options: with ``mean`` and ``std``; changed.
        group: of these options, for messages.
        channels: of the images; None where mean and deviation stay as the encoder has them.
    """
    mean, std = _for_channels(start, channels)
    if mean is None or std is None:
        if options["mean"] is None or options["std"] is None:
            _require_weights(start)
            raise InputError(
                f"model.pretrained {start.name}: no recipe says how the images of its pretraining were scaled, and a "
                f"network that is shown others learns worse. Say it, with {group}.mean and {group}.std (for "
                "values from 0 to 1), or name the encoder that the weights are of: model.encoder (see medsoft encoders)"
            )
        return []
    for option, values in (("mean", mean), ("std", std)):
        given = options[option]
        if given is not None and [float(value) for value in given] != [float(value) for value in values]:
            raise InputError(
                f"{group}.{option} {list(given)}: {start.name} was trained with {list(values)}; leave the option out"
            )
        options[option] = list(values)
    said = ", ".join(f"{value:g}" for value in mean), ", ".join(f"{value:g}" for value in std)
    return [f"Begins with {start.name}: images are scaled with its mean {said[0]} and deviation {said[1]}"]


def _require_weights(start: Start) -> None:
    """Check that there are weights at all: what is wrong with the file itself is said first.

    Raises:
        InputError: there are none.
    """
    if start.file is not None:
        read_weights(start.file)


def _for_channels(start: Start, channels: int | None) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation for the channels of the images: of grey ones the mean over those of the colours."""
    if start.mean is None or start.std is None or channels is None or len(start.mean) == channels:
        return start.mean, start.std
    if channels != 1:
        return None, None
    count = len(start.mean)
    return (round(sum(start.mean) / count, 6),), (round(sum(start.std) / count, 6),)


def _link_intensity(start: Start, transforms: MutableMapping[str, Any]) -> list[str]:
    """Scale volumes as those of the pretraining were."""
    if not start.intensity:
        if transforms["intensity"] == "auto":
            _require_weights(start)
            raise InputError(
                f"model.pretrained {start.name}: no recipe says how the volumes of its pretraining were scaled: say "
                "it, with transforms.intensity"
            )
        return []
    if transforms["intensity"] not in ("auto", start.intensity):
        raise InputError(
            f"transforms.intensity {transforms['intensity']}: {start.name} was trained with {start.intensity}; leave "
            "the option out"
        )
    transforms["intensity"] = start.intensity
    how = start.intensity
    if start.window is not None:
        window = tuple(float(value) for value in transforms["window"])
        if window not in (WINDOW, start.window):
            raise InputError(
                f"transforms.window {list(window)}: {start.name} was trained with {list(start.window)}; leave the "
                "option out"
            )
        transforms["window"] = list(start.window)
        how += f" ({start.window[0]:g} to {start.window[1]:g})"
    return [f"Begins with {start.name}: volumes are scaled by {how}, as in its pretraining"]


def _of_encoder(name: str) -> Start | None:
    """Of a recipe by its name, or of the folder that a pretraining left."""
    recipe = find_recipe(name)
    if recipe is not None:
        return Start(name, recipe, None, recipe.mean, recipe.std, recipe.intensity, recipe.window)
    found = find_pretrained(name)
    if found is None:
        return None
    recipe, file = found
    return Start(name, recipe, file, recipe.mean, recipe.std, recipe.intensity, recipe.window)


def _of_listed(pretrained: str) -> Start | None:
    """Of weights in a folder of weights that are listed there for a recipe, by their name or their path."""
    path = Path(pretrained)
    folders = [WeightsFolder(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    entry = folders[0].listed.get(pretrained) if folders else None
    if entry is None and path.is_file():
        beside = WeightsFolder(path.parent).listed.values()
        entry = next((one for one in beside if one.file == path.name), None)
    recipe = find_recipe(entry.recipe) if entry is not None and entry.recipe else None
    if recipe is None:
        return None
    file = find_weights(pretrained)
    return Start(pretrained, recipe, file, recipe.mean, recipe.std, recipe.intensity, recipe.window)


def _of_file(pretrained: str) -> Start:
    """Of a file without a recipe: medsoft's own know their scaling."""
    path = find_weights(pretrained)
    if path.suffix == ".safetensors" and path.is_file():
        stated = _stated_in_header(path)
        if stated is not None:
            return Start(pretrained, None, path, *stated)
    if path.suffix == ".ckpt" and path.is_file():
        scaling = _scaling_of_checkpoint(path)
        mean, std = scaling.get("mean"), scaling.get("std")
        intensity = str(scaling.get("intensity") or "").replace("auto", "")
        return Start(pretrained, None, path, mean and tuple(mean), std and tuple(std), intensity)
    return Start(pretrained, None, path)


def _scaling_of_checkpoint(path: Path) -> dict[str, Any]:
    """How the images of a run of medsoft's were scaled, as its checkpoint or its configuration says; empty: neither.

    Raises:
        InputError: the run's configuration cannot be read.
    """
    try:
        with quiet_unpickler():
            known = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["medsoft"]["scaling"]
    except Exception:  # a broken file is told of where its weights are read
        known = None
    if isinstance(known, dict):
        return known
    config = path.resolve().parent.parent / "config.yaml"
    transforms = read_configuration(config).get("transforms") if config.is_file() else None
    if not isinstance(transforms, dict):
        return {}
    grey = transforms.get("channels") == 1
    mean, std = (GREY_MEAN, GREY_STD) if grey else (IMAGENET_MEAN, IMAGENET_STD)
    return {"mean": mean, "std": std} | {name: value for name, value in transforms.items() if value is not None}


def _stated_in_header(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation in the header of a file that ``medsoft weights convert`` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
        mean, std = json.loads(said["mean"]), json.loads(said["std"])
        return tuple(float(value) for value in mean), tuple(float(value) for value in std)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        return None
