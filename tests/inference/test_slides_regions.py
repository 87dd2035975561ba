"""``slides tile``, ``encode`` and ``predict`` with regions: which tiles are left, and when work is done again."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsoft.data.features.open import open_bag
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.tiling.tiling_file import read_tiling
from tests.builders.annotations import asap, feature, geojson
from tests.builders.slides import ENCODER, TILES, write_checkpoint, write_slide

LEFT = [(0, 0), (320, 0), (320, 512), (0, 512)]
STRIP = [(256, 0), (288, 0), (288, 512), (256, 512)]
"""Half of a column of tiles, which are 64 level-0 pixels wide."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two slides of 640 × 512 px; a has regions in GeoJSON, b of another class in ASAP's XML."""
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate("ab"):
        write_slide(folder / "slides" / f"{name}.tif", seed)
    (folder / "drawn").mkdir()
    (folder / "drawn" / "a.geojson").write_text(geojson(feature(LEFT), feature(STRIP, name="Necrosis")))
    (folder / "drawn" / "b.xml").write_text(asap((LEFT, "Polygon", "Stroma")))
    return folder


@pytest.fixture(scope="module")
def whole(scans):
    """The tiles of whole slides, and a checkpoint that was trained on their features."""
    from medsoft.cli.main import main

    words = ["slides", "encode", scans / "slides", *ENCODER, *TILES, "--out", scans / "whole"]
    assert main([str(word) for word in words]) == 0
    write_checkpoint(scans / "whole.ckpt", scans / "whole" / "features" / "a.h5")
    return scans


def rows(folder: Path, name: str = "slides.csv") -> dict[str, dict[str, str]]:
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def coords(folder: Path, id: str = "a") -> np.ndarray:
    return read_tiling(SlidesFolder(folder).tiles(id)).coords_N2_px0


@pytest.fixture
def tile(medsoft, scans, tmp_path):
    def run(*words, slides="slides", code=0):
        found, said, err = medsoft(
            "slides", "tile", scans / slides, *TILES, "--regions", scans / "drawn", *words, "--out", tmp_path / "out"
        )
        assert found == code, said + err
        return said + err

    return run


def expected(scans, part_inside):
    """The tiles of the whole slide whose part inside fulfils something; every tile is 64 px0 wide."""
    everything = coords(scans / "whole")
    left = np.clip(320 - everything[:, 0], 0, 64) / 64
    return everything[part_inside(left)]


def test_regions_of_another_frame_fail_with_their_slide_alone(medsoft, scans, tmp_path):
    """b's regions are those of a slide ten times as large; in µm they would lie outside as well."""
    shutil.copytree(scans / "drawn", tmp_path / "drawn")
    large = [[10 * x + 3000, 10 * y + 3000] for x, y in LEFT]
    (tmp_path / "drawn" / "b.xml").write_text(asap((large, "Polygon", "Stroma")))
    words = ["slides", "tile", scans / "slides", *TILES, "--regions", tmp_path / "drawn", "--out", tmp_path / "out"]
    for more in ([], ["--region-unit", "um"]):
        code, said, err = medsoft(*words, *more)
        assert code == 3, said + err
        (error,) = rows(tmp_path / "out", "errors.csv").values()
        assert error["id"] == "b"
        assert "100% of its regions' area outside the slide" in error["reason"]
        assert "--region-unit um" in error["reason"] or more
        assert rows(tmp_path / "out")["a"]["status"] == "tiled"


def test_regions_in_um_choose_the_tiles_of_those_in_pixels(medsoft, scans, tmp_path):
    (tmp_path / "drawn").mkdir()
    in_um = [[x / 2, y / 2] for x, y in LEFT]  # the slide has 0.5 µm/px
    (tmp_path / "drawn" / "a.geojson").write_text(geojson(feature(in_um)))
    for place, more in ((scans, []), (tmp_path, ["--region-unit", "um"])):
        words = ["--regions", place / "drawn" / "a.geojson", "--out", tmp_path / place.name, *more]
        assert medsoft("slides", "tile", scans / "slides" / "a.tif", *TILES, *words)[0] == 0
    first, other = (coords(tmp_path / place.name) for place in (scans, tmp_path))
    assert len(first)
    np.testing.assert_array_equal(first, other)


