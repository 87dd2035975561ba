"""What is tissue and what is glass, ink, dust or border."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.errors import InputError
from medsoft.slides.reading.slide import open_slide
from medsoft.slides.tiling.ink import connected_pieces
from medsoft.slides.tiling.settings import INK_COLOURS, TileSettings, TissueSettings
from medsoft.slides.tiling.tiling import tile_slide
from medsoft.slides.tiling.tissue import METHODS, find_tissue

GLASS, PINK, PURPLE = (243, 242, 244), (215, 150, 190), (110, 70, 140)
PENS = {"blue": (40, 60, 140), "green": (40, 120, 70), "red": (220, 40, 50), "black": (25, 25, 28)}
SETTINGS = TissueSettings()
MPP = 8.0


def scene(side: int = 300, background=GLASS, noise: float = 3) -> np.ndarray:
    """Glass of 2.4 mm with the noise of a camera."""
    rng = np.random.default_rng(0)
    return np.clip(np.array(background) + rng.normal(0, noise, (side, side, 3)), 0, 255).astype(np.uint8)


def disc(image: np.ndarray, colour, centre=(150, 150), radius: int = 100) -> np.ndarray:
    rng = np.random.default_rng(1)
    inside = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(inside, centre, radius, 1, cv2.FILLED)
    stained = np.clip(np.array(colour) + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    return np.where(inside[..., None] == 1, stained, image)


def mask(image: np.ndarray, mpp: float = MPP, **options) -> np.ndarray:
    return find_tissue(image, mpp, replace(SETTINGS, **options)).mask_HW


@pytest.mark.parametrize("background", [GLASS, (255, 255, 255), (227, 222, 229), (245, 240, 215), (200, 200, 200)])
def test_a_slide_of_glass_only_has_no_tissue(background):
    assert not mask(scene(background=background)).any()


def test_black_and_flat_pictures_have_no_tissue():
    for level in (0, 60, 128, 255):
        assert not mask(np.full((50, 70, 3), level, np.uint8)).any()


@pytest.mark.parametrize("colour", [PINK, PURPLE, (232, 205, 225)])
@pytest.mark.parametrize("background", [GLASS, (227, 222, 229), (245, 240, 215)])
def test_stained_tissue_is_found_as_large_as_it_is(colour, background):
    found = mask(disc(scene(background=background), colour))
    assert found.sum() == pytest.approx(np.pi * 100**2, rel=0.06)
    assert found[150, 150]
    assert not found[:40].any()


def test_pale_tissue_is_kept_beside_dark_tissue():
    image = disc(disc(scene(), PURPLE, (80, 150), 60), (230, 205, 222), (220, 150), 60)
    assert mask(image)[150, [80, 220]].all()


def test_a_slide_without_glass_is_all_tissue():
    assert mask(disc(scene(), PINK, radius=400)).all()


def test_the_same_picture_gives_the_same_mask_and_stays_as_it_is():
    image = disc(scene(), PINK)
    before = image.copy()
    assert np.array_equal(mask(image), mask(image))
    assert np.array_equal(image, before)


def test_areas_are_in_um2_whatever_the_resolution():
    fine = disc(scene(600), PINK, (300, 300), 200)
    coarse = cv2.resize(fine, (300, 300), interpolation=cv2.INTER_AREA)
    areas = [mask(image, mpp).sum() * mpp**2 for image, mpp in ((fine, 4.0), (coarse, 8.0))]
    assert areas[0] == pytest.approx(areas[1], rel=0.03)


def test_large_holes_stay_and_small_ones_are_filled():
    image = disc(disc(disc(scene(), PINK), GLASS, (110, 150), 25), GLASS, (200, 150), 10)
    found = mask(image)
    assert not found[150, 110]  # 125,000 µm²
    assert found[150, 200]  # 20,000 µm²
    assert not mask(image, max_hole_um2=0)[150, 200]


def test_a_bay_at_the_edge_of_the_picture_is_no_hole():
    image = disc(disc(scene(), PINK, radius=400), GLASS, (0, 150), 12)
    assert not mask(image)[150, 0]


def test_dust_is_left_out():
    image = disc(disc(scene(), PINK, (80, 80), 4), PINK, (200, 200), 30)
    found = mask(image)
    assert not found[80, 80]
    assert found[200, 200]
    assert mask(image, min_area_um2=0)[80, 80]


@pytest.mark.parametrize("pen", PENS)
def test_pens_on_glass_are_no_tissue(pen):
    image = scene()
    cv2.line(image, (40, 40), (260, 230), PENS[pen], 20)
    assert not mask(image).any()


@pytest.mark.parametrize("pen", PENS)
def test_a_pen_over_tissue_takes_its_margin_with_it_and_leaves_the_rest(pen):
    image = disc(scene(), PURPLE)
    cv2.line(image, (150, 20), (150, 280), PENS[pen], 20)
    found = find_tissue(image, MPP, SETTINGS)
    assert not found.mask_HW[:, 130:171].any()  # half the stroke and 100 µm
    assert found.mask_HW[150, [100, 200]].all()
    assert found.ink_HW[150, 150]
    kept = mask(image, ink=",".join(name for name in INK_COLOURS if name != pen))
    assert kept[150, 150] or pen == "black"  # what is black is never taken for stained


def test_specks_of_such_colours_are_no_pen():
    image = disc(disc(scene(), PURPLE), PENS["green"], (150, 150), 6)
    assert mask(image)[150, 150]


def test_a_stain_that_looks_like_ink_is_remarked_on():
    image = disc(scene(), (90, 140, 190))  # the blue of a trichrome
    found = find_tissue(image, MPP, SETTINGS)
    assert not found.mask_HW.any()
    assert "--tissue.ink" in " ".join(found.notes)
    assert mask(image, ink="").sum() == pytest.approx(np.pi * 100**2, rel=0.05)
    assert find_tissue(disc(scene(), PURPLE), MPP, SETTINGS).notes == ()


def test_black_and_grey_borders_of_the_scan_are_no_tissue():
    image = disc(scene(), PINK, radius=60)
    image[:30] = 12
    image[30:45] = 120
    found = mask(image)
    assert not found[:50].any()
    assert found[150, 150]


def test_everything_is_tissue_where_nothing_is_searched():
    assert mask(scene(), method="everything").all()
    assert set(METHODS) == {"saturation", "everything"}


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([0.5, 8.0, 300.0]))
def test_any_picture_gives_a_mask_of_its_size(height, width, seed, mpp):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = find_tissue(image, mpp, SETTINGS)
    assert found.mask_HW.shape == found.ink_HW.shape == (height, width)
    assert found.mask_HW.dtype == bool


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"method": "magic"}, "saturation, everything"),
        ({"ink": "blue,pink"}, "pink"),
        ({"mpp": 0.0}, "tissue.mpp"),
        ({"min_area_um2": -1}, "min_area_um2"),
        ({"max_saturation": 0.01}, "max_saturation"),
        ({"smooth_um": float("nan")}, "smooth_um"),
    ],
)
def test_settings_out_of_range_are_refused(options, word):
    with pytest.raises(InputError, match=word):
        replace(SETTINGS, **options)


def test_settings_survive_json_and_do_not_tell_1_from_1_0():
    import json

    one = TileSettings(1, 224, 32, 0.5, TissueSettings(mpp=10, ink="green, blue"))
    assert TileSettings.from_dict(json.loads(json.dumps(one.as_dict()))) == one
    assert json.dumps(one.as_dict()) == json.dumps(replace(one, mpp=1.0).as_dict())
    assert one.tissue.ink == "blue,green"
    with pytest.raises(InputError, match="overlap"):
        TileSettings(0.5, 224, 224)


def test_the_cmu_slide_against_another_tools_mask(shared_data):
    reference = np.load(shared_data / "wsi" / "reference" / "tissue-mask-cmu-1-small-region.npy")
    with open_slide(shared_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        tiling, found, _ = tile_slide(slide, TileSettings(0.5, 256))
    found = cv2.resize(found.astype(np.uint8), reference.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    assert (found & reference).sum() / (found | reference).sum() > 0.84
    assert len(tiling) == 45
    assert tiling.tissue_mm2 == pytest.approx(0.66, abs=0.01)


def test_the_inked_slide_loses_the_ink_and_keeps_the_tissue(shared_data):
    image = np.asarray(Image.open(shared_data / "wsi" / "histoprep_slide_with_ink.jpeg").convert("RGB"))
    image = cv2.resize(image, None, fx=0.3125, fy=0.3125, interpolation=cv2.INTER_AREA)  # 2.5 µm/px stated, to 8
    found = find_tissue(image, MPP, SETTINGS)
    blue = (image[..., 2].astype(int) - image[..., 0] > 50) & (image[..., 0] < 120)
    assert blue.sum() > 3000
    assert not (found.mask_HW & blue).any()
    assert found.mask_HW.mean() == pytest.approx(0.288, abs=0.01)


def test_a_dark_glass_edge_on_a_real_slide_is_no_tissue(shared_data):
    with open_slide(shared_data / "wsi" / "cptac_brca_15BR001_level.dcm") as slide:
        _, found, overview = tile_slide(slide, TileSettings(16, 64))
    assert overview[:30].mean() < 200
    assert not found[:50].any()
    assert found.mean() == pytest.approx(0.22, abs=0.01)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize(("smooth_px", "bits"), [(6, 16), (0, 32)])
def test_connected_pieces_are_opencvs_with_as_few_bytes_as_are_enough(connectivity, smooth_px, bits):
    noise = np.random.default_rng(0).normal(size=(900, 700))
    mask = (cv2.GaussianBlur(noise, (0, 0), smooth_px) if smooth_px else noise) > 0
    labels, stats = connected_pieces(mask, connectivity)
    number, plain, theirs, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    assert labels.dtype.itemsize * 8 == bits
    assert len(stats) == number
    pairs = np.unique(np.stack([labels.ravel(), plain.ravel()]), axis=1)
    assert pairs.shape[1] == number  # one of theirs for each of ours
    assert np.array_equal(stats[pairs[0]], theirs[pairs[1]])
