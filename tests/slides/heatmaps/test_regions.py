"""Regions: the union of tiles is exact, its polygons are valid, and what lies inside is counted by area."""

import json
import math

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medsoft.slides.annotations.area import parts_inside
from medsoft.slides.annotations.read import parsed_json, read_annotations
from medsoft.slides.heatmaps.geojson import COLOUR, mass_inside, write_regions
from medsoft.slides.heatmaps.regions import top_regions, unions

CELLS = arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)))


def covered(coords, side, width, height):
    """Level-0 pixels under some tiles."""
    there = np.zeros((height, width), dtype=bool)
    for x, y in coords:
        there[y : y + side, x : x + side] = True
    return there


def rings_of(polygon):
    """The outer ring and the holes, as points (P, 2) of which the last is not the first again."""
    return [shapely.get_coordinates(ring)[:-1] for ring in (polygon.exterior, *polygon.interiors)]


def filled(polygons, width, height):
    """Level-0 pixels inside polygons with whole corners, by the even-odd rule at the middle of each pixel."""
    inside = np.zeros((height, width), dtype=bool)
    for polygon in polygons:
        for ring in rings_of(polygon):
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if x0 == x1:
                    top, bottom = sorted((int(y0), int(y1)))
                    inside[top:bottom, : int(x0)] ^= True
    return inside


@given(CELLS, st.integers(2, 5), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_the_outlines_are_the_union_of_the_tiles(cells, side, overlap):
    stride = max(1, side - overlap)
    coords = np.argwhere(cells)[:, ::-1].astype(np.int64) * stride
    if not len(coords):
        return
    found = unions(coords, side)
    size = 7 * stride + side
    expected = covered(coords, side, size, size)
    assert np.array_equal(filled([polygon for _, polygon in found], size, size), expected)
    assert sum(polygon.area for _, polygon in found) == expected.sum()
    assert sorted(np.concatenate([tiles for tiles, _ in found]).tolist()) == list(range(len(coords)))
    assert len(found) == cv2.connectedComponents(expected.astype(np.uint8), connectivity=4)[0] - 1


@given(CELLS, st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_polygons_are_valid_and_have_the_area_of_their_tiles(cells, seed):
    coords = np.argwhere(cells)[:, ::-1].astype(np.int64) * 10
    np.random.default_rng(seed).shuffle(coords)  # in whatever order they come
    for tiles, polygon in unions(coords, 10) if len(coords) else ():
        assert polygon.is_valid
        assert polygon.area == len(tiles) * 100
        outer, *holes = rings_of(polygon)
        assert shapely.LinearRing(outer).is_ccw  # from x to y, as GeoJSON has it
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)
        assert outer[0].tolist() == sorted(outer.tolist(), key=lambda point: point[::-1])[0]
        for ring in (outer, *holes):
            assert shapely.LinearRing(ring).is_simple
            assert len({tuple(point) for point in ring.tolist()}) == len(ring)
            steps = np.sign(np.roll(ring, -1, axis=0) - ring)
            assert (np.abs(steps).sum(axis=1) == 1).all()  # straight along an axis
            assert (steps != np.roll(steps, 1, axis=0)).any(axis=1).all()  # a point is a turn


def test_gaps_that_meet_at_a_corner_are_holes_of_their_own():
    """The corner in the middle belongs to four rings: two of tiles that hang together, two of gaps."""
    empty = {(1, 1), (2, 2)}
    coords = np.array([(x, y) for x in range(4) for y in range(4) if (x, y) not in empty]) * 10
    ((tiles, polygon),) = unions(coords, 10)
    assert (len(tiles), polygon.area, polygon.is_valid) == (14, 1400, True)
    assert [hole.bounds for hole in polygon.interiors] == [(10, 10, 20, 20), (20, 20, 30, 30)]


def test_a_gap_that_meets_the_edge_at_a_corner_is_a_hole():
    coords = np.array([(0, 0), (1, 0), (0, 1), (2, 1), (0, 2), (1, 2), (2, 2)]) * 10
    ((tiles, polygon),) = unions(coords, 10)
    assert (len(tiles), polygon.area, polygon.is_valid) == (7, 700, True)
    assert [hole.bounds for hole in polygon.interiors] == [(10, 10, 20, 20)]
    apart = unions(np.array([(0, 0), (1, 1)]) * 10, 10)
    assert [polygon.bounds for _, polygon in apart] == [(0, 0, 10, 10), (10, 10, 20, 20)]


def test_a_ring_of_tiles_has_a_hole_and_a_common_corner_joins_nothing():
    ring = np.array([(x, y) for x in range(3) for y in range(3) if (x, y) != (1, 1)]) * 10
    alone = np.array([[30, 30]])
    found = unions(np.concatenate([ring, alone]), 10)
    assert [len(tiles) for tiles, _ in found] == [8, 1]
    outer, hole = rings_of(found[0][1])
    assert sorted(outer.tolist()) == [[0, 0], [0, 30], [30, 0], [30, 30]]
    assert sorted(hole.tolist()) == [[10, 10], [10, 20], [20, 10], [20, 20]]


@given(st.floats(20, 300), st.integers(2, 30), st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_places_that_were_rounded_leave_no_gaps(tile, count, start):
    """Sides of 448.3 level-0 pixels put neighbours 448 or 449 apart."""
    places = np.round(start + np.arange(count) * tile).astype(np.int64)
    x, y = np.meshgrid(places, places)
    ((tiles, polygon),) = unions(np.stack([x.ravel(), y.ravel()], axis=1), tile)
    assert len(tiles) == count**2
    (ring,) = rings_of(polygon)
    assert len(ring) == 4
    assert polygon.area == pytest.approx((count * tile) ** 2, abs=2 * 2 * count * tile)


def test_regions_are_the_fewest_tiles_that_hold_half_of_the_positive_mass():
    coords = np.array([[0, 0], [10, 0], [50, 0], [90, 0], [130, 0]])
    contributions = np.array([3.0, 2.5, 4.0, -7.0, 1.0])
    first, second = top_regions(coords, 10, contributions)  # half of 10.5 is 5.25: the tiles of 4 and 3
    assert (first.tiles.tolist(), first.contribution, first.polygon.area) == ([2], 4.0, 100)
    assert second.tiles.tolist() == [0]
    assert first.mass == pytest.approx(4 / 10.5)
    (all_but_one, *_) = top_regions(coords, 10, contributions, mass=1.0)
    assert all_but_one.tiles.tolist() == [0, 1]


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(-5, 5, allow_subnormal=False)), st.floats(0.01, 1))
def test_regions_hold_the_mass_and_nothing_negative(contributions, mass):
    coords = np.stack([np.arange(len(contributions)) * 10, np.zeros(len(contributions))], axis=1).astype(np.int64)
    regions = top_regions(coords, 10, contributions, mass)
    positive = contributions[contributions > 0]
    if positive.sum() == 0:
        assert regions == []
        return
    tiles = np.concatenate([region.tiles for region in regions])
    assert (contributions[tiles] > 0).all()
    assert contributions[tiles].sum() >= mass * positive.sum() * (1 - 1e-9)
    assert (contributions[tiles].sum() - contributions[tiles].min()) < mass * positive.sum() * (1 + 1e-9)
    assert [region.contribution for region in regions] == sorted(
        (region.contribution for region in regions), reverse=True
    )


