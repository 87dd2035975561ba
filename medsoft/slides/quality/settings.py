"""How much of each artefact a tile may have. This module is light, as each verb for slides imports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from medsoft.errors import InputError, check_range

Quality = Literal["measure", "filter"]
"""What ``--quality`` asks for."""


@dataclass(frozen=True)
class ArtefactLimits:
    """What a tile may have at most (or at least) to be kept. docs/experiments/tile_quality.md has the measurements.

    Attributes:
        min_sharpness: Least variance of the Laplacian of a tile's tissue at 1 µm per pixel; 0 keeps blurred tiles.
        max_fold: Largest part (0 to 1) of a tile that may be folds, or other tissue as thick; 1 keeps all.
        max_bubble: Largest part (0 to 1) of a tile that may be dark without colour, as the rims of air bubbles, edges
            of glass and dust are; 1 keeps all.
        max_pen: Largest part (0 to 1) of a tile that may be pen ink with its margin; 1 keeps all.

    Raises:
        InputError: a value is out of its range.
    """

    min_sharpness: float = 100.0
    max_fold: float = 0.1
    max_bubble: float = 0.1
    max_pen: float = 0.1

    def __post_init__(self) -> None:
        for one in fields(self):  # settings are compared as JSON, where 1 is not 1.0
            object.__setattr__(self, one.name, float(getattr(self, one.name)))
            high = 1e9 if one.name == "min_sharpness" else 1
            check_range(f"artefacts.{one.name}", getattr(self, one.name), 0, high)


@dataclass(frozen=True)
class ArtefactModel:
    """A segmentation model that finds artefacts in place of ``ArtefactLimits``.

    Attributes:
        weights: A run of medsoft fit --config segmentation, a bundle, or with recipe a file.
        recipe: Name of a published model, whose weights the file holds, such as grandqc-artefacts-mpp1.5.
        mpp: Resolution at which the model sees the slides, in µm per pixel; a recipe has its own.
        classes: Its classes that are artefacts, separated by commas; those of the recipe, or all by default.
        max_artefact: Largest part (0 to 1) of a tile that may be artefacts of any of these classes.

    Raises:
        InputError: a value is out of its range, or belongs to a model that is not named.
    """

    weights: str = ""
    recipe: str = ""
    mpp: float | None = None
    classes: str = ""
    max_artefact: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_artefact", float(self.max_artefact))
        check_range("artefact_model.max_artefact", self.max_artefact, 0, 1)
        if self.mpp is not None:
            object.__setattr__(self, "mpp", float(self.mpp))
            check_range("artefact_model.mpp", self.mpp or 0.0, 0.01, 100)
        given = (self.recipe, self.mpp, self.classes, self.max_artefact)
        if not self.weights and given != ("", None, "", 0.5):
            raise InputError("--artefact_model... needs --artefact_model.weights RUN|BUNDLE|FILE")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in ``classes``."""
        return tuple(name.strip() for name in self.classes.split(",") if name.strip())


@dataclass(frozen=True)
class QualitySettings:
    """Whether artefacts are only measured, or decide which tiles are kept.

    Attributes:
        limits: of tiles that are kept; None: all are.
        model: that measures; None: the measures without one.
        filters_by_model: whether tiles beyond its limit are left out.
    """

    limits: ArtefactLimits | None = None
    model: ArtefactModel | None = None
    filters_by_model: bool = False

    @property
    def filters(self) -> bool:
        """Whether tiles are left out."""
        return self.limits is not None or self.filters_by_model

    @property
    def in_words(self) -> str:
        """Such as "min_sharpness=100 max_fold=0.1 …"; "measured" without limits."""
        if self.model is not None:
            words = {name: value for name, value in self._of_model().items() if value}
            return " ".join(["measured"] * (not self.filters) + [f"{name}={value}" for name, value in words.items()])
        if self.limits is None:
            return "measured"
        return " ".join(f"{name}={value:g}" for name, value in asdict(self.limits).items())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        model = {} if self.model is None else {"model": self._of_model()}
        return {"measured": True} | ({} if self.limits is None else asdict(self.limits)) | model

    def _of_model(self) -> dict[str, Any]:
        """Its settings; its limit where tiles are left out."""
        assert self.model is not None
        return asdict(self.model) | ({} if self.filters_by_model else {"max_artefact": None})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QualitySettings:
        """Settings from ``as_dict``.

        Raises:
            TypeError: a key is unknown.
        """
        limits = {name: value for name, value in values.items() if name not in ("measured", "model")}
        if "model" not in values:
            return cls(ArtefactLimits(**limits) if limits else None)
        given = {name: value for name, value in values["model"].items() if value is not None}
        return cls(None, ArtefactModel(**given), "max_artefact" in given)


def quality_settings(asked: Quality | None, limits: ArtefactLimits, model: ArtefactModel) -> QualitySettings | None:
    """The settings of what a user asks for; None where it is nothing."""
    if asked is None:
        return None
    if not model.weights:
        return QualitySettings(limits if asked == "filter" else None)
    filters = asked == "filter"
    # A limit that decides nothing is no setting: tiles that were measured are those of any limit.
    return QualitySettings(None, model if filters else replace(model, max_artefact=0.5), filters)
