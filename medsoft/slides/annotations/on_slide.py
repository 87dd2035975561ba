"""Brings the regions of a file into the frame of a slide: level-0 pixels from the slide's corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import shapely
from shapely.affinity import scale, translate

from medsoft.errors import SlideError
from medsoft.slides.annotations.annotation import Annotation, AnnotationFile
from medsoft.slides.annotations.read import read_annotations
from medsoft.slides.annotations.settings import AnnotationSource, RegionSettings
from medsoft.slides.annotations.shapes import Area

MPP_TOLERANCE = 0.02
"""Part by which the resolution that a file states may differ from the slide's."""
MOST_OUTSIDE = 0.5
"""Part of the regions' area that may lie outside the slide: people draw beyond its edge, but not mostly."""
NO_FILE = (
    "no annotation file is named after it: add it, or take such slides as without regions with --region-missing none"
)


class Frame(Protocol):
    """A slide, or what is known of one."""

    @property
    def size_px0(self) -> tuple[int, int]:
        """(width, height) of level 0."""

    @property
    def bounds_px0(self) -> tuple[int, int, int, int] | None:
        """(x, y, width, height) of the part that was scanned; None where there is no margin."""

    @property
    def mpp(self) -> float:
        """µm per level-0 pixel."""


@dataclass(frozen=True, eq=False)
class SlideRegions:
    """The regions of a slide.

    Attributes:
        regions: in level-0 pixels from the slide's corner, in the order of the file.
        notes: what the user should look at.
    """

    regions: Sequence[Annotation] = ()
    notes: tuple[str, ...] = ()

    def areas(self, classes: Sequence[str]) -> list[Area]:
        """The areas of some classes; of all for ()."""
        return [region.area for region in self.regions if not classes or region.name in classes]

    def chosen(self, classes: Sequence[str], exclude: Sequence[str] = ()) -> list[Area]:
        """The areas of some classes (all for ()) without what lies in regions of others."""
        wanted = [one for one in self.regions if one.name not in exclude and (not classes or one.name in classes)]
        without = [region.area for region in self.regions if region.name in exclude]
        if not without:
            return [region.area for region in wanted]
        rest = shapely.difference([region.area for region in wanted], shapely.union_all(without))
        return [area for area in rest if area.area > 0]

    def kept_parts(self, settings: RegionSettings) -> tuple[list[Area], bool]:
        """The areas that decide which tiles are kept, and whether tiles inside them are."""
        return self.chosen(settings.classes, settings.exclude), settings.keep == "inside"


def regions_on_slide(source: AnnotationSource, slide: Frame) -> SlideRegions:
    """Read the regions of a slide and bring them into its frame.

    Args:
        source: the file, and how its coordinates are meant.
        slide: the slide's size, bounds and resolution.

    Raises:
        SlideError: there is no file and should be one; or the file cannot be used, holds only what has no area, or is
            that of another slide or frame.
    """
    if source.path is None:
        if source.missing == "error":
            raise SlideError(NO_FILE)
        return SlideRegions()
    found = read_annotations(source.path)
    file = f"its annotation file {source.path.name}"
    if not found.regions and found.passed:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.passed.items()))
        raise SlideError(f"{file} holds no region with an area: {kinds}")
    _check_frame(file, found, slide)
    x, y = _corner(source, found, slide)
    factor = 1 / slide.mpp if source.unit == "um" else 1.0
    regions = []
    for region in found.regions:
        area = region.area if factor == 1 else scale(region.area, factor, factor, origin=(0, 0))
        regions.append(Annotation(region.name, translate(area, x, y) if (x, y) != (0, 0) else area))
    notes = [*_check_place(file, regions, slide)]
    if found.passed:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.passed.items()))
        notes.append(f"passed over in {source.path.name}: {kinds}")
    return SlideRegions(regions, tuple(notes))


def _corner(source: AnnotationSource, found: AnnotationFile, slide: Frame) -> tuple[int, int]:
    corner = source.corner or found.corner
    return slide.bounds_px0[:2] if corner == "bounds" and slide.bounds_px0 else (0, 0)


def _check_frame(file: str, found: AnnotationFile, slide: Frame) -> None:
    """Compare what the file states of its slide with the slide."""
    if found.mpp is not None and abs(found.mpp / slide.mpp - 1) > MPP_TOLERANCE:
        raise SlideError(f"{file} states {found.mpp:g} µm/px, the slide {slide.mpp:.4g}: is it that of another slide?")
    if found.size_px is not None and found.size_px != tuple(slide.size_px0):
        sizes = ["{} × {} px".format(*size) for size in (found.size_px, slide.size_px0)]
        raise SlideError(f"{file} states a slide of {sizes[0]}, this one has {sizes[1]}: is it that of another slide?")


def _check_place(file: str, regions: Sequence[Annotation], slide: Frame) -> list[str]:
    """Refuse regions that lie mostly outside the slide; a note where some lie outside altogether."""
    if not regions:
        return []
    width, height = slide.size_px0
    areas = [region.area for region in regions]
    whole = shapely.box(0, 0, width, height)
    inside = shapely.area(shapely.intersection(areas, whole))
    total = float(shapely.area(areas).sum())
    if inside.sum() < (1 - MOST_OUTSIDE) * total:
        left, top, right, bottom = shapely.total_bounds(areas)
        raise SlideError(
            f"{file} has {1 - inside.sum() / total:.0%} of its regions' area outside the slide: x {left:.0f} to "
            f"{right:.0f}, y {top:.0f} to {bottom:.0f}, on a slide of {width} × {height} px. Is it that of another "
            "slide, in µm (--region-unit um), or counted from another corner (--region-origin)?"
        )
    outside = int((inside == 0).sum())
    return [f"{outside} of {len(regions)} regions lie outside the slide"] if outside else []
