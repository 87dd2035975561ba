"""Blur, folds, air bubbles and pen: measured in tiles, listed, and left out."""

import csv

import cv2
import numpy as np
import pytest
from PIL import Image

from medsoft.cli.slides.tile import tile_slides
from medsoft.errors import InputError
from medsoft.parsing.parser import call
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.quality.measure import folds_and_bubbles, sharpness
from medsoft.slides.quality.settings import ArtefactLimits, QualitySettings
from medsoft.slides.reading.slide import open_slide
from medsoft.slides.tiling.overview_figure import facts
from medsoft.slides.tiling.settings import TileSettings, TilingOptions, TissueSettings
from medsoft.slides.tiling.tiling import tile_slide
from medsoft.slides.tiling.tiling_file import read_tiling
from medsoft.slides.tiling.tissue import find_tissue

SIDE = 1024
LIMITS = TileSettings(1, 128, min_tissue=0.5, quality=QualitySettings(ArtefactLimits()))
"""Tiles of 128 µm."""
BLURRED, FOLDED, INKED, GREY = (256, 512), (512, 256), (512, 640), (640, 512)
"""Corners (x, y) of tiles in the tissue, one for each artefact."""


def tissue_of(rng, side=SIDE):
    """Pink ground with blue nuclei of 8 µm, at 1 µm/px."""
    image = np.full((side, side, 3), (225, 165, 200), np.uint8)
    for x, y in rng.integers(0, side, (side * side // 300, 2)).tolist():
        cv2.circle(image, (x, y), 4, (110, 80, 150), cv2.FILLED, cv2.LINE_AA)
    return image


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory):
    """Glass with a square of tissue; one of its tiles is blurred, others are folded, inked, or grey in part."""
    rng = np.random.default_rng(0)
    image = np.full((SIDE, SIDE, 3), 243, np.uint8)
    image[256:768, 256:768] = tissue_of(rng)[256:768, 256:768]
    x, y = BLURRED
    image[y : y + 128, x : x + 128] = cv2.GaussianBlur(image, (0, 0), 3)[y : y + 128, x : x + 128]
    x, y = FOLDED
    strip = (slice(y + 30, y + 98), slice(x, x + 128))
    image[strip] = (image[strip] / 255.0) ** 5 * 255
    x, y = INKED
    image[y + 190 : y + 350, x - 100 : x + 228] = (60, 90, 190)  # below the tissue: its margin reaches into it
    x, y = GREY
    image[y : y + 80, x : x + 128] = 120
    path = tmp_path_factory.mktemp("slide") / "slide.png"
    Image.fromarray(image).save(path)
    return path


@pytest.fixture(scope="module")
def tilings(slide_file):
    """Tiled with limits, and only measured."""
    with open_slide(slide_file, 1.0) as slide:
        limited = tile_slide(slide, LIMITS)[0]
        measured = tile_slide(slide, TileSettings(1, 128, min_tissue=0.5, quality=QualitySettings()))[0]
    return limited, measured


def at(tiling, corner):
    found = np.flatnonzero((tiling.coords_N2_px0 == corner).all(axis=1))
    return {name: float(values[found[0]]) for name, values in tiling.quality.columns.items()}


def test_measures_point_to_the_artefact_that_is_there(tilings):
    measured = tilings[1]
    limits = ArtefactLimits()
    whole = at(measured, (384, 384))
    assert whole["sharpness"] > 5 * limits.min_sharpness
    assert whole["fold"] == whole["bubble"] == whole["pen"] == 0
    assert at(measured, BLURRED)["sharpness"] < limits.min_sharpness
    assert 0.25 < at(measured, FOLDED)["fold"] < 0.6  # 68 of 128 px, less where it is smoothed into the rest
    assert 0.3 < at(measured, GREY)["bubble"] < 0.7  # 80 of 128 px
    assert at(measured, INKED)["pen"] > limits.max_pen


def test_tiles_beyond_a_limit_are_left_out_and_counted(tilings):
    limited, measured = tilings
    kept = set(map(tuple, limited.coords_N2_px0.tolist()))
    every = set(map(tuple, measured.coords_N2_px0.tolist()))
    assert {BLURRED, FOLDED, INKED, GREY} <= every - kept
    assert (384, 384) in kept
    assert limited.quality.tiles_left_out == len(every - kept)
    assert limited.quality.left_out["sharpness"] == 1
    assert limited.quality.in_words in [line for line, _ in facts(limited)]
    assert measured.quality.in_words == ""


def test_limits_can_be_switched_off_one_by_one(slide_file):
    all_off = ArtefactLimits(min_sharpness=0, max_fold=1, max_bubble=1, max_pen=1)
    with open_slide(slide_file, 1.0) as slide:
        tiling = tile_slide(slide, TileSettings(1, 128, min_tissue=0.5, quality=QualitySettings(all_off)))[0]
        plain = tile_slide(slide, TileSettings(1, 128, min_tissue=0.5))[0]
    assert np.array_equal(tiling.coords_N2_px0, plain.coords_N2_px0)
    assert plain.quality is None


def test_blur_lowers_sharpness_and_glass_has_none():
    tile = tissue_of(np.random.default_rng(1), 128)
    values = [sharpness(cv2.GaussianBlur(tile, (0, 0), sigma) if sigma else tile) for sigma in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY).astype(np.float64)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    assert values[0] == pytest.approx((around - 4 * grey[1:-1, 1:-1]).var(), rel=1e-4)  # all of it is stained
    assert np.isnan(sharpness(np.full((64, 64, 3), 240, np.uint8)))


def test_pale_folds_are_found_by_comparison_with_the_slide_itself():
    image = np.full((256, 256, 3), 243, np.uint8)
    image[32:224, 32:224] = (230, 190, 215)
    image[100:110, 60:200] = (205, 150, 185)  # as light through two such layers
    fold_HW, _ = folds_and_bubbles(image, 8.0, find_tissue(image, 8.0, TissueSettings()))
    assert fold_HW[103:107, 70:190].all()
    assert not fold_HW[130:].any()


def test_blur_of_a_slide_too_coarse_for_it_is_not_judged(slide_file):
    with open_slide(slide_file, 2.0) as slide:
        tiling = tile_slide(slide, TileSettings(2, 64, min_tissue=0.5, quality=QualitySettings(ArtefactLimits())))[0]
    assert np.isnan(tiling.quality.columns["sharpness"]).all()
    assert tiling.quality.left_out["sharpness"] == 0
    assert "blur cannot be judged at 2 µm/px" in "; ".join(tiling.warnings)


def test_the_command_lists_measures_and_keeps_them(slide_file, tmp_path, capsys):
    def tile(*options):
        arguments = (slide_file, "--slide-mpp", 1, "--mpp", 1, "--tile", 128, "--out", tmp_path, *options)
        return call(tile_slides, tuple(map(str, arguments)), "slides tile", "slides", several=True)

    assert tile("--quality", "filter", "--save-tiles", "table", "--artefacts.max_pen", 1) == 0
    with (tmp_path / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["sharpness"]) >= 100 and float(row["fold"]) <= 0.1 for row in rows)
    assert max(float(row["pen"]) for row in rows) > 0.1
    tiling = read_tiling(SlidesFolder(tmp_path).tiles("slide"))
    assert [row["sharpness"] for row in rows] == [f"{value:.4g}" for value in tiling.quality.columns["sharpness"]]
    assert tiling.quality.in_words.startswith(f"{tiling.quality.tiles_left_out} tiles left out: 1 blurred")
    row = SlidesFolder(tmp_path).rows()["slide"]
    assert row["tile_quality"] == "min_sharpness=100 max_fold=0.1 max_bubble=0.1 max_pen=1"
    capsys.readouterr()
    # Tiles that were only measured serve where nothing is asked, and not the other way round.
    assert tile("--quality", "measure") == 0
    assert "kept" not in capsys.readouterr().out
    assert tile() == 0
    assert "kept" in capsys.readouterr().out


def test_settings_survive_json_and_differences_name_the_limit():
    assert TileSettings.from_dict(LIMITS.as_dict()) == LIMITS
    measured = TileSettings(1, 128, quality=QualitySettings())
    assert TileSettings.from_dict(measured.as_dict()) == measured
    other = TileSettings.from_dict({**LIMITS.as_dict(), "quality": QualitySettings(ArtefactLimits(50)).as_dict()})
    assert LIMITS.differences(other) == ["quality.min_sharpness 50, not 100"]


def test_impossible_limits_are_refused():
    with pytest.raises(InputError, match="max_fold"):
        ArtefactLimits(max_fold=2)
    with pytest.raises(InputError, match="needs --quality filter"):
        TilingOptions(1, 128, quality="measure", artefacts=ArtefactLimits(max_fold=0.5))
