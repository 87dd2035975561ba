"""Decides which slides are done, by the content of an earlier run's files and not by their names.

One rule for tiles, for ``slides encode`` and for ``slides predict``: ``is_of_slide``, and the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medsoft.data.features.open import open_bag
from medsoft.data.features.provenance import EncoderIdentity, Provenance
from medsoft.errors import BagError, SlideError
from medsoft.slides.encoding.encoder_protocol import TileEncoder
from medsoft.slides.folder import SlidesFolder, SlideStatus
from medsoft.slides.source import SlideSource
from medsoft.slides.tiling.settings import TileSettings
from medsoft.slides.tiling.tiling import Tiling
from medsoft.storage.remote import quick_hash_of_place

DONE = ("encoded", "predicted")


class Made(Protocol):
    """What files of a slide say of the slide that they were made from: its tiles, or its features."""

    @property
    def quick_hash(self) -> str:
        """Of the slide's file."""

    @property
    def mpp(self) -> float:
        """µm per level-0 pixel."""

    @property
    def mpp_origin(self) -> str:
        """Where ``mpp`` comes from."""

    @property
    def regions_from(self) -> str:
        """Fingerprint of the regions that the tiles were chosen by; "" without any."""


def content_of(source: SlideSource) -> str:
    """The quick hash of a slide's file, also where it is elsewhere: a few parts of it are read then.

    Raises:
        SlideError: it cannot be read.
    """
    try:
        return quick_hash_of_place(source.file)
    except OSError as error:
        raise SlideError(f"cannot be opened: {error.strerror or error}") from error


def is_of_slide(made: Made, source: SlideSource, content: str) -> bool:
    """Whether something was made from a slide as it is now, at the resolution and in the regions that are stated now.

    The slide is not opened: a resolution that its file says can only change with its content. Regions are compared
    where they are named now and decided then: whether they are to decide is a setting.

    Args:
        made: the tiles or the features.
        source: the slide.
        content: ``content_of(source)``.

    Raises:
        SlideError: the slide's regions cannot be read.
    """
    if made.quick_hash != content:
        return False
    if made.regions_from and source.annotations is not None:
        try:
            if made.regions_from != source.annotations.fingerprint:
                return False
        except OSError as error:
            raise SlideError(f"its annotation file cannot be read: {error.strerror or error}") from error
    was_stated = made.mpp_origin in ("option", "table")
    return source.mpp == made.mpp if source.mpp is not None or was_stated else True


@dataclass(frozen=True)
class Finished:
    """A finished feature file.

    Attributes:
        facts: what it says of itself.
        tiles: number of tiles.
        unreadable: how many of them could not be read.
    """

    facts: Provenance
    tiles: int
    unreadable: int


def finished_features(
    source: SlideSource, path: Path, identity: EncoderIdentity, dtype: str | None = None
) -> Finished | None:
    """The feature file of a slide, where encoding it now would give the same; None where it must be encoded.

    Args:
        source: the slide, which is not opened.
        path: where its features would be.
        identity: which encoder is to see which tiles.
        dtype: in which features are to be stored; None: in any.

    Raises:
        SlideError: the slide's file cannot be read.
    """
    if not path.is_file():
        return None
    content = content_of(source)
    try:
        with open_bag(path) as bag:
            facts, found, stored = bag.slide_facts, bag.identity, bag.dtype
            tiles, unreadable = bag.num_tiles, int(np.count_nonzero(~bag.good_N))
    except BagError:
        return None
    if facts is None or found != identity or dtype not in (None, stored) or not is_of_slide(facts, source, content):
        return None
    return Finished(facts, tiles, unreadable)


@dataclass(frozen=True)
class FeatureFiles:
    """The feature files of a folder, as this run would write them.

    Attributes:
        folder: where they lie.
        settings: of the tiles.
        encoder: of the features.
        dtype: in which features are stored, ``float16`` or ``float32``.
        before: what ``slides.csv`` said when the run began.
        paths: of which slides it said that, by id.
    """

    folder: SlidesFolder
    settings: TileSettings
    encoder: TileEncoder
    dtype: str
    before: Mapping[str, SlideStatus]
    paths: Mapping[str, str]

    def facts(self, tiling: Tiling) -> Provenance:
        """What the feature file of a slide says of itself."""
        return Provenance(
            slide=tiling.slide,
            quick_hash=tiling.quick_hash,
            size_px0=tiling.size_px0,
            mpp=tiling.mpp,
            mpp_origin=tiling.mpp_origin,
            bounds_px0=tiling.bounds_px0,
            regions_from=tiling.regions_from,
            engine=self.encoder.engine,
            **self._decided(),
        )

    @property
    def identity(self) -> EncoderIdentity:
        """Which encoder sees which tiles in this run."""
        return Provenance("", "", (0, 0), 0.0, "", **self._decided()).identity

    def finished(self, source: SlideSource) -> SlideStatus | None:
        """What an earlier run made of a slide, where that is what this run would make of it; else None.

        Raises:
            SlideError: the slide's file cannot be read.
        """
        found = finished_features(source, self.folder.features(source.id), self.identity, self.dtype)
        if found is None:
            return None
        before = self.before.get(source.id)
        if before is None or before.status not in DONE:
            facts = found.facts
            before = SlideStatus(
                "encoded", tiles=found.tiles, unreadable=found.unreadable, mpp=facts.mpp, mpp_origin=facts.mpp_origin
            )
        return replace(before, kept=True, **self.settings.as_columns())

    def forget(self, source: SlideSource) -> None:
        """Remove a slide's feature file that this run would have replaced, had the slide not failed.

        It stays where that cannot be told, as the slide is gone, and where it is another slide's.
        """
        with suppress(SlideError):
            if self.paths.get(source.id, source.place) == source.place and self.finished(source) is None:
                self.folder.features(source.id).unlink(missing_ok=True)

    def _decided(self) -> dict[str, Any]:
        return {
            "tile_settings": self.settings.as_dict(),
            "encoder": self.encoder.name,
            "encoder_sha256": self.encoder.sha256,
            "encoder_init": self.encoder.init,
            "encoder_settings": self.encoder.settings,
            "precision": self.encoder.precision,
        }
