"""Rebuilds the encoder and tiles of a trained slide classifier from its checkpoint, and refuses anything else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsoft.data.features.provenance import canonical
from medsoft.encoders.build import Stated, build_encoder
from medsoft.encoders.encoder import Encoder
from medsoft.encoders.from_run import find_run
from medsoft.encoders.recipes import find_recipe
from medsoft.encoders.weights import checked_sha256
from medsoft.errors import InputError
from medsoft.slides.annotations.settings import RegionOptions, RegionSettings
from medsoft.slides.tiling.settings import Engine, Precision, TrainedTiles


@dataclass(frozen=True)
class NamedEncoder:
    """What the user says of the encoder of a trained model.

    Attributes:
        name: of the encoder, or the folder of the run that trained it; None: the checkpoint's.
        weights: local file; None where a package carries them, or nothing is left to encode.
    """

    name: str | None = None
    weights: Path | None = None


def check_tiles(slides: dict[str, Any] | None, asked: TrainedTiles) -> None:
    """Refuse tiles other than those of the training.

    Args:
        slides: how slides became features, of the checkpoint; None where another tool made them.
        asked: as the user states them.

    Raises:
        InputError: one differs, or there is nothing to compare it with.
    """
    for name, value in asdict(asked).items():
        if value is None:
            continue
        if slides is None:
            raise InputError(f"--{name} {value}: the model was trained on features of another tool: leave it out")
        trained = slides["tile_settings"]["mpp" if name == "mpp" else f"{name}_px"]
        if value != trained:
            raise InputError(
                f"--{name} {value:g}: the model was trained with {trained:g}, which is taken where the option is left "
                "out"
            )


def check_regions(slides: dict[str, Any] | None, asked: RegionOptions) -> RegionSettings | None:
    """Which tiles regions leave: as in the training where they did, else as the user says.

    Args:
        slides: how slides became features, of the checkpoint; None where another tool made them.
        asked: as the user states them.

    Raises:
        InputError: the training had regions and none are named, or other ones; or there are no slides to restrict.
    """
    if slides is None:
        if asked.regions is not None:
            raise InputError("--regions: the model was trained on features of another tool: leave it out")
        return None
    trained = slides["tile_settings"].get("regions")
    settings = asked.settings_of_training(None if trained is None else RegionSettings.from_dict(trained))
    if settings is not None and trained is None:
        print(f"WARNING: tiles {settings.in_words} are predicted, but the model was trained on tiles of whole slides")
    return settings


def trained_encoder(
    slides: dict[str, Any], named: NamedEncoder, *, device: str, precision: Precision, engine: Engine = "torch"
) -> Encoder:
    """The encoder of the training.

    Args:
        slides: how slides became features, of the checkpoint.
        named: what the user says of it.
        device: where to compute.
        precision: to compute in.
        engine: what computes on a CPU.

    Raises:
        InputError: weights or a name other than those of the training, or weights that are missing.
    """
    if named.name is None and "transforms" in slides["encoder_settings"]:
        raise InputError(f"--encoder: name the run that trained the encoder {slides['encoder']} (its folder)")
    of_run = _check_name(slides, named)
    name = named.name if of_run and named.name else slides["encoder"]
    stated = None if of_run or find_recipe(name) else Stated.from_settings(slides["encoder_settings"])
    encoder = build_encoder(
        name,
        named.weights,
        slides["encoder_init"],
        slides["encoder_sha256"] or None,
        stated=stated,
        device=device,
        precision=precision,
        engine=engine,
    )
    if (encoder.name, canonical(encoder.settings)) != (slides["encoder"], canonical(slides["encoder_settings"])):
        raise InputError(
            f"--encoder {encoder.name} is built or shown tiles in another way than in the training: "
            f"{canonical(encoder.settings)}, not {canonical(slides['encoder_settings'])}"
        )
    return encoder


def check_encoder(slides: dict[str, Any], named: NamedEncoder) -> None:
    """Refuse another encoder or other weights than those of the training, where nothing is left to encode.

    Raises:
        InputError: they are named, and are others.
    """
    _check_name(slides, named)
    if named.weights is not None:
        checked_sha256(named.weights, slides["encoder_sha256"] or None)


def _check_name(slides: dict[str, Any], named: NamedEncoder) -> bool:
    """Whether the encoder is named by its run."""
    if named.name is None:
        return False
    if find_run(named.name) is not None:
        return True
    recipe = find_recipe(named.name)
    if slides["encoder"] not in (named.name, recipe.name if recipe else ""):
        raise InputError(f"--encoder {named.name}: the model was trained on features of {slides['encoder']}")
    return False
