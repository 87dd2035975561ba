"""Annotation files: the same region from every program, and a plain sentence for what cannot be used."""

import json
import math
import tracemalloc

import pytest
import shapely

from medsoft.errors import SlideError
from medsoft.slides.annotations.annotation import listed
from medsoft.slides.annotations.read import MOST_BYTES, read_annotations
from tests.builders.annotations import AREA, HOLE, SQUARE, WITH_HOLE, asap, feature, geojson, layers, sedeen
from tests.builders.images import SHARED_DATA

REAL = SHARED_DATA / "annotations"
SHAPE = shapely.Polygon(SQUARE, [HOLE])


def read(tmp_path, text, name="a.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_annotations(path)


@pytest.mark.parametrize("program", WITH_HOLE)
def test_a_square_with_a_hole_is_the_same_from_every_program(tmp_path, program):
    found = read(tmp_path, WITH_HOLE[program]())
    assert (found.program, found.corner) == (program, "bounds" if program == "QuPath" else "slide")
    (region,) = found.regions
    assert region.name == "Tumour"
    assert region.area.area == AREA
    assert region.area.equals(SHAPE)


def test_asap_has_groups_and_what_has_no_area_is_counted(tmp_path):
    ring = [(0, 0), (4, 0), (4, 4)]
    text = asap(
        (SQUARE, "Polygon", "tumor"), (SQUARE, "Spline", "None"), (SQUARE, "Rectangle", "tumor"),
        ([(1, 1)], "Dot", "tumor"), (ring, "PointSet", "tumor"), (ring[:2], "Measurement", "None"),
    )  # fmt: skip
    found = read(tmp_path, text)
    assert found.program == "ASAP"
    assert found.classes == {"tumor": 2, "": 1}
    assert listed(found.classes) == "no class (1), tumor (2)"
    assert found.passed == {"point": 2, "line": 1}
    assert all(region.area.area == 200 * 200 for region in found.regions)


def test_sedeen_states_its_slide(tmp_path):
    corners = [(0, 0), (10, 0), (10, 20), (0, 20)]
    found = read(tmp_path, "\ufeff" + sedeen((800, 600), (SQUARE, "polygon", "t"), (corners, "ellipse", "e")))
    assert (found.program, found.size_px) == ("Sedeen", (800, 600))
    assert [region.name for region in found.regions] == ["t", "e"]
    assert found.regions[1].area.area == pytest.approx(math.pi * 5 * 10, rel=1e-3)


def test_rectangles_and_ellipses_may_be_given_by_two_corners(tmp_path):
    corners = [(0, 0), (20, 10)]
    found = read(tmp_path, layers((corners, "Rectangle", 0), (corners, "Ellipse", 0), vertex="V"))
    rectangle, ellipse = (region.area for region in found.regions)
    assert (rectangle.area, rectangle.bounds) == (200, (0, 0, 20, 10))
    assert ellipse.area == pytest.approx(math.pi * 10 * 5, rel=1e-3)
    assert ellipse.bounds == pytest.approx((0, 0, 20, 10))


def test_an_island_within_a_hole_stays_and_a_hole_across_an_edge_is_cut(tmp_path):
    def box(low, high):
        return [(low, low), (high, low), (high, high), (low, high)]

    text = layers((box(0, 100), "0", 0), (box(20, 80), "0", 1), (box(40, 60), "0", 0))
    assert sum(region.area.area for region in read(tmp_path, text).regions) == 100**2 - 60**2 + 20**2
    text = layers((box(0, 100), "0", 0), ([(90, 0), (110, 0), (110, 100), (90, 100)], "0", 1))
    assert [region.area.area for region in read(tmp_path, text).regions] == [90 * 100]
    text = layers((box(10, 20), "0", 0), (box(0, 100), "0", 1))
    assert not read(tmp_path, text).regions


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ('Name="Stroma"', "Stroma"),
        ('Name=""><Attributes><Attribute Name="Description" Value="Fat"/></Attributes', "Fat"),
        ('Name=""><Attributes><Attribute Name="CaP" Value=""/></Attributes', "CaP"),
        ('Name=""', "layer 1"),
    ],
)
def test_a_layer_is_named_wherever_imagescope_lets_it_be(tmp_path, name, expected):
    assert read(tmp_path, layers((SQUARE, "0", 0), name=name)).classes == {expected: 1}


def test_qupath_s_classes_and_what_was_not_drawn(tmp_path):
    derived = feature(SQUARE, name="")
    derived["properties"]["classification"] = {"names": ["Tumour", "Positive"]}
    old_cell = {**feature(SQUARE), "id": "PathCellObject"}
    old_cell["properties"] = {"classification": {"name": "Tumour"}}
    cell, plain = feature(SQUARE, objectType="cell"), feature(SQUARE, name="")
    line = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, "properties": None}
    found = read(tmp_path, json.dumps([feature(SQUARE), derived, cell, old_cell, plain, line]))
    assert found.classes == {"Tumour": 1, "Tumour: Positive": 1, "": 1}
    assert found.passed == {"cell": 2, "LineString": 1}


def test_a_multipolygon_is_one_region_and_its_overlap_counts_once(tmp_path):
    shifted = [(x + 100, y) for x, y in SQUARE]
    parts = [[[*map(list, ring), list(ring[0])]] for ring in (SQUARE, shifted)]
    found = read(tmp_path, json.dumps({"type": "MultiPolygon", "coordinates": parts}))
    assert [region.area.area for region in found.regions] == [300 * 200]


