"""Regions in the frame of their slide, and what is said where they belong to another."""

from dataclasses import dataclass

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medsoft.errors import InputError, SlideError
from medsoft.slides.annotations.annotation import Annotation
from medsoft.slides.annotations.area import majority_labels, parts_inside
from medsoft.slides.annotations.on_slide import SlideRegions, regions_on_slide
from medsoft.slides.annotations.settings import AnnotationSource, RegionOptions, RegionSettings
from medsoft.slides.tiling.grid import grid_px0
from medsoft.slides.tiling.settings import TileSettings
from tests.builders.annotations import SQUARE, asap, feature, geojson, layers, sedeen


@dataclass
class Frame:
    size_px0: tuple = (1000, 800)
    bounds_px0: tuple | None = (40, 30, 900, 700)
    mpp: float = 0.5


def place(tmp_path, text, slide=None, **meant):
    path = tmp_path / "a.xml"
    path.write_text(text)
    return regions_on_slide(AnnotationSource(path, **meant), slide or Frame())


@pytest.mark.parametrize(
    ("text", "corner", "left_top"),
    [
        (geojson(feature(SQUARE)), None, (140, 80)),
        (geojson(feature(SQUARE)), "slide", (100, 50)),
        (asap((SQUARE, "Polygon", "t")), None, (100, 50)),
        (asap((SQUARE, "Polygon", "t")), "bounds", (140, 80)),
    ],
)
def test_qupath_counts_from_the_bounds_and_others_from_the_slide(tmp_path, text, corner, left_top):
    (region,) = place(tmp_path, text, corner=corner).regions
    assert region.area.bounds[:2] == left_top
    assert region.area.area == 200 * 200


def test_um_are_converted_where_they_are_stated_and_the_margin_is_in_pixels(tmp_path):
    (region,) = place(tmp_path, geojson(feature(SQUARE)), unit="um").regions
    assert region.area.bounds == (40 + 200, 30 + 100, 40 + 600, 30 + 500)


def box(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            asap((box(2000, 0, 2400, 300), "Polygon", "t")),
            "100% of its regions' area outside the slide: x 2000 to 2400",
        ),
        (
            asap((box(900, 0, 1400, 300), "Polygon", "t")),
            "80% of its regions' area outside.*--region-unit um.*--region-o",
        ),
        (layers((SQUARE, "0", 0), root='MicronsPerPixel="0.25"'), "states 0.25 µm/px, the slide 0.5"),
        (sedeen((1000, 801), (SQUARE, "polygon", "t")), "states a slide of 1000 × 801 px, this one has 1000 × 800"),
        (asap(([(1, 1)], "Dot", "t")), "holds no region with an area: 1 point"),
    ],
)
def test_regions_of_another_slide_or_frame_are_refused(tmp_path, text, message):
    with pytest.raises(SlideError, match=f"its annotation file a.xml .*{message}"):
        place(tmp_path, text)


def test_regions_that_cross_the_edge_are_kept_and_lost_ones_noted(tmp_path):
    text = asap(
        (box(-50, -50, 500, 500), "Polygon", "t"), (box(2000, 0, 2010, 10), "Polygon", "t"), ([(1, 1)], "Dot", "t")
    )  # fmt: skip
    found = place(tmp_path, text)
    assert len(found.regions) == 2
    assert found.notes == ("1 of 2 regions lie outside the slide", "passed over in a.xml: 1 point")


def test_an_empty_collection_and_no_file_are_a_slide_without_regions(tmp_path):
    assert not place(tmp_path, geojson()).regions
    assert not regions_on_slide(AnnotationSource(None), Frame()).regions
    with pytest.raises(SlideError, match="no annotation file is named after it: add it, or take"):
        regions_on_slide(AnnotationSource(None, missing="error"), Frame())


def test_some_classes_are_cut_out_of_others():
    regions = SlideRegions(
        [Annotation(name, shapely.box(*corners)) for name, corners in
         [("a", (0, 0, 10, 10)), ("b", (20, 0, 30, 10)), ("no", (5, 0, 25, 10))]]
    )  # fmt: skip
    assert [area.bounds for area in regions.chosen((), ("no",))] == [(0, 0, 5, 10), (25, 0, 30, 10)]
    assert [area.bounds for area in regions.chosen(("b",), ("no",))] == [(25, 0, 30, 10)]
    assert len(regions.chosen(())) == 3
    assert [area.bounds for area in regions.areas(("a",))] == [(0, 0, 10, 10)]


