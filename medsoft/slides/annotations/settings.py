"""Which regions decide where tiles lie, and where they are found, as the options of the verbs say.

This module is light, as each verb for slides imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from medsoft.errors import InputError, check_range
from medsoft.parsing.options import Settings
from medsoft.storage.hashing import sha256

Unit = Literal["px", "um"]
HALF = 0.5


@dataclass(frozen=True)
class RegionSettings:
    """Which tiles regions leave; these settings belong to the tiles, as their size does.

    Attributes:
        classes: of the regions that count; () for all.
        exclude: classes of regions that are cut out of these.
        keep: tiles inside or outside.
        min_part: least part of a tile's area that must lie there.

    Raises:
        InputError: the part is out of its range.
    """

    classes: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep: Literal["inside", "outside"] = "inside"
    min_part: float = HALF

    def __post_init__(self) -> None:
        for name in ("classes", "exclude"):  # lists, where they come from JSON; their order decides nothing
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        object.__setattr__(self, "min_part", float(self.min_part))
        if not 0 < self.min_part <= 1:
            raise InputError(f"region_min {self.min_part:g} must be above 0, and 1 at most")

    @property
    def in_words(self) -> str:
        """Such as "inside Tumour without Necrosis, 0.5 of a tile"."""
        without = f" without {', '.join(self.exclude)}" if self.exclude else ""
        return f"{self.keep} {', '.join(self.classes) or 'regions'}{without}, {self.min_part:g} of a tile"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "classes": list(self.classes), "exclude": list(self.exclude)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RegionSettings:
        """Settings from ``as_dict``.

        Raises:
            TypeError: a key is unknown or missing.
        """
        return cls(**values)


@dataclass(frozen=True)
class AnnotationSource:
    """Where the regions of a slide are, and how their coordinates are meant.

    Attributes:
        path: the file; None for a slide that has none.
        unit: of the coordinates.
        corner: that they are counted from; None: as is usual in files of that program.
        missing: what it means that there is no file: an error, or a slide without regions ("none").
    """

    path: Path | None
    unit: Unit = "px"
    corner: Literal["slide", "bounds"] | None = None
    missing: Literal["error", "none"] = "none"

    @property
    def fingerprint(self) -> str:
        """What decides the regions, to know whether tiles were made with these.

        Raises:
            OSError: the file cannot be read.
        """
        content = f"no file: {self.missing}" if self.path is None else sha256(self.path)
        return " ".join(filter(None, [content, "" if self.unit == "px" else self.unit, self.corner]))


@dataclass(frozen=True)
class RegionOptions(Settings):
    """Regions that somebody drew on the slides.

    Attributes:
        regions: File with regions drawn on the slide (QuPath GeoJSON; XML of ASAP, ImageScope, HALO or Sedeen), or
            folder of such files, named after the slides.
        region_class: Class, or several classes, of the regions to use; all regions by default.
        region_exclude: Class, or several classes, of regions to cut out of these.
        region_keep: Keep the tiles inside the regions or outside them; all leaves the tiles as they are, to label
            them. inside by default.
        region_min: Smallest fraction of a tile's area that must lie there; 0.5 by default.
        region_unit: Unit of the coordinates in the files.
        region_origin: Corner that the coordinates are counted from, of the slide or of its scanned area (bounds); auto
            takes bounds for GeoJSON, as QuPath writes it, and slide for all others.
        region_missing: What a slide without a file means: error fails the slide, none takes it as one without regions.

    Raises:
        InputError: something is said of regions, but none are named.
    """

    regions: str | None = None
    region_class: str | list[str] | None = None
    region_exclude: str | list[str] | None = None
    region_keep: Literal["inside", "outside", "all"] | None = None
    region_min: float | None = None
    region_unit: Unit = "px"
    region_origin: Literal["auto", "slide", "bounds"] = "auto"
    region_missing: Literal["error", "none"] = "error"

    def __post_init__(self) -> None:
        if self.regions is None:
            said = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
            if said:
                raise InputError(f"--{said[0]} says something of regions, but --regions names no file or folder")
        if self.region_min is not None:
            check_range("region_min", self.region_min, 0, 1)
        if self.region_keep == "all" and self.region_min is not None:
            raise InputError("--region_min says which tiles are kept, but --region_keep all keeps all of them")

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes to use; () for all."""
        return _names(self.region_class)

    @property
    def excluded(self) -> tuple[str, ...]:
        """The classes to cut out."""
        return _names(self.region_exclude)

    def settings(self) -> RegionSettings | None:
        """How regions restrict tiles; None where they do not."""
        if self.regions is None or self.region_keep == "all":
            return None
        part = HALF if self.region_min is None else self.region_min
        return RegionSettings(self.classes, self.excluded, self.region_keep or "inside", part)

    def settings_of_training(self, trained: RegionSettings | None) -> RegionSettings | None:
        """Those of the training where it had some, else what the options say.

        Raises:
            InputError: the training had some, and no regions of these slides are named, or others are asked for.
        """
        if trained is None:
            return self.settings()
        if self.regions is None:
            raise InputError(
                f"the model was trained on tiles {trained.in_words}: name the regions of these slides with --regions"
            )
        said = {
            "region_class": (self.region_class, self.classes, trained.classes),
            "region_exclude": (self.region_exclude, self.excluded, trained.exclude),
            "region_keep": (self.region_keep, self.region_keep, trained.keep),
            "region_min": (self.region_min, self.region_min, trained.min_part),
        }
        for option, (given, value, of_training) in said.items():
            if given is not None and value != of_training:
                raise InputError(f"--{option}: the model was trained on tiles {trained.in_words}: leave it out")
        return trained

    def source(self, path: Path | None) -> AnnotationSource:
        """The regions of one slide."""
        corner = None if self.region_origin == "auto" else self.region_origin
        return AnnotationSource(path, self.region_unit, corner, self.region_missing)


NO_REGIONS = RegionOptions()


def _names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return tuple(sorted({given} if isinstance(given, str) else set(given or ())))
