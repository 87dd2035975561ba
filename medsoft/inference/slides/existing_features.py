"""Finds existing features that a trained model can read, in the folder or instead of slides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsoft.data.features.open import SUFFIXES, open_bag
from medsoft.data.features.provenance import EncoderIdentity
from medsoft.errors import BagError, InputError, SlideError
from medsoft.slides.encoding.resume import finished_features
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.source import SlideSource


def holds_features(source: SlideSource) -> bool:
    """Whether a feature file stands in place of the slide."""
    return not source.url and source.path.suffix.lower() in SUFFIXES


def features_of(source: SlideSource, folder: SlidesFolder) -> Path:
    """Where the features of a slide are or will be."""
    return source.path if holds_features(source) else folder.features(source.id)


def is_encoded(source: SlideSource, folder: SlidesFolder, identity: EncoderIdentity) -> bool:
    """Whether the features of a slide are there: of this content and resolution, made as in the training."""
    try:
        return finished_features(source, folder.features(source.id), identity) is not None
    except SlideError:  # it fails when it is to be encoded, with its reason
        return False


def find_features(
    sources: Sequence[SlideSource], folder: SlidesFolder, identity: EncoderIdentity
) -> dict[str, SlideStatus]:
    """What became of each slide so far, by id: failed where its features are not those that the model needs."""
    before = folder.slide_statuses()
    found = {}
    for source in sources:
        if holds_features(source) or is_encoded(source, folder, identity):
            found[source.id] = encoded_before(before.get(source.id))
        else:
            reason = f"no features of this slide, made as in the training, are in {folder.path / 'features'}"
            found[source.id] = SlideStatus("failed", "features", f"{reason}: medsoft slides predict makes them")
    return found


def encoded_before(slide_status: SlideStatus | None) -> SlideStatus:
    """What is known of a slide that has its features, whatever became of it later."""
    return (
        SlideStatus("encoded") if slide_status is None else replace(slide_status, status="encoded", stage="", reason="")
    )


def check_kinds(files: Sequence[Path], identity: EncoderIdentity) -> None:
    """Refuse feature files of another kind than those of the training; damaged ones are left for later.

    Raises:
        InputError: lists them.
    """
    files_of: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        try:
            with open_bag(file) as bag:
                differing = identity.differences(bag.identity)
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
