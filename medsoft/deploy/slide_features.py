"""The features that a trained slide classifier needs: found where they are, otherwise made as its checkpoint says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from medsoft.data.bags.bag_file import SUFFIXES, BagError, open_bag
from medsoft.data.bags.facts import EncoderIdentity
from medsoft.data.hashing import quick_hash
from medsoft.deploy.cluster import Cluster
from medsoft.deploy.cohort import ELSEWHERE, encode_with
from medsoft.deploy.slide_model import SlideModel
from medsoft.deploy.slide_tasks import EncodeOrder
from medsoft.deploy.trained_encoder import Encoding, build_on, check_encoder, trained_encoder
from medsoft.errors import InputError
from medsoft.slides.disk_space import check_space
from medsoft.slides.folder import Outcome, SlidesFolder
from medsoft.slides.progress import slides_progress
from medsoft.slides.settings import TileSettings
from medsoft.slides.sources import SlideSource
from medsoft.slides.tile_slides import check_names


def holds_features(source: SlideSource) -> bool:
    """Whether a feature file stands in place of the slide."""
    return source.path.suffix.lower() in SUFFIXES


def features_of(source: SlideSource, folder: SlidesFolder) -> Path:
    """Where the features of a slide are or will be."""
    return source.path if holds_features(source) else folder.features(source.id)


def is_encoded(source: SlideSource, folder: SlidesFolder, identity: EncoderIdentity) -> bool:
    """Whether the features of a slide are there: of this content and resolution, made as in the training."""
    try:
        with open_bag(folder.features(source.id)) as bag:
            facts, found = bag.facts, bag.identity
        if facts is None or found != identity or facts.quick_hash != quick_hash(source.path):
            return False
    except (BagError, OSError):
        return False
    stated_before = facts.mpp_origin in ("option", "table")
    return source.mpp == facts.mpp if source.mpp is not None or stated_before else True


def find_features(sources: Sequence[SlideSource], folder: SlidesFolder, model: SlideModel) -> dict[str, Outcome]:
    """What became of each slide so far, by id: failed where its features are not those that the model needs."""
    before = folder.outcomes()
    found = {}
    for source in sources:
        if holds_features(source) or is_encoded(source, folder, model.identity):
            found[source.id] = _done_before(before.get(source.id))
        else:
            reason = f"no features of this slide, made as in the training, are in {folder.path / 'features'}"
            found[source.id] = Outcome("failed", "features", f"{reason}: medsoft slides predict makes them")
    return found


def make_features(
    sources: Sequence[SlideSource],
    folder: SlidesFolder,
    model: SlideModel,
    encoding: Encoding,
    cluster: Cluster,
) -> dict[str, Outcome]:
    """Encode the slides that are not encoded as in the training; the encoder is only loaded where one is not.

    Args:
        sources: slides, or feature files in their place.
        folder: where the features go.
        model: says which tiles and which encoder.
        encoding: what the user says of the encoder, and how it works.
        cluster: who encodes.

    Returns:
        What became of each, by id.

    Raises:
        InputError: an encoder or weights other than those of the training; feature files of another kind than the
            model's; slides, where the model was trained on features of another tool.
        OSError: the folder cannot be written; what was finished is kept.
    """
    slides = [source for source in sources if not holds_features(source)]
    check_kinds([source.path for source in sources if holds_features(source)], model)
    check_names(slides, folder)
    if slides and model.slides is None:
        raise InputError(
            f"the model was trained on features of another tool, {model.identity.origin} "
            f"({model.identity.encoder or 'encoder not known'}): give its feature files in place of the slides"
        )
    if model.slides is not None:
        check_encoder(model.slides, encoding)
    waiting = [source for source in slides if not is_encoded(source, folder, model.identity)]
    if slides and len(waiting) < len(slides):
        print(f"{len(slides) - len(waiting)} of {len(slides)} slides are encoded already: their features are kept")
    before = folder.outcomes()
    outcomes = {source.id: _done_before(before.get(source.id)) for source in sources}
    if waiting and model.slides is not None:
        here = {"device": encoding.device, "precision": encoding.precision}
        encoder = trained_encoder(
            model.slides, replace(encoding, **(here if cluster.workers.scheduler == "local" else ELSEWHERE))
        )
        settings = TileSettings.from_dict(model.slides["tile_settings"])
        check_space(waiting, folder, settings, encoder.num_features, "float16")
        order = EncodeOrder(
            out=folder.path.absolute(),
            device=encoding.device,
            on_one_machine=cluster.workers.on_one_machine,
            build=partial(build_on, model.slides, encoding),
            sha256=encoder.sha256,
            settings=settings,
            dtype="float16",
            batch=encoding.batch,
            workers=encoding.workers,
            max_unreadable=encoding.max_unreadable,
        )
        with slides_progress(len(waiting), "encoding") as progress:
            made = encode_with(cluster, waiting, folder, order, encoder, progress)
        outcomes |= {source.id: outcome for source, outcome in zip(waiting, made, strict=True)}
    return outcomes


def check_kinds(files: Sequence[Path], model: SlideModel) -> None:
    """Refuse feature files of another kind than those of the training; damaged ones are left for later.

    Raises:
        InputError: lists them.
    """
    files_of: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        try:
            with open_bag(file) as bag:
                differing = model.identity.differences(bag.identity)
        except BagError:
            continue
        if differing:
            files_of["; ".join(differing)].append(file)
    problems = [
        f"  {found[0].stem}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {differing}"
        for differing, found in files_of.items()
    ]
    if problems:
        raise InputError("\n".join(["feature files of another kind than those of the training:", *problems]))


def _done_before(outcome: Outcome | None) -> Outcome:
    """What is known of a slide that has its features, whatever became of it later."""
    return Outcome("encoded") if outcome is None else replace(outcome, status="encoded", stage="", reason="")
