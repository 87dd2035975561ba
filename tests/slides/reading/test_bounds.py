"""Slides with an empty margin (MIRAX, Leica SCN): what is meant for QuPath counts from the scanned part's corner."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openslide
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.data.features.native import FeatureWriter
from medsoft.data.features.open import open_bag
from medsoft.slides.annotations.on_slide import regions_on_slide
from medsoft.slides.annotations.settings import AnnotationSource
from medsoft.slides.heatmaps.geojson import mass_inside, write_regions
from medsoft.slides.heatmaps.heatmap import Heatmap, map_size, overlay, paint, thumbnail_of
from medsoft.slides.heatmaps.regions import top_regions
from medsoft.slides.heatmaps.write import write_heatmap
from medsoft.slides.reading.levels import Cropped
from medsoft.slides.reading.slide import open_slide
from medsoft.slides.tiling.settings import TileSettings
from medsoft.slides.tiling.tiling import tile_slide
from medsoft.slides.tiling.tiling_file import read_tiling, write_tiling
from tests.builders.bags import FACTS

SIDE = 512


def image(name: str, size: tuple[int, int], view: tuple[int, int], offset: tuple[int, int], ifd: int) -> str:
    return f"""<image name="{name}" uuid="urn:uuid:{ifd}"><device model="Leica SCN400" version="1"/>
<pixels sizeX="{size[0]}" sizeY="{size[1]}"><dimension sizeX="{size[0]}" sizeY="{size[1]}" r="0" ifd="{ifd}"/></pixels>
<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{offset[0]}" offsetY="{offset[1]}"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>
<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"""


@pytest.fixture(scope="module")
def leica(tmp_path_factory) -> Path:
    """A Leica SCN of 2000 x 4000 px of which 512 x 512 were scanned, from (600, 1000) on; 0.5 µm/px."""
    path = tmp_path_factory.mktemp("leica") / "a.scn"
    macro = image("macro", (128, 256), (1_000_000, 2_000_000), (0, 0), 0)
    main = image("main", (SIDE, SIDE), (256_000, 256_000), (300_000, 500_000), 1)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="c" '
        f'uuid="urn:uuid:9" sizeX="1000000" sizeY="2000000"><barcode>x</barcode>{macro}{main}</collection></scn>'
    )
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.full((SIDE, SIDE, 3), 235, np.uint8)
    picture[(y - 200) ** 2 + (x - 300) ** 2 < 150**2] = [180, 80, 150]
    form = {"photometric": "rgb", "tile": (128, 128), "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(np.full((256, 128, 3), 200, np.uint8), description=xml, **form)
        tiff.write(picture, **form)
    return path


def drawn(slide, coords, shares) -> Heatmap:
    return Heatmap(
        id="a",
        name="tumour",
        size_px0=slide.size_px0,
        mpp=slide.mpp,
        coords_N2_px0=np.array(coords),
        tile_px0=64.0,
        contributions_N=np.array(shares),
        logit=1.0,
        probability=None,
        bounds_px0=slide.bounds_px0,
    )


@settings(deadline=None, max_examples=60)
@given(
    corner=st.tuples(st.integers(0, 300_000), st.integers(0, 300_000)),
    tiles=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9, unique=True),
)
def test_regions_come_back_from_qupath_where_they_were(tmp_path_factory, corner, tiles):
    path = tmp_path_factory.mktemp("regions") / "a.geojson"
    bounds = (*corner, 1000, 1000)
    coords = np.array(tiles) * 100 + corner
    regions = top_regions(coords, 100, np.ones(len(coords)), mass=1.0)
    write_regions(path, regions, "tumour", 0.5, bounds_px0=bounds)
    slide = SimpleNamespace(size_px0=(corner[0] + 1000, corner[1] + 1000), bounds_px0=bounds, mpp=0.5)
    back = regions_on_slide(AnnotationSource(path), slide).areas(())
    in_qupath = regions_on_slide(AnnotationSource(path, corner="slide"), slide).areas(())
    for region, polygon, shown in zip(regions, back, in_qupath, strict=True):
        assert shapely.equals_identical(region.polygon, polygon)
        assert np.array_equal(shapely.get_coordinates(polygon) - corner, shapely.get_coordinates(shown))
        left, top, right, bottom = shown.bounds
        assert min(left, top) >= 0
        assert max(right, bottom) <= 1000  # inside the picture that QuPath shows
    assert mass_inside(coords, 100, np.ones(len(coords)), back) == pytest.approx(1)


def test_what_qupath_shows_of_a_slide_with_a_margin_fits_the_slide(leica, tmp_path):
    with open_slide(leica, mpp=0.5) as slide:
        assert slide.bounds_px0 == (600, 1000, SIDE, SIDE)
        assert slide.size_px0 == (2000, 4000)
        heatmap = drawn(slide, [(600 + 256, 1000 + 128), (600, 1000)], [0.9, -0.2])
        thumbnail = thumbnail_of(slide, heatmap)
        scanned = slide.levels.read(0, 600, 1000, SIDE, SIDE)  # the picture as QuPath opens it
        part = Cropped(slide.levels, slide.bounds_px0)
        assert (part.sizes_px[0], part.downsamples) == ((SIDE, SIDE), slide.level_downsamples)
        assert np.array_equal(part.read(0, 10, 20, 30, 40), scanned[20:60, 10:40])
    assert np.array_equal(thumbnail, scanned)  # the map has at most 2048 px, here those of the slide
    write_heatmap(heatmap, thumbnail, lambda suffix: tmp_path / f"a{suffix}", {})

    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert (ring.min(0).tolist(), ring.max(0).tolist()) == ([256, 128], [320, 192])
    with openslide.OpenSlide(tmp_path / "a.tif") as tif:
        assert tif.dimensions == (SIDE, SIDE)
        assert float(tif.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        pixels = np.asarray(tif.read_region((0, 0), 0, tif.dimensions).convert("RGB"))
    assert np.array_equal(pixels, overlay(paint(heatmap, *map_size(heatmap)), heatmap.limit, thumbnail))
    red = (pixels[..., 0].astype(int) - pixels[..., 2]) > 30
    assert red[128:192, 256:320].all()
    assert not red[:128].any()
    assert not red[:, 320:].any()
    about = json.loads((tmp_path / "a.json").read_text())
    assert about["bounds_px0"] == [600, 1000, SIDE, SIDE]
    places = np.loadtxt(tmp_path / "a.csv", delimiter=",", skiprows=1)
    assert places[0, :2].tolist() == [
        600 + 256,
        1000 + 128,
    ]  # as features do


def test_tiles_and_features_know_the_bounds(leica, tmp_path):
    with open_slide(leica, mpp=0.5) as slide:
        tiling, _, _ = tile_slide(slide, TileSettings(0.5, 64, 0, 0.25))
    assert tiling.bounds_px0 == (600, 1000, SIDE, SIDE)
    write_tiling(tmp_path / "a.h5", tiling)
    assert read_tiling(tmp_path / "a.h5").bounds_px0 == tiling.bounds_px0
    assert len(tiling) > 5
    for bounds in (tiling.bounds_px0, None):  # None: as in files of version 0.1
        facts = replace(FACTS, bounds_px0=bounds)
        with FeatureWriter(tmp_path / "f.h5", facts, np.zeros((2, 2), np.int64), 3) as writer:
            writer.write(0, np.zeros((2, 3)), np.zeros(2, np.uint8))
        with open_bag(tmp_path / "f.h5") as bag:
            assert bag.facts == facts