def test_tiles_without_a_share_belong_to_no_region():
    (region,) = top_regions(np.array([[0, 0], [10, 0]]), 10, np.array([np.nan, 1.0]))
    assert region.tiles.tolist() == [1]
    assert top_regions(np.array([[0, 0]]), 10, np.array([-1.0])) == []
    assert top_regions(np.empty((0, 2), np.int64), 10, np.empty(0)) == []


# What lies inside


@st.composite
def polygons(draw):
    """A star-shaped polygon, which need not be convex, either way round, perhaps with a hole in its middle."""
    count = draw(st.integers(4, 9))
    # Each in a sector of its own, less than half a turn from the next: no two sides cross.
    angles = 2 * math.pi * (np.arange(count) + draw(arrays(np.float64, count, elements=st.floats(0, 0.9)))) / count
    radii = draw(arrays(np.float64, count, elements=st.floats(8, 30)))
    ring = 32 + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    holes = [32 + (ring - 32) * 0.3] if draw(st.booleans()) else []
    return shapely.Polygon(ring[:: draw(st.sampled_from([1, -1]))], holes)


@given(polygons(), st.floats(3, 20), st.floats(-5, 5))
@settings(max_examples=100, deadline=None)
def test_the_part_of_each_square_is_exact(polygon, side, offset):
    places = np.arange(-1, 64 // side + 2) * side + offset
    x, y = np.meshgrid(places, places)
    corners = np.stack([x.ravel(), y.ravel()], axis=1)
    parts = parts_inside(corners, side, [polygon])
    assert (parts >= 0).all()
    assert (parts <= 1).all()
    assert parts.sum() * side**2 == pytest.approx(polygon.area, rel=1e-9, abs=1e-9)
    fine = 16  # against counting points
    grid = (np.arange(fine) + 0.5) * side / fine
    for index in np.flatnonzero((parts > 0.01) & (parts < 0.99))[:3]:
        gx, gy = np.meshgrid(*(corners[index][:, None] + grid))
        inside = np.zeros(gx.shape, dtype=bool)
        for ring in rings_of(polygon):
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if y0 != y1:
                    inside ^= ((y0 <= gy) != (y1 <= gy)) & (gx < x0 + (gy - y0) / (y1 - y0) * (x1 - x0))
        assert parts[index] == pytest.approx(inside.mean(), abs=0.12)


def test_far_from_the_origin_no_digits_are_lost():
    corner = np.array([[99_000, 98_000]])
    triangle = shapely.Polygon([(99_000, 98_000), (99_448, 98_000), (99_000, 98_448)])
    assert parts_inside(corner, 448, [triangle])[0] == pytest.approx(0.5, abs=1e-12)


def areas_of(content):
    return [region.area for region in parsed_json(content).regions]


def collection(*rings, kind="Polygon"):
    coordinates = [[[*map(list, ring), list(ring[0])]] for ring in rings]
    geometry = {"type": kind, "coordinates": coordinates if kind == "MultiPolygon" else coordinates[0]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {}}
    return {"type": "FeatureCollection", "features": [feature]}


def test_mass_inside_counts_positive_shares_by_area():
    coords = np.array([[0, 0], [10, 0], [20, 0]])
    contributions = np.array([2.0, 6.0, -5.0])
    middle = collection([(5, 0), (15, 0), (15, 10), (5, 10)])
    assert mass_inside(coords, 10, contributions, areas_of(middle)) == pytest.approx(0.5)
    assert mass_inside(coords, 10, np.ones(3), areas_of(middle)) == pytest.approx(1 / 3)
    assert math.isnan(mass_inside(coords, 10, -np.abs(contributions), areas_of(middle)))
    both = collection([(0, 0), (5, 0), (5, 10), (0, 10)], [(25, 0), (30, 0), (30, 9), (25, 9)], kind="MultiPolygon")
    assert mass_inside(coords, 10, np.array([1.0, 1.0, 2.0]), areas_of(both)) == pytest.approx((0.5 + 0.9) / 4)


def test_polygons_that_overlap_count_once():
    coords = np.array([[0, 0], [10, 0]])
    half, all_of_it = [(0, 0), (5, 0), (5, 10), (0, 10)], [(0, 0), (10, 0), (10, 10), (0, 10)]
    content = [collection(half), collection(all_of_it)]
    assert mass_inside(coords, 10, np.ones(2), areas_of(content)) == pytest.approx(0.5)


@given(polygons(), st.sampled_from(["Polygon", "Feature", "FeatureCollection", "GeometryCollection", "list"]))
@settings(max_examples=50, deadline=None)
def test_a_polygon_comes_back_as_it_was_written(polygon, kind):
    geometry = json.loads(json.dumps(shapely.geometry.mapping(polygon)))
    feature = {"type": "Feature", "geometry": geometry, "properties": None}
    content = {
        "Polygon": geometry,
        "Feature": feature,
        "FeatureCollection": {"type": "FeatureCollection", "features": [feature]},
        "GeometryCollection": {"type": "GeometryCollection", "geometries": [geometry]},
        "list": [feature],
    }[kind]
    (back,) = areas_of(content)
    assert shapely.equals_identical(back, polygon)


def test_a_ring_that_is_not_closed_keeps_its_last_point():
    (polygon,) = areas_of({"type": "Polygon", "coordinates": [[[0, 0, 7], [10, 0, 7], [10, 10, 7], [0, 10, 7]]]})
    assert (polygon.area, polygon.has_z) == (100, False)


def test_regions_are_written_as_qupath_reads_them(tmp_path):
    coords = np.array([(x, y) for x in range(3) for y in range(3) if (x, y) != (1, 1)]) * 100
    regions = top_regions(coords, 100, np.full(8, 0.25), mass=1.0)
    file = tmp_path / "regions.geojson"
    write_regions(file, regions, "Tumör", mpp=0.5)
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content.keys() == {"type", "features"}  # no crs
    (feature,) = content["features"]
    assert feature["type"] == "Feature"
    properties = feature["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"] == {"name": "Tumör", "color": list(COLOUR)}
    measures = properties["measurements"]
    assert measures["tiles"] == 8
    assert measures["sum of contributions (logit)"] == pytest.approx(2.0)
    assert measures["area mm2"] == pytest.approx(8 * 100**2 * 0.25e-6)
    for ring in feature["geometry"]["coordinates"]:
        assert ring[0] == ring[-1]
        assert all(isinstance(value, int) for point in ring for value in point)
    (region,) = read_annotations(file).regions
    assert (region.name, region.area.area) == ("Tumör", 8 * 100**2)
    assert mass_inside(coords, 100, np.ones(8), [region.area]) == pytest.approx(1)
