"""The verb ``encode``: from images and volumes to one feature file each."""

from __future__ import annotations

from dataclasses import replace

from medsoft.cluster.options import Workers
from medsoft.encoders.requirements import EncoderOptions
from medsoft.inference.images.options import EncodeSettings, ImageInput, OutputSettings, PreparationSettings
from medsoft.inference.images.samples import ImageSample, find_samples
from medsoft.runs.checkpoint_paths import check_holds_no_run


def encode(
    which: ImageInput,
    encoder: EncoderOptions,
    out: str,
    preparation: PreparationSettings,
    output: OutputSettings,
    where: Workers,
) -> int:
    """Turn images or volumes into features, one file each; those that are already done are skipped.

    Args:
        which: the images or volumes.
        encoder: from images to features.
        out: Folder for features/, encoded.csv, encode.json and, if images failed, errors.csv.
        preparation: how they become the encoder's input.
        output: what is stored.
        where: the work runs.

    Returns:
        0, or 3 if images failed or were left out.

    Raises:
        InputError: the call or the table is wrong, the folder is a run's, or the encoder cannot be built.
    """
    check_holds_no_run(out)
    found = find_samples(which)
    for note in found.notes:
        print(f"Note: {note}")
    settings = EncodeSettings(encoder, preparation, output)
    encoder.file()

    # torch and timm wait until what needs neither is found to be right.
    from medsoft.inference.images.encode import encode_images
    from medsoft.inference.images.encoding import Encoding, encoding_builder
    from medsoft.inference.images.folder import ImageStatus

    if found.is_volume:
        from medsoft.inference.images.volumes import channels_of

        settings = replace(settings, channels=channels_of(preparation, found.samples))
    made: Encoding = encoding_builder(settings)(
        device=where.device_here, precision=where.precision_here(output.precision)
    )
    _say(made)
    dropped = [
        (ImageSample(id, path), ImageStatus("failed", stage, reason))
        for id, path, stage, reason in found.dropped[["id", "path", "stage", "reason"]].itertuples(index=False)
    ]
    result = encode_images(found.samples, settings, out, where, made, dropped)
    done = [status for status in result.statuses if status.status == "encoded"]
    kept = sum(status.kept for status in done)
    what = "volumes" if found.is_volume else "images"
    tokens = sum(status.tokens or 0 for status in done)
    print(
        f"{len(done)} of {len(found.samples)} {what} encoded"
        + (f" ({kept} kept from earlier runs)" if kept else "")
        + (f", {tokens} tokens" if output.tokens else "")
        + f": {result.folder.encoded_csv}"
    )
    failed = result.failed + len(dropped)
    if failed:
        print(f"{failed} failed: {result.folder.errors_csv}")
    return 3 if failed else 0


def _say(made: object) -> None:
    """Say which encoder sees what."""
    from medsoft.inference.images.encoding import Encoding

    assert isinstance(made, Encoding)
    encoder, output = made.encoder, made.settings.output
    weights = f"weights {encoder.sha256[:12]}…" if encoder.sha256 else "RANDOM weights, only for trying things out"
    stored = f"tokens of {made.num_features} features" if output.tokens else f"one vector of {made.num_features}"
    print(f"Encoder {encoder.name}: {stored}; {weights}")
    if note := getattr(encoder, "note", ""):
        print(note)
    windows = ""
    if made.windows is not None:
        side, overlap = (made.windows.settings[name] for name in ("side", "overlap"))
        windows = f"; larger ones are read in windows of {side} px that overlap by {overlap}"
    print(f"Prepared as {made.preparation.in_words}{made.rounded}{windows}")
