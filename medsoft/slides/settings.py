"""What decides where the tiles of a slide lie: the same file and the same settings give the same tiles, anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from medsoft.errors import InputError, check_range

METHOD_NAMES = ("saturation", "everything")
"""Keys of ``medsoft.slides.tissue.METHODS``; named here, where nothing needs OpenCV."""

INK_COLOURS = ("blue", "green", "red", "black")


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is told from glass, in µm, so that it means the same on every slide and scanner.

    Attributes:
        method: saturation (stained against glass), or everything (no search: all of the picture is tissue).
        mpp: Resolution of the mask in µm per pixel; slides that are coarser themselves get a mask of their own pixels.
        smooth_um: Standard deviation of the blur before the threshold.
        min_saturation: What is paler than this (0 to 1) is glass, even where nothing else is on the slide.
        max_saturation: What is more saturated than this (0 to 1) is tissue, however strongly the rest is stained.
        min_area_um2: Smaller pieces are left out as dust.
        max_hole_um2: Smaller holes are filled, larger ones stay holes.
        ink: Colours of pen strokes that are left out, of blue, green, red and black with commas between; "" for none,
            as for stains that are blue or green themselves (trichrome, Alcian blue).
        min_ink_um2: Smaller spots of such a colour are no pen strokes.
        ink_margin_um: What lies this close to a pen stroke is left out with it.

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
        overlap_px: how far neighbours overlap, in pixels of that resolution.
        min_tissue: a tile is kept if at least this fraction of it is tissue; with 0 every tile of the grid is kept.
        tissue: how tissue is found.

    Raises:
        InputError: a value is out of its range.
    """

    mpp: float
    tile_px: int
    overlap_px: int = 0
    min_tissue: float = 0.25
    tissue: TissueSettings = field(default_factory=TissueSettings)

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

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, ready for JSON; ``from_dict`` gives equal settings back."""
        return asdict(self)

    def as_columns(self) -> dict[str, Any]:
        """The settings as fields of ``slides.csv``."""
        return settings_columns(self.as_dict())

    def differences(self, other: TileSettings) -> list[str]:
        """What ``other`` has otherwise, one entry a setting: "tile_px 256, not 224"."""
        mine, theirs = _named(self), _named(other)
        return [
            f"{name} {_shown(theirs[name])}, not {_shown(mine[name])}" for name in mine if mine[name] != theirs[name]
        ]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TileSettings:
        """Settings from ``as_dict``.

        Raises:
            TypeError: a key is unknown or missing.
        """
        return cls(**{**values, "tissue": TissueSettings(**values["tissue"])})


def settings_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as fields of ``slides.csv``, those of tissue as words ``name=value`` in one.

    Args:
        values: as ``TileSettings.as_dict``; what a feature file of another hand does not say stays empty.
    """
    names = {"tile_mpp": "mpp", "tile_px": "tile_px", "overlap_px": "overlap_px", "min_tissue": "min_tissue"}
    tissue = " ".join(f"{name}={_shown(value)}" for name, value in values.get("tissue", {}).items())
    return {column: values.get(name) for column, name in names.items()} | {"tissue": tissue}


def _named(settings: TileSettings) -> dict[str, Any]:
    """Every setting by its own name; the mask's resolution is not that of the tiles."""
    values = settings.as_dict()
    return {**{f"tissue.{name}": value for name, value in values.pop("tissue").items()}, **values}


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _as_floats(settings: TissueSettings | TileSettings) -> None:
    """Make whole numbers floats where floats belong: settings are compared as JSON, where 1 is not 1.0."""
    for one in fields(settings):
        if one.type == "float":
            object.__setattr__(settings, one.name, float(getattr(settings, one.name)))
