"""Regions as polygons: closed outlines, holes, ellipses, and what happens to outlines that cross themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import shapely
from shapely import MultiPolygon, Polygon

Point = tuple[float, float]
Area: TypeAlias = Polygon | MultiPolygon

SAME_AREA = 1e-3
"""Part of its area by which the two rules of filling may differ on an outline that crosses itself."""
ELLIPSE_SIDES = 128
"""Corners of an ellipse: its area is then within 0.1 % of the true one."""
LEAST_CORNERS = 3
NOT_FINITE = "coordinates that are no finite numbers"


def polygon(outline: Sequence[Sequence[float]], holes: Sequence[Sequence[Sequence[float]]] = ()) -> Area:
    """The area within an outline and outside its holes.

    Raises:
        ValueError: too few corners, coordinates that are no finite numbers, or an outline that crosses itself so that
            its inside is not clear.
    """
    for ring in (outline, *holes):
        if len(ring) < LEAST_CORNERS:
            raise ValueError(f"an outline of {len(ring)} points: at least {LEAST_CORNERS} are needed")
        if not all(math.isfinite(value) for point in ring for value in point):
            raise ValueError(NOT_FINITE)
    return checked(Polygon(outline, holes))


def checked(area: Area) -> Area:
    """An area as it is where it is valid; otherwise what both rules of filling make of it, if they agree.

    An outline that crosses or touches itself has no inside of its own. The even-odd rule and the union of everything
    that the outline goes around give the same wherever it makes small loops, or touches itself; then that is taken.
    They differ where a part is gone around twice, which may mean a hole or not.

    Raises:
        ValueError: a coordinate is not finite, nothing is enclosed, or the rules differ by more than ``SAME_AREA``.
    """
    coordinates = shapely.get_coordinates(area)
    if not (coordinates.size and abs(coordinates).max() < math.inf):  # NaN is not below
        raise ValueError(NOT_FINITE)
    if isinstance(area, MultiPolygon) and not area.is_valid:
        area = as_area([checked(part) for part in area.geoms])  # parts may overlap: the area counts once
    elif not area.is_valid:
        reason = shapely.is_valid_reason(area)
        even_odd = _areas_of(shapely.make_valid(area))
        everything = _areas_of(shapely.make_valid(area, method="structure", keep_collapsed=False))
        if abs(even_odd.area - everything.area) > SAME_AREA * everything.area:
            raise ValueError(f"an outline whose inside is not clear ({reason}): mend it where it was drawn")
        area = even_odd
    if area.area == 0:
        raise ValueError("an outline that encloses nothing")
    return area


def _areas_of(geometry: shapely.Geometry) -> Area:
    """The polygons of a geometry, without the lines and points that are left of spikes."""
    return as_area([part for part in shapely.get_parts(geometry).tolist() if part.geom_type.endswith("Polygon")])


def as_area(parts: Sequence[shapely.Geometry]) -> Area:
    """The union of polygons, as one."""
    union = shapely.union_all(list(parts))
    polygons = [part for part in shapely.get_parts(union).tolist() if isinstance(part, Polygon) and part.area > 0]
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def rectangle(points: Sequence[Point]) -> Area:
    """The rectangle that two opposite corners span; more points are its outline."""
    if len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return polygon(points)


def ellipse(points: Sequence[Point]) -> Area:
    """The ellipse within the upright rectangle around 2 or 4 corners; more points are its outline."""
    if len(points) not in (2, 4):
        return polygon(points)
    (left, right), (top, bottom) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
    return ellipse_around(((left + right) / 2, (top + bottom) / 2), right - left, bottom - top)


def ellipse_around(centre: Point, width: float, height: float, rotation: float = 0.0) -> Area:
    """An ellipse by its centre, its two diameters, and the angle in radians from x to y."""
    angles = [2 * math.pi * corner / ELLIPSE_SIDES for corner in range(ELLIPSE_SIDES)]
    cosine, sine = math.cos(rotation), math.sin(rotation)
    flat = [(width / 2 * math.cos(angle), height / 2 * math.sin(angle)) for angle in angles]
    return polygon([(centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine) for x, y in flat])


def rectangle_around(centre: Point, width: float, height: float, rotation: float = 0.0) -> Area:
    """A rectangle by its centre, its sides, and the angle in radians from x to y."""
    cosine, sine = math.cos(rotation), math.sin(rotation)
    flat = [(sx * width / 2, sy * height / 2) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return polygon([(centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine) for x, y in flat])


def without_holes_of(solid: Sequence[Area], holes: Sequence[Area]) -> list[Area]:
    """Regions of one layer without its negative ones, which the file does not assign to them.

    A hole belongs to the smallest region that contains it, so that an island drawn within a hole stays. One that no
    region contains is cut out of all.
    """
    order = sorted(range(len(solid)), key=lambda index: solid[index].area)
    cut: dict[int, list[Area]] = {}
    for hole in holes:
        inside = [index for index in order if solid[index].covers(hole)]
        for index in inside[:1] or order:
            cut.setdefault(index, []).append(hole)
    rest = [as_area([shapely.difference(area, shapely.union_all(cut.get(i, [])))]) for i, area in enumerate(solid)]
    return [area for area in rest if area.area > 0]
