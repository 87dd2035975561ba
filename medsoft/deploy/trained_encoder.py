"""Encoder and tiles of a trained slide classifier: built again as the checkpoint says, anything else is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medsoft.data.bags.facts import canonical
from medsoft.deploy.encoder import Encoder, Precision
from medsoft.deploy.encoder_weights import checked_sha256
from medsoft.deploy.encoders import Stated, build_encoder
from medsoft.deploy.run_encoder import find_run
from medsoft.errors import InputError
from medsoft.slides.recipes import find_recipe


@dataclass(frozen=True)
class Encoding:
    """What the user says of the encoder, and how it works.

    Attributes:
        name: of the encoder, or the folder of the run that trained it; None: the checkpoint's.
        weights: local file; None where a package carries them, or nothing is left to encode.
        batch: tiles that are encoded together.
        workers: threads that read tiles; None: as many as there are processors, 8 at most.
        max_unreadable: a slide with a larger fraction of unreadable tiles fails.
        device: where to compute.
        precision: to compute in.
    """

    name: str | None
    weights: Path | None
    batch: int
    workers: int | None
    max_unreadable: float
    device: str
    precision: Precision


def check_tiles(slides: dict[str, Any] | None, **asked: float | None) -> None:
    """Refuse tiles other than those of the training.

    Args:
        slides: how slides became features, of the checkpoint; None where another tool made them.
        **asked: ``mpp``, ``tile`` and ``overlap`` as the user states them, or None.

    Raises:
        InputError: one differs, or there is nothing to compare it with.
    """
    for name, value in asked.items():
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


def trained_encoder(slides: dict[str, Any], encoding: Encoding) -> Encoder:
    """The encoder of the training.

    Args:
        slides: how slides became features, of the checkpoint.
        encoding: what the user says of it.

    Raises:
        InputError: weights or a name other than those of the training, or weights that are missing.
    """
    if encoding.name is None and "transforms" in slides["encoder_settings"]:
        raise InputError(f"--encoder: name the run that trained the encoder {slides['encoder']} (its folder)")
    of_run = _check_name(slides, encoding)
    name = encoding.name if of_run and encoding.name else slides["encoder"]
    stated = None if of_run or find_recipe(name) else Stated.from_settings(slides["encoder_settings"])
    encoder = build_encoder(
        name,
        encoding.weights,
        slides["encoder_init"],
        slides["encoder_sha256"] or None,
        stated=stated,
        device=encoding.device,
        precision=encoding.precision,
    )
    if (encoder.name, canonical(encoder.settings)) != (slides["encoder"], canonical(slides["encoder_settings"])):
        raise InputError(
            f"--encoder {encoder.name} is built or shown tiles in another way than in the training: "
            f"{canonical(encoder.settings)}, not {canonical(slides['encoder_settings'])}"
        )
    return encoder


def build_on(slides: dict[str, Any], encoding: Encoding, device: str) -> Encoder:
    """``trained_encoder`` on another device than the user named, such as the second GPU."""
    return trained_encoder(slides, replace(encoding, device=device))


def check_encoder(slides: dict[str, Any], encoding: Encoding) -> None:
    """Refuse another encoder or other weights than those of the training, where nothing is left to encode.

    Raises:
        InputError: they are named, and are others.
    """
    _check_name(slides, encoding)
    if encoding.weights is not None:
        checked_sha256(encoding.weights, slides["encoder_sha256"] or None)


def _check_name(slides: dict[str, Any], encoding: Encoding) -> bool:
    """Whether the encoder is named by its run."""
    if encoding.name is None:
        return False
    if find_run(encoding.name) is not None:
        return True
    recipe = find_recipe(encoding.name)
    if slides["encoder"] not in (encoding.name, recipe.name if recipe else ""):
        raise InputError(f"--encoder {encoding.name}: the model was trained on features of {slides['encoder']}")
    return False