def test_two_slides_of_one_name_keep_their_own_regions(medsoft, scans, tmp_path):
    """Of two patients; the folder in front tells them apart, for slides as for regions."""
    for patient, name in (("P1", "a"), ("P2", "b")):
        (tmp_path / patient).mkdir()
        shutil.copy(scans / "slides" / f"{name}.tif", tmp_path / patient / "s.tif")
    (tmp_path / "slides.csv").write_text("path,patient\nP1/s.tif,P1\nP2/s.tif,P2\n")
    (tmp_path / "drawn").mkdir()
    words = [
        "slides",
        "tile",
        tmp_path / "slides.csv",
        *TILES,
        "--regions",
        tmp_path / "drawn",
        "--out",
        tmp_path / "out",
    ]
    (tmp_path / "drawn" / "s.geojson").write_text(geojson(feature(LEFT)))
    code, _, err = medsoft(*words)
    assert code == 2
    assert "bears its name and that of" in err
    (tmp_path / "drawn" / "s.geojson").rename(tmp_path / "drawn" / "P1-s.geojson")
    code, said, err = medsoft(*words)
    assert code == 3, said + err
    found = rows(tmp_path / "out")
    assert {id: (row["patient"], row["status"]) for id, row in found.items()} == {
        "P1-s": ("P1", "tiled"),
        "P2-s": ("P2", "failed"),
    }


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--region-class", "Tumour"], lambda left: left >= 0.5),
        (["--region-class", "Tumour", "--region-keep", "outside"], lambda left: left <= 0.5),
        (["--region-class", "Tumour", "--region-min", "1"], lambda left: left == 1),
        (["--region-keep", "all"], lambda left: left >= 0),
    ],
)
def test_regions_leave_the_tiles_that_lie_enough_in_them(whole, tile, tmp_path, words, part):
    tile(*words, slides="slides/a.tif")
    assert np.array_equal(coords(tmp_path / "out"), expected(whole, part))
    assert len(coords(tmp_path / "out")) > 0


def test_some_regions_are_cut_out_of_others(whole, tile, tmp_path):
    words = ["--region-class", "Tumour", "--region-exclude", "Necrosis", "--region-min", "0.6"]
    tile(*words, slides="slides/a.tif")
    found = coords(tmp_path / "out")
    assert 256 not in found[:, 0]  # half of these tiles is necrosis
    assert len(found) == len(expected(whole, lambda left: left >= 0.6)) - len(np.unique(found[:, 1]))
    row = rows(tmp_path / "out")["a"]
    assert row["tile_regions"] == "inside Tumour without Necrosis, 0.6 of a tile"


def test_a_slide_without_such_regions_has_no_tiles_and_is_no_failure(tile, tmp_path):
    said = tile("--region-class", "Tumour")
    found = rows(tmp_path / "out")
    assert (found["b"]["status"], found["b"]["tiles"]) == ("no tissue", "0")
    assert found["b"]["reason"] == "no tile with enough tissue lies inside Tumour, 0.5 of a tile"
    assert "No tissue on" not in said


def test_other_regions_make_new_tiles_and_the_same_ones_are_kept(scans, medsoft, tmp_path):
    drawn = tmp_path / "a.geojson"
    drawn.write_text(geojson(feature(LEFT)))
    words = ["slides", "tile", scans / "slides" / "a.tif", *TILES, "--regions", drawn, "--out", tmp_path / "out"]
    assert medsoft(*words)[0] == 0
    first = coords(tmp_path / "out")
    assert "kept" in medsoft(*words)[1]
    drawn.write_text(geojson(feature(STRIP)))
    code, said, _ = medsoft(*words)
    assert (code, "kept" in said) == (0, False)
    assert "replaces tiles of other settings: other regions" in rows(tmp_path / "out")["a"]["warnings"]
    assert len(coords(tmp_path / "out")) < len(first)
    code, said, _ = medsoft(*words[:-4], "--out", tmp_path / "out")  # without regions
    assert "regions.keep inside, not none" in rows(tmp_path / "out")["a"]["warnings"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--region-class", "tumour"], "no region has the class 'tumour'; classes in 2 annotation files: Necrosis (1)"),
        (["--region-class", "Tumour", "--region-min", "0"], "region_min 0 must be above 0"),
        (["--region-keep", "all", "--region-min", "0.2"], "--region_keep all keeps all"),
    ],
)
def test_what_is_wrong_with_the_call_is_said_before_work_starts(tile, tmp_path, words, message):
    assert message in tile(*words, code=2)
    assert not (tmp_path / "out").exists()


def test_slides_without_a_file_fail_unless_they_count_as_without_regions(scans, medsoft, tmp_path):
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    (drawn / "a.geojson").write_text(geojson(feature(LEFT)))
    words = ["slides", "tile", scans / "slides", *TILES, "--regions", drawn, "--out", tmp_path / "out"]
    assert medsoft(*words)[0] == 3
    failed = rows(tmp_path / "out", "errors.csv")
    assert failed.keys() == {"b"}
    assert "no annotation file is named after it" in failed["b"]["reason"]
    (drawn / "b.geojson").write_text(geojson(feature(LEFT)))
    assert medsoft(*words)[0] == 0
    (drawn / "b.geojson").unlink()
    assert medsoft(*words)[0] == 3  # what was made with a file that is gone is not taken
    assert medsoft(*words, "--region-missing", "none", "--region-keep", "outside")[0] == 0
    assert rows(tmp_path / "out")["b"]["status"] == "tiled"


