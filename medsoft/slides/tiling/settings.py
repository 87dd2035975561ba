"""Settings of tissue, tiles, encoding and heatmaps, each documented once; their fields are the options of the verbs.

``TileSettings`` decide where the tiles of a slide lie: the same file and the same settings give the same tiles,
anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from medsoft.errors import InputError, check_range
from medsoft.parsing.options import Settings
from medsoft.slides.annotations.settings import RegionSettings
from medsoft.slides.quality.settings import (
    ArtefactLimits,
    ArtefactModel,
    Quality,
    QualitySettings,
    quality_settings,
)
from medsoft.slides.segmentation.mask_model import TileModels

Precision = Literal["auto", "32", "16", "bf16"]
"""Of an encoder's arithmetic."""

Engine = Literal["auto", "torch", "onnx", "openvino"]
"""What computes an encoder on a CPU."""

EVERYTHING = "everything"
BY_PICTURE = ("saturation", EVERYTHING)
"""Keys of ``medsoft.slides.tiling.tissue.METHODS``; named here, where nothing needs OpenCV."""

BY_MODEL = "model"
METHOD_NAMES = (*BY_PICTURE, BY_MODEL)

OF_MODEL = ("weights", "recipe", "classes")
"""Settings that only the method ``model`` has; the others are those of earlier versions."""

INK_COLOURS = ("blue", "green", "red", "black")


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is distinguished from glass. Sizes are in µm, so that they mean the same on every slide and scanner.

    Attributes:
        method: saturation (stain is more saturated than glass), everything (no search: the whole slide counts as
            tissue), or model (a segmentation model of yours, see weights).
        mpp: Resolution of the mask in µm per pixel, at which a model is shown the slide too; slides that are coarser
            than this get a mask at their own resolution.
        smooth_um: Standard deviation in µm of the blur before thresholding.
        min_saturation: Anything less saturated than this (0 to 1) is glass, even if the slide holds nothing else.
        max_saturation: Anything more saturated than this (0 to 1) is tissue, however strongly the rest is stained.
        min_area_um2: Pieces of tissue smaller than this, in µm², are discarded as dust.
        max_hole_um2: Holes smaller than this, in µm², are filled; larger ones remain.
        ink: Colours of pen marks to leave out, separated by commas, from blue, green, red and black; "" for none, as
            for stains that are themselves blue or green (trichrome, Alcian blue).
        min_ink_um2: Spots of such a colour that are smaller than this, in µm², do not count as pen marks.
        ink_margin_um: Margin around pen marks, in µm, that is left out with them.
        weights: For the method model: a run of medsoft fit --config segmentation, a bundle, or with recipe a file.
        recipe: For the method model: name of a published model, whose weights the file holds, such as grandqc-tissue.
        classes: For the method model: its classes that are tissue, separated by commas; all by default.

    Raises:
        InputError: a value is out of its range.
    """

    method: str = "saturation"
    mpp: float = 8.0
    smooth_um: float = 16.0
    min_saturation: float = 0.05
    max_saturation: float = 0.10
    min_area_um2: float = 20_000.0
    max_hole_um2: float = 40_000.0
    ink: str = "blue,green,red,black"
    min_ink_um2: float = 40_000.0
    ink_margin_um: float = 100.0
    weights: str = ""
    recipe: str = ""
    classes: str = ""

    def __post_init__(self) -> None:
        _as_floats(self)
        if self.method not in METHOD_NAMES:
            raise InputError(f"tissue.method {self.method!r} must be one of {', '.join(METHOD_NAMES)}")
        if unknown := [name for name in self.ink_colours if name not in INK_COLOURS]:
            raise InputError(f"tissue.ink {', '.join(unknown)}: the colours are {', '.join(INK_COLOURS)}")
        object.__setattr__(self, "ink", ",".join(name for name in INK_COLOURS if name in self.ink_colours))
        check_range("tissue.mpp", self.mpp, 0.5, 100)
        check_range("tissue.smooth_um", self.smooth_um, 0, 1000)
        check_range("tissue.min_saturation", self.min_saturation, 0, 1)
        check_range("tissue.max_saturation", self.max_saturation, self.min_saturation, 1)
        for name in ("min_area_um2", "max_hole_um2", "min_ink_um2"):
            check_range(f"tissue.{name}", getattr(self, name), 0, 1e12)
        check_range("tissue.ink_margin_um", self.ink_margin_um, 0, 10_000)
        if (self.method == BY_MODEL) != bool(self.weights):
            raise InputError("--tissue.method model and --tissue.weights RUN|BUNDLE|FILE belong together: give both")
        if (self.recipe or self.classes) and not self.weights:
            raise InputError("--tissue.recipe and --tissue.classes are of a model: give --tissue.method model too")

    def as_dict(self) -> dict[str, Any]:
        """Plain values; without those of a model where there is none, as in earlier versions."""
        left_out = () if self.method == BY_MODEL else OF_MODEL
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in ``classes``."""
        return tuple(name.strip() for name in self.classes.split(",") if name.strip())

    @property
    def ink_colours(self) -> tuple[str, ...]:
        """The names in ``ink``."""
        return tuple(name.strip() for name in self.ink.split(",") if name.strip())


