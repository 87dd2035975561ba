"""Heatmaps: the numbers on the map are the tiles' contributions, and every file says the same."""

import csv
import json
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from medsoft.slides.heatmaps.figure import figure_heatmap, logit_in_words, scale_bar_mm
from medsoft.slides.heatmaps.heatmap import LONG_SIDE_PX, Heatmap, map_size, overlay, paint, write_contributions
from medsoft.slides.heatmaps.write import SUFFIXES, is_made, why_no_map, write_heatmap
from medsoft.slides.reading.slide import open_slide

MADE_FROM = {"checkpoint": "a", "features": "b"}


def heatmap(
    coords=((0, 0), (100, 0), (0, 100)), contributions=(0.5, -1.0, 0.25), tile_px0=100.0, size_px0=(300, 200), **rest
):
    contributions = np.array(contributions, dtype=float)
    parts = rest.pop("parts", {"bias": 0.5})
    return Heatmap(
        id=rest.pop("id", "slide Ä 1"),
        name=rest.pop("name", "tumour"),
        size_px0=size_px0,
        mpp=rest.pop("mpp", 0.5),
        coords_N2_px0=np.array(coords, dtype=np.int64).reshape(-1, 2),
        tile_px0=tile_px0,
        contributions_N=contributions,
        logit=float(contributions.sum() + sum(parts.values())),
        probability=0.8,
        parts=parts,
        **rest,
    )


def test_each_tile_is_painted_with_its_share_and_glass_with_nothing():
    values = paint(heatmap(), 300, 200)
    assert values.shape == (200, 300)
    assert (values[:100, :100] == 0.5).all()
    assert (values[:100, 100:200] == -1).all()
    assert (values[100:, :100] == 0.25).all()
    assert np.isnan(values[:, 200:]).all()
    assert np.isnan(values[100:, 100:]).all()


def test_where_tiles_overlap_the_map_has_their_mean():
    values = paint(heatmap(coords=[(0, 0), (50, 0), (50, 0)], contributions=[1.0, 2.0, 6.0]), 300, 200)
    assert (values[:100, :50] == 1).all()
    assert (values[:100, 50:100] == 3).all()
    assert (values[:100, 100:150] == 4).all()


def test_a_tile_over_the_edge_of_the_slide_is_cut_off():
    values = paint(heatmap(coords=[(250, 150)], contributions=[1.0]), 300, 200)
    assert (~np.isnan(values)).sum() == 50 * 50
    assert (values[150:, 250:] == 1).all()


@given(st.floats(100, 600), st.integers(2, 40), st.floats(0.003, 1))
@settings(max_examples=100, deadline=None)
def test_neighbours_leave_no_gaps_at_any_scale(tile, count, scale):
    places = np.round(np.arange(count) * tile).astype(int)
    x, y = np.meshgrid(places, places)
    side = int(np.ceil(count * tile))
    drawn = heatmap(np.stack([x.ravel(), y.ravel()], 1), np.ones(count**2), tile, (side, side))
    width = max(1, round(min(side * scale, 700)))
    values = paint(drawn, width, width)
    assert (values[:-1, :-1] == 1).all()  # the last pixel may lie beyond the last tile


@given(st.integers(1, 300_000), st.integers(1, 300_000))
def test_the_map_is_small_whatever_the_slide(width, height):
    w, h = map_size(heatmap(size_px0=(width, height)))
    assert 1 <= max(w, h) <= LONG_SIDE_PX
    assert max(w, h) == min(max(width, height), LONG_SIDE_PX)
    if min(w, h) > 50:
        assert w / h == pytest.approx(width / height, rel=0.02)


def test_the_scale_ends_at_the_99th_percentile_of_the_sizes():
    contributions = np.concatenate([np.linspace(-1, 1, 999), [500.0]])
    drawn = heatmap(np.zeros((1000, 2)), contributions)
    assert 0.98 < drawn.limit <= 1
    assert heatmap(contributions=[0.1, -0.4, 0.2]).limit == pytest.approx(0.4)
    assert heatmap(contributions=[0, 0, 0]).limit == 1
    assert heatmap(coords=[], contributions=[]).limit == 1


def test_colours_are_symmetric_and_pale_at_zero():
    values = np.array([[np.nan, 0.0, 1.0, -1.0, 7.0]], dtype=np.float32)
    thumbnail = np.full((1, 5, 3), (200, 100, 150), np.uint8)
    glass, zero, most, least, beyond = overlay(values, 1.0, thumbnail)[0].astype(int)
    assert glass[0] == glass[1] == glass[2]
    assert np.ptp(zero) <= 3
    assert most[0] > most[2] + 30  # red raises the logit
    assert least[2] > least[0] + 30  # blue lowers it
    assert (beyond == most).all()
    assert (overlay(values, 1.0, None)[0, 0] == 255).all()


