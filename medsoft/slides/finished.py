"""Which slides an earlier run has encoded: told from what is in the feature file, not from its name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medsoft.data.bags.bag_file import open_bag
from medsoft.data.bags.errors import BagError
from medsoft.data.bags.facts import FeatureFacts
from medsoft.data.bags.feature_file import is_complete
from medsoft.data.hashing import quick_hash
from medsoft.slides.errors import SlideError
from medsoft.slides.folder import Outcome, SlidesFolder
from medsoft.slides.settings import TileSettings
from medsoft.slides.sources import SlideSource
from medsoft.slides.tile_encoder import TileEncoder
from medsoft.slides.tiling import Tiling

DONE = ("encoded", "predicted")


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
    before: Mapping[str, Outcome]
    paths: Mapping[str, str]

    def facts(self, tiling: Tiling) -> FeatureFacts:
        """What the feature file of a slide says of itself."""
        return FeatureFacts(
            slide=tiling.slide,
            quick_hash=tiling.quick_hash,
            size_px0=tiling.size_px0,
            mpp=tiling.mpp,
            mpp_origin=tiling.mpp_origin,
            precision=self.encoder.precision,
            **self._decided(),
        )

    def finished(self, source: SlideSource) -> Outcome | None:
        """What an earlier run made of a slide, where that is what this run would make of it; else None.

        The slide is not opened: its content, settings, encoder, and what the user states of its resolution decide.

        Raises:
            SlideError: the slide's file cannot be read.
        """
        path = self.folder.features(source.id)
        if not path.is_file():
            return None
        try:
            content = quick_hash(source.path)
        except OSError as error:
            raise SlideError(f"cannot be opened: {error.strerror or error}") from error
        try:
            with open_bag(path) as bag:
                facts, tiles, unreadable = bag.facts, bag.num_tiles, int(np.count_nonzero(~bag.good_N))
        except BagError:
            return None
        if facts is None:
            return None
        was_stated = facts.mpp_origin in ("option", "table")
        same_mpp = source.mpp == facts.mpp or (source.mpp is None and not was_stated)
        if not same_mpp or not is_complete(path, replace(facts, quick_hash=content, **self._decided()), self.dtype):
            return None
        before = self.before.get(source.id)
        if before is None or before.status not in DONE:
            before = Outcome("encoded", tiles=tiles, unreadable=unreadable, mpp=facts.mpp, mpp_origin=facts.mpp_origin)
        return replace(before, kept=True, **self.settings.as_columns())

    def forget(self, source: SlideSource) -> None:
        """Remove a slide's feature file that this run would have replaced, had the slide not failed.

        It stays where that cannot be told, as the slide is gone, and where it is another slide's.
        """
        with suppress(SlideError):
            if self.paths.get(source.id, str(source.path)) == str(source.path) and self.finished(source) is None:
                self.folder.features(source.id).unlink(missing_ok=True)

    def _decided(self) -> dict[str, Any]:
        return {
            "tile_settings": self.settings.as_dict(),
            "encoder": self.encoder.name,
            "encoder_sha256": self.encoder.sha256,
            "encoder_init": self.encoder.init,
            "encoder_settings": self.encoder.settings,
        }
