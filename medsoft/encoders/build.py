"""Builds encoders from a name and a file with weights.

A name is that of a recipe (``medsoft/encoders/recipes``), the folder or checkpoint of a medsoft run, or a model of
timm, of which the user must say what the weights were trained with.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from torch import nn

import medsoft.models  # noqa: F401 (registers our backbones with timm)
from medsoft.data.transforms.base import IMAGENET_MEAN, IMAGENET_STD
from medsoft.encoders.encoder import Encoder, choose_device, choose_precision
from medsoft.encoders.from_run import find_run, load_run
from medsoft.encoders.recipes import Recipe, find_recipe, recipes
from medsoft.encoders.requirements import EncoderOptions, needs_weights
from medsoft.encoders.weights import checked_sha256, load_encoder_weights
from medsoft.errors import InputError
from medsoft.models.build import build_network
from medsoft.models.weights import refuse_fetching
from medsoft.slides.tiling.settings import Engine, Precision
from medsoft.storage.weights_folder import weights_for

Init = Literal["weights", "random"]
SEED = 0
"""Of random weights."""


@dataclass(frozen=True)
class Stated:
    """What the user says of weights that have no recipe; None or empty: nothing.

    Attributes:
        mean: one value per channel, for values from 0 to 1.
        std: one value per channel.
        input_px: side of the square that the model takes.
        arguments: keyword arguments of ``timm.create_model``.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    input_px: int | None = None
    arguments: Mapping[str, Any] | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Stated:
        """What must be stated to build the encoder of ``Encoder.settings`` again."""
        red, green, blue = settings["mean"]
        std_red, std_green, std_blue = settings["std"]
        return cls((red, green, blue), (std_red, std_green, std_blue), settings["input_px"], settings["arguments"])


def build_encoder(
    name: str,
    weights: Path | None = None,
    init: Init = "weights",
    sha256: str | None = None,
    *,
    stated: Stated | None = None,
    input_size: tuple[int, ...] | None = None,
    of_tiles: bool = True,
    device: str = "auto",
    precision: Precision = "auto",
    engine: Engine = "torch",
) -> Encoder:
    """Build an encoder.

    Args:
        name: a recipe, a medsoft run (its folder, or a checkpoint in it), or a timm model.
        weights: local file, .safetensors or a state dict; not for a run, nor where the recipe's weights come with an
            installed package. None: those in the folder of weights that have the SHA-256, or are for the recipe.
        init: ``random`` takes seeded random weights instead, which a feature file then says.
        sha256: what the file's SHA-256 must be; None: anything.
        stated: mean, deviation, input size and arguments of a timm model that has no recipe.
        input_size: another size of the input than the recipe's, where that is for any; (height, width) in px, or
            (D, H, W) in voxels.
        of_tiles: whether it will be shown tiles of slides: a run on photographs prepares none.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` …
        precision: ``auto`` (float16 on a GPU, else float32), ``32``, ``16`` or ``bf16``.
        engine: what computes on a CPU, as of ``Encoder``.

    Raises:
        InputError: the encoder cannot be built as asked, or what is asked is not said completely.
    """
    stated = stated or Stated()
    if init not in get_args(Init):
        raise InputError(f"--encoder-init {init}: one of {', '.join(get_args(Init))}")
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    run = None if find_recipe(name) else find_run(name)
    if run is not None:
        if weights is not None or init == "random" or stated != Stated() or input_size is not None:
            raise InputError(
                f"--encoder {name} is a run, which states everything that is needed: leave out the other options"
            )
        digest = checked_sha256(run.checkpoint, sha256)
        recipe, transforms = run.recipe(of_tiles)
        model = create_model(recipe)
        load_run(model, run.checkpoint)
        return Encoder(model, recipe, digest, device=where, precision=dtype, engine=engine, transforms=transforms)

    recipe = _recipe(name, stated, init).sized(input_size)
    if init == "random":
        if weights is not None or sha256:
            raise InputError("--encoder-init random takes no weights: leave out --weights and --weights-sha256")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = create_model(recipe)
        return Encoder(model, recipe, "", seed=SEED, device=where, precision=dtype, engine=engine)
    if weights is None and not recipe.weights:
        weights = weights_for(recipe.name, sha256)
        if weights is not None:
            print(f"Weights of {recipe.name}: {weights}")
    if weights is None and not recipe.weights:
        raise needs_weights(name, recipe)
    model = create_model(recipe)
    digest = load_encoder_weights(model, recipe, weights, sha256)
    return Encoder(model, recipe, digest, device=where, precision=dtype, engine=engine)