@st.composite
def stars(draw):
    """Star-shaped polygons within 0 to 100: simple, but not convex."""
    count = draw(st.integers(4, 12))
    angles = 2 * np.pi * (np.arange(count) + draw(arrays(float, count, elements=st.floats(0, 0.9)))) / count
    radii = draw(arrays(float, count, elements=st.floats(5, 45)))
    return shapely.Polygon(50 + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))


@settings(deadline=None, max_examples=40)
@given(areas=st.lists(stars(), min_size=1, max_size=3), tile=st.floats(7, 30))
def test_a_grid_of_tiles_adds_up_to_the_area_of_the_union(areas, tile):
    # Whole-numbered places: tiles of `tile` pixels overlap or leave gaps by less than one, so whole ones are taken.
    side = round(tile)
    coords = grid_px0((-side, -side, 100 + 3 * side, 100 + 3 * side), side, side)
    parts = parts_inside(coords, side, areas)
    assert parts.sum() * side**2 == pytest.approx(shapely.union_all(areas).area, rel=1e-9)
    assert ((parts >= 0) & (parts <= 1)).all()
    for one in areas:  # a part never grows when a region is taken away
        assert (parts_inside(coords, side, [one]) <= parts + 1e-12).all()


@settings(deadline=None, max_examples=40)
@given(
    parts=arrays(float, (5, 2), elements=st.sampled_from([0.0, 0.2, 0.5, 0.6, 1.0])),
    other=st.sampled_from([None, "rest"]),
)
def test_a_label_needs_more_than_half_of_the_tile(parts, other):
    inside = np.minimum(parts.max(axis=1), 1.0)  # nested classes
    labels = majority_labels({"a": parts[:, 0], "b": parts[:, 1]}, inside, other)
    for (a, b), label in zip(parts, labels, strict=True):
        if max(a, b) > 0.5:
            assert label == ("" if a == b else "a" if a > b else "b")
        else:
            assert label == (other or "" if 1 - max(a, b) > 0.5 else "")


def test_settings_without_regions_are_those_of_earlier_versions():
    assert "regions" not in TileSettings(0.5, 224).as_dict()
    with_regions = TileSettings(0.5, 224, regions=RegionSettings(("b", "a"), ("c",), "outside", 1))
    assert TileSettings.from_dict(with_regions.as_dict()) == with_regions
    assert with_regions.as_columns()["tile_regions"] == "outside a, b without c, 1 of a tile"
    assert TileSettings(0.5, 224).as_columns()["tile_regions"] == ""
    changes = TileSettings(0.5, 224).differences(with_regions)
    assert "regions.keep outside, not none" in changes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region_class": "a"}, "--region_class says something of regions, but --regions names no file"),
        ({"region_unit": "um"}, "--region_unit says something"),
        ({"regions": "r", "region_min": 0.0}, "region_min 0 must be above 0"),
        ({"regions": "r", "region_min": 1.5}, "region_min 1.5 must be between 0 and 1"),
        ({"regions": "r", "region_min": 0.5, "region_keep": "all"}, "--region_keep all keeps all"),
    ],
)
def test_options_of_regions_that_say_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RegionOptions(**options).settings()


def test_the_training_decides_which_regions_count():
    trained = RegionSettings(("a", "b"), (), "inside", 0.75)
    assert RegionOptions("r").settings_of_training(trained) == trained
    assert RegionOptions("r", ["b", "a"], region_min=0.75).settings_of_training(trained) == trained
    with pytest.raises(InputError, match=r"trained on tiles inside a, b, 0\.75 of a tile: name the regions of these"):
        RegionOptions().settings_of_training(trained)
    for other in ({"region_class": "a"}, {"region_keep": "outside"}, {"region_min": 0.5}, {"region_exclude": "c"}):
        with pytest.raises(InputError, match=f"--{next(iter(other))}: the model was trained on tiles inside a, b"):
            RegionOptions("r", **other).settings_of_training(trained)
    assert RegionOptions("r", "a").settings_of_training(None) == RegionSettings(("a",))
    assert RegionOptions().settings_of_training(None) is None