def test_the_shares_read_back(tmp_path):
    drawn = heatmap(contributions=[1 / 3, -1e-9, 2e5])
    write_contributions(tmp_path / "a.csv", drawn)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["x_px0"]), int(row["y_px0"])) for row in rows] == [(0, 0), (100, 0), (0, 100)]
    assert [float(row["contribution"]) for row in rows] == pytest.approx(drawn.contributions_N.tolist(), rel=1e-8)


def test_the_parts_of_the_logit_are_said():
    drawn = heatmap(parts={"bias": 0.1, "residual": -0.3, "class token": 0.02})
    assert logit_in_words(drawn) == "logit −0.43 = bias +0.10, residual −0.30, class token +0.02, 3 tiles −0.25"


@given(st.floats(1e-3, 1e3))
def test_the_scale_bar_is_a_round_number_of_mm(width):
    length = scale_bar_mm(width)
    assert width / 7.6 <= length <= width / 3 * (1 + 1e-6)
    assert f"{length:.0e}"[0] in "125"


@pytest.mark.parametrize(
    ("size", "alone"), [((300, 200), False), ((900, 200), False), ((20, 400), False), ((300, 200), True)]
)
def test_the_picture_says_what_it_shows(size, alone):
    drawn = heatmap(size_px0=size, name="tumour_of_the_$breast$")
    width, height = map_size(drawn)
    thumbnail = None if alone else np.full((height, width, 3), 240, np.uint8)
    coloured = overlay(paint(drawn, width, height), drawn.limit, thumbnail)
    figure = figure_heatmap(drawn, coloured, thumbnail, note="phantom slides, no patients")
    figure.canvas.draw()
    words = [figure.get_suptitle(), figure.get_supxlabel()]
    words += [axes.get_ylabel() for axes in figure.axes] + [text.get_text() for a in figure.axes for text in a.texts]
    said = "\n".join(words)
    for word in ("slide Ä 1", "tumour_of_the_$breast$", "0.800", "bias +0.50", " mm", "phantom slides"):
        assert word in said
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == (1 if alone else 2)
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_all_files_of_a_heatmap_agree(tmp_path):
    x, y = np.meshgrid(np.arange(20) * 448, np.arange(12) * 448)
    contributions = np.where((x > 4000) & (y < 2000), 0.1, -0.01).ravel()
    drawn = heatmap(np.stack([x.ravel(), y.ravel()], 1), contributions, 448.0, (10_000, 6_000), mpp=0.25)
    thumbnail = np.full((*map_size(drawn)[::-1], 3), 240, np.uint8)

    def place(suffix):
        return tmp_path / "maps" / f"a b{suffix}"

    assert not is_made(place, MADE_FROM)
    write_heatmap(drawn, thumbnail, place, MADE_FROM)
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == sorted(f"a b{s}" for s in SUFFIXES)
    assert is_made(place, MADE_FROM)
    assert not is_made(place, MADE_FROM | {"checkpoint": "other"})

    expected = overlay(paint(drawn, 2048, 1229), drawn.limit, thumbnail)
    with openslide.OpenSlide(place(".tif")) as slide:
        assert slide.level_dimensions == ((2048, 1229), (512, 308))
        for axis in "xy":
            assert float(slide.properties[f"openslide.mpp-{axis}"]) == pytest.approx(0.25 * 10_000 / 2048, rel=1e-5)
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        assert np.array_equal(pixels, expected)
        assert "red +0.1" in slide.properties["openslide.comment"]
    with open_slide(place(".ome.tif")) as slide:
        assert (slide.reader, slide.mpp_origin) == ("tiff", "ome-xml")
        assert slide.mpp == pytest.approx(0.25 * 10_000 / 2048, rel=1e-9)
        assert slide.levels.sizes_px == ((2048, 1229), (512, 308))
        assert np.array_equal(slide.levels.read(0, 0, 0, 2048, 1229), expected)
    with openslide.OpenSlide(place(".ome.tif")) as slide:
        assert slide.dimensions == (2048, 1229)
        assert np.array_equal(np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")), expected)
    with tifffile.TiffFile(place(".ome.tif")) as tiff:
        assert tiff.is_ome
        assert [level.shape for level in tiff.series[0].levels] == [(1229, 2048, 3), (308, 512, 3)]
        image = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
        assert "red +0.1" in image["Description"]
        assert image["Pixels"]["PhysicalSizeYUnit"] == "µm"
    about = json.loads(place(".json").read_text(encoding="utf-8"))
    assert about["logit"] == pytest.approx(about["sum_of_contributions"] + sum(about["parts"].values()))
    assert (about["id"], about["class"], about["tiles"]) == ("slide Ä 1", "tumour", 240)
    features = json.loads(place(".geojson").read_text(encoding="utf-8"))["features"]
    assert len(features) == about["regions"] == 1

    place(".geojson").unlink()
    assert not is_made(place, MADE_FROM)


def test_a_slide_on_which_nothing_speaks_for_the_class_has_no_regions(tmp_path):
    write_heatmap(heatmap(contributions=[-0.1, -0.2, 0.0]), None, lambda suffix: tmp_path / f"a{suffix}", MADE_FROM)
    assert json.loads((tmp_path / "a.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_a_heatmap_that_cannot_be_finished_does_not_count_as_made(tmp_path, monkeypatch):
    def place(suffix):
        return tmp_path / f"a{suffix}"

    drawn = heatmap()
    write_heatmap(drawn, None, place, MADE_FROM)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medsoft.slides.heatmaps.write.write_pyramid", full)
    with pytest.raises(OSError, match="No space"):
        write_heatmap(replace(drawn, probability=0.1), None, place, MADE_FROM)
    assert not is_made(place, MADE_FROM)


def test_rounding_noise_is_written_down_and_not_drawn(tmp_path):
    def place(suffix):
        return tmp_path / f"a{suffix}"

    write_heatmap(heatmap(), None, place, MADE_FROM)
    assert why_no_map(place) == ""
    write_heatmap(heatmap(contributions=(1e-6, -2e-6, 1e-6)), None, place, MADE_FROM)
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "a.json"}
    assert why_no_map(place).startswith("no map: what the parts add is rounding noise")
    assert is_made(place, MADE_FROM)
    assert not is_made(place, {**MADE_FROM, "checkpoint": "c"})
    about = json.loads((tmp_path / "a.json").read_text())
    assert (about["regions"], about["colour_limit"], about["tiles"]) == (0, None, 3)
    # The same numbers of a regression whose targets spread over a millionth are no noise.
    write_heatmap(replace(heatmap(contributions=(1e-6, -2e-6, 1e-6)), unit=1e-6), None, place, MADE_FROM)
    assert (tmp_path / "a.png").is_file()


def test_a_regression_speaks_of_its_column_and_the_score_stands_on_the_picture():
    found = replace(heatmap(name="age"), probability=None, unfamiliar="abstains: out-of-distribution score 1.34")
    coloured = overlay(paint(found, 300, 200), found.limit, None)
    figure = figure_heatmap(found, coloured, None)
    texts = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    words = " ".join(" ".join(text.get_text().split()) for text in texts)
    assert "what each tile adds to the prediction of age" in words
    assert "contribution of a tile to the prediction of age" in words
    assert "logit" not in words
    assert "abstains: out-of-distribution score 1.34" in words
    assert logit_in_words(found).startswith("prediction 0.25 = ")


def test_attention_is_called_so_in_every_file_and_adds_up_to_nothing(tmp_path):
    values = (0.5, 0.2, 0.3)
    found = heatmap(contributions=values, parts={}, attention_of="torchmil:TransMIL", id="s")
    write_heatmap(found, None, lambda suffix: tmp_path / f"s{suffix}", MADE_FROM)
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["x_px0", "y_px0", "attention"]
    assert [float(row["attention"]) for row in rows] == list(values)
    about = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert about["quantity"] == "attention of torchmil:TransMIL"
    assert about["sum_of_contributions"] is None
    with openslide.OpenSlide(tmp_path / "s.tif") as slide:
        description = slide.properties["tiff.ImageDescription"]
    assert "heatmap of s: attention of torchmil:TransMIL, red" in description
    assert "contribution" not in description
    regions = json.loads((tmp_path / "s.geojson").read_text(encoding="utf-8"))["features"]
    assert "sum of attention" in regions[0]["properties"]["measurements"]
    words = " ".join(
        text.get_text() for text in figure_heatmap(found, np.zeros((20, 30, 3), np.uint8), None, [], "").findobj(Text)
    )
    assert "attention of torchmil:TransMIL, which is no contribution to the answer" in words
    assert "what each tile adds" not in words
    assert logit_in_words(found) == "logit 1.00"


def test_faint_attention_of_a_long_slide_has_a_map(tmp_path):
    even = np.full(9, 1e-9)
    found = heatmap([(100 * i, 0) for i in range(9)], even, parts={}, attention_of="torchmil:ABMIL", id="s")
    write_heatmap(found, None, lambda suffix: tmp_path / f"s{suffix}", MADE_FROM)
    assert why_no_map(lambda suffix: tmp_path / f"s{suffix}") == ""
    assert is_made(lambda suffix: tmp_path / f"s{suffix}", MADE_FROM)