def builder_of(
    options: EncoderOptions,
    file: Path | None,
    tile_px: int | None,
    precision: Precision,
    engine: Engine,
    of_tiles: bool = True,
) -> Callable[..., Encoder]:
    """``build(device=…)``, which makes the encoder that the options of a command line ask for, in any process.

    Args:
        options: as the user gave them.
        file: the weights that they name.
        tile_px: side of the tiles, where the user has said it: of a timm model the input's too, unless that is said.
        precision: to compute in.
        engine: what computes on a CPU.
        of_tiles: as of ``build_encoder``.

    Raises:
        InputError: mean, deviation or arguments are not written as such.
    """
    stated = Stated(
        None if options.mean is None else parse_three("--mean", options.mean),
        None if options.std is None else parse_three("--std", options.std),
        tile_px if options.input_px is None and is_plain(options.name) else options.input_px,
        _json(options.encoder_args),
    )
    return partial(
        build_encoder,
        options.name,
        file,
        options.encoder_init,
        options.weights_sha256,
        stated=stated,
        of_tiles=of_tiles,
        precision=precision,
        engine=engine,
    )


def _json(arguments: str | None) -> dict[str, object] | None:
    if arguments is None:
        return None
    try:
        values = json.loads(arguments)
    except json.JSONDecodeError as error:
        raise InputError(f"--encoder-args {arguments}: no JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"--encoder-args {arguments}: must be names with values in braces")
    return values


def create_model(recipe: Recipe) -> nn.Module:
    """The recipe's model without a head, with fresh weights.

    Raises:
        InputError: timm has no such model, or it does not take the arguments.
    """
    if not timm.is_model(
        recipe.architecture
    ):  # timm would take hf-hub: and local-dir: for places to load code's names from
        raise InputError(f"--encoder {recipe.architecture}: no model of timm")
    refuse_fetching("--encoder", recipe.arguments, "--weights")
    size = recipe.input_px if recipe.input_size is None else recipe.input_size
    try:
        return build_network(recipe.architecture, recipe.channels, size, recipe.arguments, recipe.dims)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"--encoder {recipe.architecture} cannot be built for {size} px with {recipe.arguments}: {error}"
        ) from None


def is_plain(name: str) -> bool:
    """Whether a name is neither a recipe's nor a run's, so that the user must say what the weights need."""
    return find_recipe(name) is None and find_run(name) is None


def parse_three(option: str, text: str) -> tuple[float, float, float]:
    """One value a channel, separated by commas: ``0.5,0.5,0.5``.

    Raises:
        InputError: something else.
    """
    try:
        red, green, blue = (float(word) for word in text.strip("[]() ").split(","))
    except ValueError:
        raise InputError(f"{option} {text}: give three numbers separated by commas, for red, green and blue") from None
    return red, green, blue


def _recipe(name: str, stated: Stated, init: str) -> Recipe:
    """The recipe of this name, or one from what is stated of a timm model."""
    recipe = find_recipe(name)
    if recipe is not None:
        for option, said, own in (
            ("--mean", stated.mean, recipe.mean),
            ("--std", stated.std, recipe.std),
            ("--input-px", stated.input_px, recipe.input_px),
            ("--encoder-args", stated.arguments, recipe.arguments),
        ):
            if said is not None and said != own:
                raise InputError(f"{option} {said}: the recipe {recipe.name} says {own}; leave the option out")
        return recipe
    if not timm.is_model(name):
        near = [
            *difflib.get_close_matches(name.lower(), recipes(), n=2),
            *difflib.get_close_matches(name, timm.list_models(), n=2, cutoff=0.8),
        ]
        raise InputError(
            f"--encoder {name}: no recipe ({', '.join(recipes())}), no run of medsoft and no model of timm"
            + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    if init == "weights" and (stated.mean is None or stated.std is None):
        raise InputError(
            f"--encoder {name} has no recipe, and timm's preprocessing for it need not be that of your weights: say "
            "what they were trained with, --mean R,G,B --std R,G,B (for values from 0 to 1) and --input-px. "
            f"Recipes: {', '.join(recipes())}. Without weights: --encoder-init random"
        )
    if stated.input_px is None:
        raise InputError(f"--encoder {name} has no recipe: say the size of its input, --input-px or --tile")
    mean, std = stated.mean or IMAGENET_MEAN, stated.std or IMAGENET_STD
    if min(std) <= 0:
        raise InputError(f"--std {std} must be above 0")
    arguments = dict(stated.arguments or {})
    refuse_fetching("--encoder-args", arguments, "--weights")
    return Recipe(name, name, mean, std, stated.input_px, stated.input_px, pooling="model", arguments=arguments)