@dataclass(frozen=True)
class TileSettings:
    """Size and spacing of tiles, and how much of a tile must be tissue.

    Attributes:
        mpp: resolution at which tiles are read, in µm per pixel.
        tile_px: side of a tile, in pixels of that resolution.
        overlap_px: overlap of neighbouring tiles, in pixels at that resolution.
        min_tissue: a tile is kept if at least this fraction of it is tissue; with 0 every tile of the grid is kept.
        tissue: how tissue is found.
        regions: which tiles regions leave; None: those of the whole slide.
        quality: how artefacts are measured, and which tiles they leave; None: they are not looked for.
        models: that find tissue or artefacts, where the settings above name some; no setting itself.

    Raises:
        InputError: a value is out of its range.
    """

    mpp: float
    tile_px: int
    overlap_px: int = 0
    min_tissue: float = 0.25
    tissue: TissueSettings = field(default_factory=TissueSettings)
    regions: RegionSettings | None = None
    quality: QualitySettings | None = None
    models: TileModels = field(default_factory=TileModels, compare=False, repr=False)

    def __post_init__(self) -> None:
        _as_floats(self)
        check_range("mpp", self.mpp, 0.01, 1000)
        check_range("tile", self.tile_px, 8, 16384)
        check_range("overlap", self.overlap_px, 0, self.tile_px - 1)
        check_range("min_tissue", self.min_tissue, 0, 1)

    @property
    def tile_um(self) -> float:
        """Side of a tile in µm."""
        return self.tile_px * self.mpp

    @property
    def names_models(self) -> bool:
        """Whether a model finds tissue or artefacts."""
        return bool(self.tissue.weights) or (self.quality is not None and self.quality.model is not None)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, ready for JSON; ``from_dict`` gives equal settings back.

        Regions and quality are left out where there are none: settings without them are those of earlier versions.
        """
        values = asdict(replace(self, models=TileModels())) | {"tissue": self.tissue.as_dict()}
        del values["models"]
        for name in ("regions", "quality"):
            chosen = getattr(self, name)
            del values[name]
            values |= {} if chosen is None else {name: chosen.as_dict()}
        return values

    def gives(self, asked: TileSettings) -> bool:
        """Whether tiles of these settings are those that are asked for: measures of artefacts may be there besides."""
        is_measured = self.quality is not None and not self.quality.filters
        return self == asked or (is_measured and replace(self, quality=None) == asked)

    def as_columns(self) -> dict[str, Any]:
        """The settings as fields of ``slides.csv``."""
        return settings_columns(self.as_dict())

    def differences(self, other: TileSettings) -> list[str]:
        """What ``other`` has otherwise, one entry per setting: "tile_px 256, not 224"."""
        mine, theirs = _named(self), _named(other)
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        return [f"{name} {_shown(theirs.get(name))}, not {_shown(mine.get(name))}" for name in names]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TileSettings:
        """Settings from ``as_dict``.

        Raises:
            TypeError: a key is unknown or missing.
        """
        regions, quality = values.get("regions"), values.get("quality")
        given = {**values, "tissue": TissueSettings(**values["tissue"])}
        given |= {} if regions is None else {"regions": RegionSettings.from_dict(regions)}
        return cls(**given | ({} if quality is None else {"quality": QualitySettings.from_dict(quality)}))


@dataclass(frozen=True)
class TilingOptions(Settings):
    """Size and spacing of tiles; whatever is not given comes from the encoder's recipe.

    Attributes:
        mpp: Resolution of the tiles in µm per pixel; slides encode uses the recipe's if not given.
        tile: Side of a tile in pixels at that resolution; slides encode uses the recipe's if not given.
        overlap: Overlap of neighbouring tiles, in pixels at that resolution.
        min_tissue: Smallest fraction of tissue for a tile to be kept.
        tissue: How tissue is found.
        quality: Measure blur, folds, air bubbles and pen in every tile; filter also leaves out the tiles beyond the
            limits. Not looked for by default.
        artefacts: How much of them a tile may have.
        artefact_model: A segmentation model that finds artefacts, in place of these measures.
    """

    mpp: float | None = None
    tile: int | None = None
    overlap: int = 0
    min_tissue: float = 0.25
    tissue: TissueSettings = field(default_factory=TissueSettings)
    quality: Quality | None = None
    artefacts: ArtefactLimits = field(default_factory=ArtefactLimits)
    artefact_model: ArtefactModel = field(default_factory=ArtefactModel)

    def __post_init__(self) -> None:
        if self.artefact_model != ArtefactModel() and self.quality is None:
            raise InputError("--artefact_model... measures the quality of tiles: it needs --quality measure or filter")
        if self.artefact_model.weights and self.artefacts != ArtefactLimits():
            raise InputError(
                "--artefacts... are limits of the measures without a model: with --artefact_model.weights leave them "
                "out; its limit is --artefact_model.max_artefact"
            )
        if self.quality != "filter" and self.artefacts != ArtefactLimits():
            raise InputError("--artefacts... says which tiles are left out: it needs --quality filter")

    def settings(
        self, mpp: float | None = None, tile: int | None = None, regions: RegionSettings | None = None
    ) -> TileSettings:
        """The settings, with these values where the user has said none, and with regions.

        Raises:
            InputError: a value is out of its range, or nobody says it.
        """
        values = {
            "mpp": mpp if self.mpp is None else self.mpp,
            "tile": tile if self.tile is None else self.tile,
        }
        if missing := [name for name, value in values.items() if value is None]:
            raise InputError(f"missing: {', '.join(missing)}")
        assert values["mpp"] is not None
        assert isinstance(values["tile"], int)
        quality = quality_settings(self.quality, self.artefacts, self.artefact_model)
        return TileSettings(values["mpp"], values["tile"], self.overlap, self.min_tissue, self.tissue, regions, quality)


@dataclass(frozen=True)
class EncodingSettings(Settings):
    """How tiles are read and encoded; none of this changes the features beyond rounding.

    Attributes:
        batch_size: Number of tiles encoded together.
        workers: Number of threads that read tiles; one per processor by default, 8 at most.
        max_unreadable: A slide with a larger fraction of unreadable tiles than this fails.
        precision: Floating-point precision of the encoder; auto is 16 on a GPU and 32 otherwise. Features in bf16 are
            not used together with others.
        engine: What computes on a CPU, torch, onnx or openvino; auto takes onnx, else openvino, where it is installed
            and agrees with PyTorch.

    Raises:
        InputError: a value is out of its range.
    """

    batch_size: int = 64
    workers: int | None = None
    max_unreadable: float = 0.01
    precision: Precision = "auto"
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        check_range("workers", 1 if self.workers is None else self.workers, 1)
        check_range("batch_size", self.batch_size, 1)
        check_range("max_unreadable", self.max_unreadable, 0, 1)


@dataclass(frozen=True)
class HeatmapSettings(Settings):
    """Which heatmaps to draw.

    Attributes:
        heatmap: Draw heatmaps; by default for a single model. An ensemble has none; slides predict compares what its
            members say of each tile, unless this is false.
        classes: Class, or several classes, to draw maps of in heatmaps/CLASS; by default one map, of the positive or
            predicted class.

    Raises:
        InputError: classes are named, but no heatmap is to be drawn.
    """

    heatmap: bool | None = None
    classes: str | list[str] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and self.heatmap is False:
            raise InputError("--classes says whose heatmaps are drawn, but --heatmap false draws none")


def settings_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as fields of ``slides.csv``, those of tissue as words ``name=value`` in one.

    Args:
        values: as ``TileSettings.as_dict``; what a feature file of another hand does not say stays empty.
    """
    names = {"tile_mpp": "mpp", "tile_px": "tile_px", "overlap_px": "overlap_px", "min_tissue": "min_tissue"}
    tissue = " ".join(f"{name}={_shown(value)}" for name, value in values.get("tissue", {}).items())
    regions, quality = values.get("regions"), values.get("quality")
    found = {column: values.get(name) for column, name in names.items()} | {"tissue": tissue}
    found["tile_regions"] = RegionSettings.from_dict(regions).in_words if regions else ""
    return found | {"tile_quality": QualitySettings.from_dict(quality).in_words if quality else ""}


def _named(settings: TileSettings) -> dict[str, Any]:
    """Every setting by its own name; the mask's resolution is not that of the tiles."""
    values = settings.as_dict()
    named = {f"tissue.{name}": value for name, value in values.pop("tissue").items()}
    for group in ("regions", "quality"):
        named |= {f"{group}.{name}": value for name, value in values.pop(group, {}).items()}
    return named | values


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _as_floats(settings: TissueSettings | TileSettings) -> None:
    """Make whole numbers floats where floats belong: settings are compared as JSON, where 1 is not 1.0."""
    for one in fields(settings):
        if one.type == "float":
            object.__setattr__(settings, one.name, float(getattr(settings, one.name)))


@dataclass(frozen=True)
class TrainedTiles(Settings):
    """The tiles of the training, to check against the checkpoint, which decides.

    Attributes:
        mpp: Resolution of the tiles in µm per pixel, to check against the checkpoint's.
        tile: Side of the tiles in pixels, to check against the checkpoint's.
        overlap: Overlap of the tiles in pixels, to check against the checkpoint's.
    """

    mpp: float | None = None
    tile: int | None = None
    overlap: int | None = None
