"""Provides the features that a trained slide classifier needs: existing ones, or new ones made as in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from medsoft.cluster.client import Cluster
from medsoft.encoders.from_checkpoint import NamedEncoder, check_encoder, trained_encoder
from medsoft.errors import InputError
from medsoft.inference.slides.encode_cohort import EncodeJob, encode_slides
from medsoft.inference.slides.existing_features import check_kinds, encoded_before, holds_features, is_encoded
from medsoft.inference.slides.model import SlideModel
from medsoft.slides.disk_space import check_space
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.progress import slides_progress
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.run import check_names
from medsoft.slides.tiling.settings import EncodingSettings, TileSettings


def make_features(
    sources: Sequence[SlideSource],
    folder: SlidesFolder,
    model: SlideModel,
    named: NamedEncoder,
    encoding: EncodingSettings,
    where: Cluster,
) -> dict[str, SlideStatus]:
    """Encode the slides that are not encoded as in the training; the encoder is only loaded where one is not.

    Args:
        sources: slides, or feature files in their place.
        folder: where the features go.
        model: says which tiles and which encoder.
        named: what the user says of the encoder.
        encoding: how tiles are read and encoded.
        where: the work runs.

    Returns:
        What became of each, by id.

    Raises:
        InputError: an encoder or weights other than those of the training; feature files of another kind than the
            model's; slides, where the model was trained on features of another tool.
        OSError: the folder cannot be written; finished work is kept.
    """
    slides = [source for source in sources if not holds_features(source)]
    check_kinds([source.path for source in sources if holds_features(source)], model.identity)
    check_names(slides, folder)
    if slides and model.slides is None:
        raise InputError(
            f"the model was trained on features of another tool, {model.identity.origin} "
            f"({model.identity.encoder or 'encoder not known'}): give its feature files instead of the slides"
        )
    if model.slides is not None:
        check_encoder(model.slides, named)
    waiting = [source for source in slides if not is_encoded(source, folder, model.identity)]
    if slides and len(waiting) < len(slides):
        print(f"{len(slides) - len(waiting)} of {len(slides)} slides are encoded already: their features are kept")
    before = folder.slide_statuses()
    slide_statuses = {source.id: encoded_before(before.get(source.id)) for source in sources}
    if not waiting or model.slides is None:
        return slide_statuses

    precision = model.identity.precision_to_take(encoding.precision)
    build = partial(trained_encoder, model.slides, named, precision=precision, engine=encoding.engine)
    here = where.workers
    encoder = build(device=here.device_here, precision=here.precision_here(precision))
    tiles = TileSettings.from_dict(model.slides["tile_settings"])
    check_space(waiting, folder, tiles, encoder.num_features, "float16")
    job = EncodeJob(
        out=folder.path.absolute(),
        where=here,
        build=build,
        sha256=encoder.sha256,
        tiles=tiles,
        encoding=encoding,
    )
    with slides_progress(len(waiting), "encoding") as progress:
        made = encode_slides(waiting, folder, job, encoder, where, progress)
    return slide_statuses | {source.id: slide_status for source, slide_status in zip(waiting, made, strict=True)}