TOUCHES = [(0, 0), (10, 0), (10, 10), (5, 0), (0, 10)]
"""Comes back to its own side in one point."""
CROSSES = [(0, 0), (9, 9), (9, 0), (0, 9)]
STAR = [(math.cos(4 * math.pi * corner / 5), math.sin(4 * math.pi * corner / 5)) for corner in range(5)]
"""Goes around its middle twice."""


@pytest.mark.parametrize(("ring", "area"), [(TOUCHES, 50), (CROSSES, 40.5)])
def test_a_region_that_touches_or_crosses_itself_is_taken_where_its_inside_is_clear(tmp_path, ring, area):
    assert not shapely.Polygon(ring).is_valid
    (region,) = read(tmp_path, geojson(feature(ring))).regions
    assert region.area.is_valid
    assert region.area.area == area


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        (geojson(feature(STAR)), "holds an outline whose inside is not clear .Self-intersection.*mend it"),
        (geojson(feature([(0, 0), (1, 1), (2, 2)])), "holds an outline that encloses nothing"),
        (asap(([(0, 0), (1, 1)], "Polygon", "t")), "an outline of 2 points: at least 3"),
        (asap((SQUARE, "Hexagon", "t")), "unknown kind 'Hexagon'"),
        (asap(([(0, "x"), (1, 1), (2, 0)], "Polygon", "t")), "could not convert"),
        (asap(([(0, "nan"), (1, 1), (2, 0)], "Polygon", "t")), "coordinates that are no finite numbers"),
        (asap((SQUARE, "Polygon", "t")).replace('X="100"', ""), "lacks 'X'"),
        (geojson(feature(SQUARE))[:-5], "no JSON that can be read"),
        (asap((SQUARE, "Polygon", "t"))[:-5], "no well-formed XML"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 1], [2, 0], [0, 0]]]}', "NaN, which is no JSON"),
        ('{"type": "Polygon"}', "lacks 'coordinates'"),
        ('{"type": "Feature", "geometry": null}', "None is no GeoJSON"),
        ("[1, 2]", "1 is no GeoJSON"),
        ("7", "no annotations that are known"),
        ('{"a": 1}', "no annotations that are known.*QuPath's GeoJSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"images": [], "annotations": [], "categories": []}', "annotations of COCO"),
        ('{"slideId": "1", "type": "Area", "content": []}', "annotations of Sectra"),
        ("<annotation><object/></annotation>", "annotations of Pascal VOC"),
        ("<annotations><ndpviewstate/></annotations>", "annotations of NDP.view"),
        ("<html/>", "XML of the kind 'html'"),
        ("SQLite format 3\0", "is a database, such as SlideRunner's"),
        (b"\xff\xfe\x00\xd8\x89PNG", "no text"),
        ("<session><image/><image/></session>", "a session with 2 slides"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path, text, message):
    with pytest.raises(SlideError, match=f"^its annotation file a.txt .*{message}"):
        read(tmp_path, text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_that_declares_entities_is_refused_before_they_grow(tmp_path, encoding):
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY e0 "x">{entities}]><a>&e11;</a>'
    with pytest.raises(SlideError, match="XML with a DOCTYPE"):
        read(tmp_path, text.encode(encoding))


def test_a_file_of_200_mb_is_refused_without_being_parsed(tmp_path):
    path = tmp_path / "large.geojson"
    with path.open("wb") as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        file.truncate(200_000_000)  # sparse: takes no room
    tracemalloc.start()
    try:
        with pytest.raises(SlideError, match=f"is larger than {MOST_BYTES >> 20} MiB: export the regions alone"):
            read_annotations(path)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * MOST_BYTES, "no more is read than the limit"
    finally:
        tracemalloc.stop()


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(SlideError, match="cannot be read: No such file"):
        read_annotations(tmp_path / "a.xml")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation files are not on this machine")
def test_two_programs_files_of_one_slide_hold_the_same_regions():
    name = "TCGA-EJ-5519-01Z-00-DX1"
    qupath, imagescope = (
        read_annotations(REAL / folder) for folder in (f"qupath/{name}.json", f"imagescope/{name}.xml")
    )
    areas = [sorted(region.area.area for region in found.regions) for found in (qupath, imagescope)]
    assert areas[0] == pytest.approx(areas[1], rel=1e-6)
    assert qupath.classes == {"Tumor": 1, "Other": 1, "Negative": 1}
    assert imagescope.mpp == 0.252


@pytest.mark.skipif(not REAL.is_dir(), reason="the real annotation files are not on this machine")
def test_every_real_file_is_read_or_refused_by_its_name():
    found = {}
    for path in sorted(REAL.glob("*/*")):
        try:
            found[f"{path.parent.name}/{path.name}"] = len(read_annotations(path).regions)
        except SlideError as error:
            found[f"{path.parent.name}/{path.name}"] = error.reason
    read = {name: number for name, number in found.items() if isinstance(number, int)}
    assert read["asap/tumor_085.xml"] == 50  # two of them cross themselves
    assert read["halo/test_findholes.annotations"] == 4  # of 10, 6 are holes
    assert read["qupath/qupath-polyline.json"] == read["asap/asap-pointset.xml"] == 0
    refused = {name.split("/")[0] for name in found.keys() - read.keys()}
    assert refused == {"coco", "pascal_voc", "sectra", "sliderunner"}
