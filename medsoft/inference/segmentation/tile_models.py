"""Models that decide where tiles lie: what the options name, found to be right before work starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medsoft.errors import InputError
from medsoft.inference.segmentation.model import Named, SlideMasks, names_of
from medsoft.slides.quality.settings import ArtefactModel, QualitySettings
from medsoft.slides.segmentation.mask_model import MaskModel, TileModels, chosen_values
from medsoft.slides.tiling.settings import TileSettings, TissueSettings


@dataclass(frozen=True)
class ArtefactsOf:
    """Some of the classes of a model, in their order; all others are background (``MaskModel``).

    Raises:
        InputError: a class is not the model's.
    """

    model: SlideMasks
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        chosen_values(self.model, self.names)

    @property
    def name(self) -> str:
        """Of the model."""
        return self.model.name

    @property
    def identity(self) -> dict[str, Any]:
        """Of the model."""
        return self.model.identity

    @property
    def classes(self) -> tuple[str, ...]:
        """Those that were chosen."""
        return self.names

    @property
    def side(self) -> int:
        """Of the model's windows."""
        return self.model.side

    @property
    def weights_hw(self) -> np.ndarray:
        """Of the pixels of a window."""
        return self.model.weights_hw

    @property
    def values_K(self) -> np.ndarray:
        """Value of each of the model's scores."""
        numbers = {name: value for value, name in enumerate(self.names, start=1)}
        new = np.array([0, *(numbers.get(name, 0) for name in self.model.classes)], np.uint8)
        values: np.ndarray = new[self.model.values_K]
        return values

    def __call__(self, images_BHWC: np.ndarray) -> np.ndarray:
        """The model's scores."""
        return self.model(images_BHWC)


def with_models(tiles: TileSettings, device: str, scratch: Path | None = None) -> TileSettings:
    """Settings of tiles with the models that they name, whose paths give way to hashes of their weights.

    Args:
        tiles: as the options say.
        device: to compute on.
        scratch: folder for maps while they are made.

    Raises:
        InputError: there is no such model or class, or it does not fit.
    """
    tissue, of_tissue = resolved_tissue(tiles.tissue, device)
    quality, of_artefacts = _resolved_quality(tiles.quality, device)
    return replace(tiles, tissue=tissue, quality=quality, models=TileModels(of_tissue, of_artefacts, scratch))


def resolved_tissue(settings: TissueSettings, device: str) -> tuple[TissueSettings, MaskModel | None]:
    """Settings of tissue with the hash of their model, and the model; of other methods as they are, and None.

    Raises:
        InputError: as of ``with_models``.
    """
    if not settings.weights:
        return settings, None
    model = SlideMasks(Named("--tissue.weights", names_of(settings.weights), settings.recipe), device)
    chosen_values(model, settings.class_names)
    mpp = settings.mpp
    if model.built.mpp is not None and mpp == TissueSettings().mpp:
        mpp = model.built.mpp
    return replace(settings, weights=model.fingerprint, mpp=mpp), model


def _resolved_quality(settings: QualitySettings | None, device: str) -> tuple[QualitySettings | None, MaskModel | None]:
    asked = None if settings is None else settings.model
    if settings is None or asked is None:
        return settings, None
    model = SlideMasks(Named("--artefact_model.weights", names_of(asked.weights), asked.recipe), device)
    names = asked.class_names or model.built.artefacts or model.classes
    mpp = asked.mpp or model.built.mpp
    if mpp is None:
        raise InputError("missing: --artefact_model.mpp, the µm per pixel of the images that the model was trained on")
    known: ArtefactModel = replace(asked, weights=model.fingerprint, mpp=mpp, classes=",".join(names))
    return replace(settings, model=known), ArtefactsOf(model, tuple(names))