def test_features_know_their_regions_and_predictions_need_them(whole, medsoft, tmp_path):
    out, drawn = tmp_path / "out", tmp_path / "a.geojson"
    drawn.write_text(geojson(feature(LEFT)))
    slide = whole / "slides" / "a.tif"
    words = ["slides", "encode", slide, *ENCODER, *TILES, "--regions", drawn, "--region-class", "Tumour"]
    assert medsoft(*words, "--out", out)[0] == 0
    with open_bag(out / "features" / "a.h5") as bag, open_bag(whole / "whole" / "features" / "a.h5") as all_of_it:
        places, features = bag.coords_N2_px0, bag.read()
        assert bag.slide_facts.regions_from
        assert bag.slide_facts.tile_settings["regions"]["classes"] == ["Tumour"]
        assert not all_of_it.slide_facts.regions_from
        rows_of = {tuple(place): row for row, place in enumerate(all_of_it.coords_N2_px0.tolist())}
        same = [rows_of[tuple(place)] for place in places.tolist()]
        assert np.allclose(features, all_of_it.read()[same], atol=1e-2)
    kept = (out / "features" / "a.h5").stat().st_mtime_ns
    assert medsoft(*words, "--out", out)[0] == 0
    assert (out / "features" / "a.h5").stat().st_mtime_ns == kept

    checkpoint = write_checkpoint(tmp_path / "regions.ckpt", out / "features" / "a.h5")
    predict = ["slides", "predict", slide, "--checkpoint", checkpoint, "--out", out]
    code, _, err = medsoft(*predict)
    assert code == 2
    assert "the model was trained on tiles inside Tumour, 0.5 of a tile: name the regions of these slides" in err
    assert "trained on tiles inside Tumour" in medsoft(*predict, "--regions", drawn, "--region-keep", "outside")[2]
    code, said, err = medsoft(*predict, "--regions", drawn)
    assert (code, "1 of 1 slides are encoded already" in said) == (0, True), err
    about = json.loads((out / "heatmaps" / "a.json").read_text())
    assert len((out / "heatmaps" / "a.csv").read_text().splitlines()) == 1 + len(places)
    with Image.open(out / "heatmaps" / "a.tiles.png") as sheet:
        assert sheet.width > 2 * sheet.height  # two rows of eight
    assert not list(out.glob("heatmaps/cohort*"))  # of one slide
    assert about["class"] == "tumour"


def test_heatmaps_are_compared_with_regions_and_examples_shown(whole, medsoft, tmp_path):
    out, table = tmp_path / "out", tmp_path / "slides.csv"
    table.write_text(f"path,label\n{whole}/slides/a.tif,tumour\n{whole}/slides/b.tif,normal\n")
    shutil.copytree(whole / "whole", out)
    model = ["--checkpoint", whole / "whole.ckpt", "--out", out]
    code, said, err = medsoft("slides", "predict", table, "--label", "label", *model, "--figures", "false")
    assert code == 0, err
    assert f"of all slides: {out / 'heatmaps' / 'cohort_tumour.tiles.png'}" in said
    assert (out / "heatmaps" / "cohort_tumour.tiles.png").is_file()
    examples = json.loads((out / "examples" / "examples.json").read_text())["examples"]
    assert {example["id"] for example in examples} == {"a", "b"}
    assert all((out / "examples" / example[kind]).is_file() for example in examples for kind in ("image", "map"))
    assert 'id="examples"' in (out / "report.html").read_text()

    kept = (out / "heatmaps" / "a.tiles.png").stat().st_mtime_ns
    words = ["slides", "heatmap", table, *model, "--regions", whole / "drawn", "--region-class", "Tumour"]
    code, said, err = medsoft(*words)
    assert code == 0, err
    assert (out / "heatmaps" / "a.tiles.png").stat().st_mtime_ns == kept
    with (out / "heatmaps_in_regions.csv").open(newline="") as file:
        a, b = csv.DictReader(file)
    everything = coords(whole / "whole")
    inside = np.clip(320 - everything[:, 0], 0, 64) / 64
    assert (a["id"], a["regions"], b["regions"]) == ("a", "1", "0")
    assert float(a["area_inside"]) == pytest.approx(inside.mean(), abs=1e-5)
    with (out / "heatmaps" / "a.csv").open(newline="") as file:
        values = np.array([float(row["contribution"]) for row in csv.DictReader(file)]).clip(0)
    assert float(a["mass_inside"]) == pytest.approx((values * inside).sum() / values.sum(), abs=1e-5)
    assert "of what raises the logit lies within the regions" in said
    code, _, err = medsoft(*words, "--region-keep", "outside")
    assert (code, "here regions are only compared with heatmaps" in err) == (2, True)


def test_a_model_of_whole_slides_predicts_regions_with_a_warning(whole, medsoft, tmp_path):
    drawn = tmp_path / "a.geojson"
    drawn.write_text(geojson(feature(LEFT)))
    words = [
        "slides",
        "predict",
        whole / "slides" / "a.tif",
        "--checkpoint",
        whole / "whole.ckpt",
        "--heatmap",
        "false",
    ]
    code, said, err = medsoft(*words, "--regions", drawn, "--out", tmp_path / "out")
    assert code == 0, err
    assert "WARNING: tiles inside regions, 0.5 of a tile are predicted, but the model was trained on tiles of" in said
    assert len(coords(tmp_path / "out")) < len(coords(whole / "whole"))
