"""Encodes a table's images as those of a model's training, where it predicts from features and none are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsoft.cluster.options import Workers
from medsoft.data.features.encoded_folder import encode_settings
from medsoft.data.features.names import is_bag_name
from medsoft.data.features.provenance import EncoderIdentity
from medsoft.data.tables.reading import load_source, text
from medsoft.encoders.recipes import find_recipe
from medsoft.encoders.weights import own_weights
from medsoft.errors import InputError
from medsoft.inference.images.encode import encode_images
from medsoft.inference.images.encoding import encoding_builder
from medsoft.inference.images.options import EncodeSettings, ImageInput
from medsoft.inference.images.samples import find_samples
from medsoft.parsing.configurations import find_configuration, read_configuration
from medsoft.parsing.words import Words
from medsoft.runs.bundle import Bundle
from medsoft.runs.checkpoint_io import AtomicCheckpointIO
from medsoft.runs.checkpoint_paths import Checkpoint
from medsoft.runs.run_folder import RunFolder
from medsoft.training.predict import show_path

BY_HAND = "medsoft encode {table} --encoder {encoder} --out DIR, with the training's options, then --data.features DIR"


def encode_first(verb: str, words: Words, members: Sequence[Checkpoint], bundle: Bundle | None) -> Words:
    """The command line, with features of the table's images where it names a table and no features.

    Args:
        verb: validate, test or predict.
        words: without the checkpoints, configurations found.
        members: the models; of a bundle one.
        bundle: None for checkpoints.

    Returns:
        The words as they are, for models of another kind; else with ``data.features`` and ``out``.

    Raises:
        InputError: the encoder of the training, or its weights, are not here, or they make other features.
    """
    table = words.last("data.table")
    if table is None or words.last("data.features") is not None:
        return words
    config = _configuration(words, members[0])
    if (config.get("use") or {}).get("data") != "bag":
        return words
    known = [_known(member, bundle) for member in members]
    about = known[0].get("images")
    if about is None:
        return words
    if any(one.get("features") != known[0].get("features") for one in known):
        raise InputError(
            f"medsoft {verb}: the models were trained on features of different kinds: apply each by itself"
        )
    own = config.get("data") or {}
    path = words.last("data.path") or own.get("path") or "path"
    source = load_source(table)
    if path in source and len(source) and text(source[path]).map(is_bag_name).all():
        return words
    trained = EncoderIdentity(**known[0]["features"])
    settings = _settings(about, own, trained, table, bundle)
    out = RunFolder.choose(words.last("out"), f"{words.last('name') or config.get('name', 'run')}-{verb}")
    skip = (words.last("data.on_error") or own.get("on_error")) == "skip"
    which = ImageInput(
        table,
        root=words.last("data.root"),
        path=path,
        id=words.last("data.id") or own.get("id"),
        kind="volume" if settings.channels else "image",
        on_error="skip" if skip else "error",
    )
    _encode(which, settings, trained, out.encoded, words.last("trainer.accelerator"))
    return words.ended_with("data.features", str(out.encoded)).ended_with("out", str(out.path))


def _configuration(words: Words, member: Checkpoint) -> dict[str, Any]:
    named = words.last("config")
    if named is not None:
        return read_configuration(find_configuration(named))
    return read_configuration(member.config) if member.config else {}


def _known(member: Checkpoint, bundle: Bundle | None) -> dict[str, Any]:
    """What a model says of itself."""
    state = {"medsoft": bundle.about["model"]} if bundle else AtomicCheckpointIO().load_checkpoint(member.file)
    known: dict[str, Any] = state.get("medsoft", {})
    return known


def _settings(
    about: dict[str, Any], own: dict[str, Any], trained: EncoderIdentity, table: str, bundle: Bundle | None
) -> EncodeSettings:
    """How the images of the training were encoded: as its folder of features says, else as the model itself does."""
    by_hand = BY_HAND.format(table=table, encoder=trained.encoder)
    folder = Path(own["features"]) if own.get("features") else None
    values = (encode_settings(folder) if folder is not None and folder.is_dir() else None) or about.get("encode")
    if values is None:
        raise InputError(
            f"the features of the training do not say how they were made: encode the images first: {by_hand}"
        )
    settings = EncodeSettings.from_dict(values)
    encoder = settings.encoder
    if bundle is not None and bundle.encoder is not None:
        where = str(bundle.encoder)
        encoder = replace(encoder, encoder=where) if bundle.encoder.is_dir() else replace(encoder, weights=where)
    elif encoder.weights is not None and not Path(encoder.weights).exists():
        encoder = replace(encoder, weights=None)
    # Engines compute the same, and the one of the training need not be installed here.
    return replace(settings, encoder=encoder, output=replace(settings.output, views=0, engine="auto"))


def _encode(
    which: ImageInput, settings: EncodeSettings, trained: EncoderIdentity, out: Path, accelerator: str | None
) -> None:
    """Encode the images of a table into a folder; what is there already is left as it is."""
    found = find_samples(which)
    what = f"{which.kind}s"
    print(
        f"No --data.features: encoding {len(found.samples)} {what} with {trained.encoder}, as those of the training, "
        f"into {show_path(out)}. It is kept, for --data.features; delete it where it is not needed again"
    )
    where = Workers(device=accelerator or "auto")
    recipe = find_recipe(settings.encoder.encoder)
    try:
        if recipe is not None and settings.encoder.weights is None and settings.encoder.encoder_init == "weights":
            own_weights("", recipe)
        encoding = encoding_builder(settings)(device=where.device_here, precision=settings.output.precision)
    except InputError as error:
        by_hand = BY_HAND.format(table=which.table, encoder=trained.encoder)
        raise InputError(
            f"this model predicts from features of {trained.encoder}, which cannot be made here: {error}. Encode the "
            f"{what} where its weights are: {by_hand}"
        ) from None
    if encoding.identity != trained:
        differing = "; ".join(trained.differences(encoding.identity))
        raise InputError(f"the encoder here makes other features than those of the training: {differing}")
    done = encode_images(found.samples, settings, str(out), where, encoding)
    if done.failed and which.on_error != "skip":
        raise InputError(
            f"{done.failed} of {len(found.samples)} {what} could not be encoded: {done.folder.errors_csv}. "
            "Correct the table, or leave them out with --data.on_error skip"
        )
