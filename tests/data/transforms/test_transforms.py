from __future__ import annotations

import inspect
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsoft.data.transforms import ChestXray, Dermoscopy, Fundus, Histology, Plain, Transforms
from medsoft.data.transforms.dermoscopy import shades_of_grey
from medsoft.data.transforms.fundus import disc_box
from medsoft.errors import InputError

RECIPES = [Plain, Fundus, Dermoscopy, ChestXray, Histology]
SHARED = Path(__file__).parents[3].parent / "shared" / "data"
SEEDS = range(100)


def noise(shape: tuple[int, ...], dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype, endpoint=True)


def tissue(size: int = 32) -> np.ndarray:
    """Pink and violet blobs on a white ground, unlike any of its mirror images."""
    image = np.full((size, size, 3), 255, np.uint8)
    cv2.circle(image, (size // 3, size // 4), size // 5, (200, 120, 180), -1)
    cv2.circle(image, (2 * size // 3, size // 2), size // 6, (90, 60, 140), -1)
    return image


def lit_disc(shape: tuple[int, int], centre: tuple[int, int], radius: int) -> np.ndarray:
    image = noise((*shape, 3), seed=1) // 32  # a margin that is not quite black
    cv2.circle(image, centre, radius, (190, 110, 60), -1)
    return image


# --- all recipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
@settings(max_examples=25, deadline=None)
@given(
    short=st.integers(1, 60),
    aspect=st.floats(1, 20),
    upright=st.booleans(),
    channels=st.sampled_from([1, 3]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    size=st.one_of(st.integers(1, 48), st.tuples(st.integers(1, 48), st.integers(1, 48))),
)
def test_any_picture_becomes_8_bits_of_the_size_asked_for(
    recipe: type[Transforms],
    short: int,
    aspect: float,
    upright: bool,
    channels: int,
    dtype: Any,
    size: int | tuple[int, int],
) -> None:
    sides = (round(short * aspect), short)
    image = noise((*(sides if upright else sides[::-1]), channels), dtype)
    before = image.copy()
    transforms = recipe(size=size)  # type: ignore[call-arg]
    prepared = transforms.prepare(image)
    assert prepared.shape == (*transforms.size, transforms.channels)
    assert prepared.dtype == np.uint8
    np.testing.assert_array_equal(prepared, transforms.prepare(image))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", [(24, 24), (20, 31)])
def test_augment_keeps_shape_and_type_and_leaves_its_input_alone(
    recipe: type[Transforms], size: tuple[int, int]
) -> None:
    transforms = recipe(size=size)  # type: ignore[call-arg]
    prepared = transforms.prepare(tissue())
    before = prepared.copy()
    results = [transforms.augment(prepared, seed) for seed in SEEDS]
    assert {result.shape for result in results} == {prepared.shape}
    assert {result.dtype for result in results} == {np.dtype(np.uint8)}
    assert len({result.tobytes() for result in results}) > len(SEEDS) // 2
    np.testing.assert_array_equal(prepared, before)


def augment_all(recipes: list[Transforms], image: np.ndarray, seeds: list[int]) -> dict[tuple[str, int], bytes]:
    return {
        (type(recipe).__name__, seed): recipe.augment(recipe.prepare(image), seed).tobytes()
        for recipe in recipes
        for seed in seeds
    }


def test_augment_depends_on_picture_and_seed_alone() -> None:
    recipes: list[Transforms] = [recipe(size=24) for recipe in RECIPES]  # type: ignore[call-arg]
    seeds = [0, 1, 7, 2**32 + 1, 2**100]
    image = tissue()
    # Pickled before any use here; over there in another order, in another process, started afresh.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        elsewhere = pool.submit(augment_all, recipes[::-1], image, seeds[::-1])
        here = augment_all(recipes, image, seeds)
        assert here == elsewhere.result()
    used = pickle.loads(pickle.dumps(recipes))
    assert augment_all(used, image, seeds) == here


@pytest.mark.parametrize("recipe", RECIPES)
def test_finish_can_be_undone(recipe: type[Transforms]) -> None:
    transforms = recipe(size=(16, 20))  # type: ignore[call-arg]
    image = noise((16, 20, transforms.channels))
    finished = transforms.finish(image)
    assert finished.shape == (transforms.channels, 16, 20)
    assert finished.dtype == np.float32
    assert finished.flags.c_contiguous
    undone = (finished.transpose(1, 2, 0) * transforms.std + transforms.mean) * 255
    np.testing.assert_array_equal(np.rint(undone), image)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(90, 200), (200, 90)])
def test_a_circle_stays_a_circle(recipe: type[Transforms], shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    cv2.circle(image, (shape[1] // 2, shape[0] // 2), 25, (220, 220, 220), -1)
    prepared = recipe(size=(64, 96)).prepare(image)  # type: ignore[call-arg]
    _, _, width, height = cv2.boundingRect((prepared.max(axis=2) > 110).astype(np.uint8))
    assert abs(width - height) <= 2
    assert width >= 12


CHANGES: dict[type[Transforms], dict[str, Any]] = {
    Plain: {
        "size": 20,
        "channels": 1,
        "fit": "crop",
        "window": (5, 95),
        "augmentation": False,
        "flips": "both",
        "rotation": 30,
        "zoom": 0.3,
        "jitter": 0.4,
        "rand_augment": 0.9,
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 1, 1],
    },
    Fundus: {
        "size": 20,
        "crop_to_disc": False,
        "clahe": 2,
        "augmentation": False,
        "flips": "none",
        "rotation": 60,
        "zoom": 0.3,
        "jitter": 0.4,
        "rand_augment": 0.9,
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 1, 1],
    },
    Dermoscopy: {
        "size": 20,
        "fit": "crop",
        "colour_constancy": True,
        "augmentation": False,
        "zoom": 0.4,
        "jitter": 0.4,
        "rand_augment": 0.9,
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 1, 1],
    },
    ChestXray: {
        "size": 20,
        "channels": 3,
        "window": (5, 95),
        "augmentation": False,
        "horizontal_flip": True,
        "rotation": 20,
        "zoom": 0.3,
        "shift": 0.2,
        "jitter": 0.4,
        "rand_augment": 0.9,
        "mean": [0.1],
        "std": [1],
    },
    Histology: {
        "size": 20,
        "augmentation": False,
        "symmetries": False,
        "stain_jitter": 0.5,
        "jitter": 0.3,
        "rand_augment": 0.9,
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 1, 1],
    },
}


@pytest.mark.parametrize(("recipe", "option"), [(recipe, name) for recipe in RECIPES for name in CHANGES[recipe]])
def test_every_option_changes_what_the_model_sees(recipe: type[Transforms], option: str) -> None:
    image = lit_disc((60, 80), (36, 30), 26)
    image[20:30, 30:50] = tissue()[6:16, 4:24]

    def seen(**options: Any) -> list[bytes]:
        transforms = recipe(**{"size": 32, **options})
        prepared = transforms.prepare(image)
        return [transforms.finish(transforms.augment(prepared, seed)).tobytes() for seed in range(5)]

    assert seen() == seen()
    assert seen() != seen(**{option: CHANGES[recipe][option]})


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_is_among_those_tried(recipe: type[Transforms]) -> None:
    assert set(inspect.signature(recipe).parameters) == set(CHANGES[recipe])


@pytest.mark.parametrize(
    ("recipe", "off"),
    [
        (Plain, {"rotation": 0, "zoom": 0, "jitter": 0}),
        (Fundus, {"flips": "none", "rotation": 0, "zoom": 0, "jitter": 0}),
        (ChestXray, {"rotation": 0, "zoom": 0, "shift": 0, "jitter": 0}),
        (Histology, {"symmetries": False, "stain_jitter": 0, "jitter": 0}),
    ],
)
def test_nothing_is_random_with_all_ranges_at_zero(recipe: type[Transforms], off: dict[str, Any]) -> None:
    transforms = recipe(size=32, **off)  # type: ignore[call-arg]
    prepared = transforms.prepare(tissue())
    for seed in SEEDS:
        np.testing.assert_array_equal(transforms.augment(prepared, seed), prepared)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (Plain, {"size": 0}, "size"),
        (Plain, {"channels": 2}, "channels"),
        (Plain, {"mean": [0.5]}, "mean has 1 values for 3 channels"),
        (Plain, {"std": [1, 1, 0]}, "std"),
        (Plain, {"window": (99, 1)}, "window"),
        (Plain, {"zoom": 0.9}, "zoom"),
        (ChestXray, {"window": (0, 101)}, "window"),
        (ChestXray, {"rotation": -5}, "rotation"),
        (Fundus, {"clahe": -1}, "clahe"),
        (Dermoscopy, {"jitter": 2}, "jitter"),
        (Histology, {"stain_jitter": -0.1}, "stain_jitter"),
    ],
)
def test_impossible_options_are_refused(recipe: type[Transforms], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(**options)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(8, 8, 4), (8, 8, 2), (8, 8), (0, 8, 3)])
def test_what_is_no_picture_is_refused(recipe: type[Transforms], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        recipe().prepare(np.zeros(shape, np.uint8))  # type: ignore[call-arg]


@pytest.mark.parametrize("recipe", [Plain, Fundus, Dermoscopy, Histology])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, bool])
def test_values_without_a_known_black_and_white_are_refused(recipe: type[Transforms], dtype: Any) -> None:
    with pytest.raises(ValueError, match="black and white are not known"):
        recipe().prepare(np.ones((8, 8, 3), dtype))  # type: ignore[call-arg]


@pytest.mark.parametrize("recipe", [Plain, Fundus, Dermoscopy, Histology])
def test_16_bits_are_scaled_by_their_full_range(recipe: type[Transforms]) -> None:
    image = tissue()
    transforms = recipe(size=24)  # type: ignore[call-arg]
    np.testing.assert_array_equal(transforms.prepare(image.astype(np.uint16) * 257), transforms.prepare(image))


def test_importing_the_recipes_is_light() -> None:
    heavy = ["torch", "monai", "albumentations", "matplotlib", "scipy", "pandas"]
    code = f"import medsoft.data.datasets.contact_sheet, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# --- plain ------------------------------------------------------------------------------------------------------------


def test_colour_becomes_luminance_and_grey_is_repeated() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [77, 77, 77]]], np.uint8)
    grey = Plain(size=2, channels=1).prepare(colours)
    np.testing.assert_array_equal(grey[:, :, 0], [[76, 150], [29, 77]])
    repeated = Plain(size=2, channels=3).prepare(grey)
    np.testing.assert_array_equal(repeated, np.repeat(grey, 3, axis=2))


def test_the_two_mirrorings_are_independent() -> None:
    # Steps seeded alike would always mirror both ways or neither.
    transforms = Plain(size=2, channels=1, flips="both", rotation=0, zoom=0, jitter=0)
    corners = np.array([[[10], [20]], [[30], [40]]], np.uint8)
    counts = np.bincount([int(transforms.augment(corners, seed)[0, 0, 0]) for seed in range(400)], minlength=50)
    assert counts[[10, 20, 30, 40]].sum() == 400
    assert counts[[10, 20, 30, 40]].min() > 70


def test_shrinking_averages() -> None:
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[::4] = 200
    np.testing.assert_array_equal(Plain(size=16, channels=1).prepare(stripes), 50)


def test_fit_pads_or_crops() -> None:
    image = np.full((40, 80, 3), 90, np.uint8)
    padded, filled = Plain(size=32, fit="pad").prepare(image), Plain(size=32, fit="crop").prepare(image)
    assert (padded[:8] == 0).all()
    assert (padded[8:24] == 90).all()
    assert (padded[24:] == 0).all()
    assert (filled == 90).all()


# --- chest radiographs ------------------------------------------------------------------------------------------------


def falling(axis: int) -> np.ndarray:
    """Bright at the top (axis 0) or at the left (axis 1)."""
    ramp = np.linspace(255, 0, 64).astype(np.uint8)
    return np.repeat(np.expand_dims(ramp, 1 - axis), 64, axis=1 - axis)[:, :, np.newaxis]


@pytest.mark.parametrize("horizontal_flip", [False, True])
def test_a_radiograph_is_never_upside_down(horizontal_flip: bool) -> None:
    transforms = ChestXray(size=64, horizontal_flip=horizontal_flip)
    for seed in range(200):
        augmented = transforms.augment(falling(axis=0), seed)
        assert augmented[:32].mean() > augmented[32:].mean()


def test_a_radiograph_is_mirrored_only_when_asked() -> None:
    def left_is_bright(transforms: Transforms) -> list[bool]:
        augmented = [transforms.augment(falling(axis=1), seed) for seed in range(200)]
        return [bool(image[:, :32].mean() > image[:, 32:].mean()) for image in augmented]

    assert all(left_is_bright(ChestXray(size=64)))
    assert 60 < sum(left_is_bright(ChestXray(size=64, horizontal_flip=True))) < 140


def test_the_grey_window_does_not_depend_on_depth_or_offset() -> None:
    twelve_bits = noise((50, 40, 1), np.uint16) // 16
    expected = ChestXray(size=32).prepare(twelve_bits)
    for other in (twelve_bits * 16, twelve_bits.astype(np.float32) - 1024, twelve_bits.astype(np.int16)):
        difference = ChestXray(size=32).prepare(other).astype(int) - expected
        assert abs(difference).max() <= 1


def test_16_bits_are_windowed_before_they_become_8() -> None:
    narrow = np.linspace(1000, 1600, 64 * 64).reshape(64, 64, 1).astype(np.uint16)  # two or three grey levels of 8 bits
    assert len(np.unique(ChestXray(size=64).prepare(narrow))) > 200


def test_hot_pixels_and_padding_do_not_move_the_window() -> None:
    image = noise((100, 50, 1)) // 2 + 60
    hot = image.copy()
    hot[3, 3] = 255
    transforms = ChestXray(size=100)
    assert abs(transforms.prepare(hot).astype(int) - transforms.prepare(image))[5:].max() <= 1
    assert np.percentile(transforms.prepare(image)[:, 25:75], 1) < 5  # the darkest of the picture is black, not grey


def test_a_radiograph_without_contrast_is_black_and_one_with_nan_is_refused() -> None:
    assert (ChestXray().prepare(np.full((9, 9, 1), 1234, np.uint16)) == 0).all()
    broken = np.ones((9, 9, 1), np.float32)
    broken[4, 4] = np.nan
    with pytest.raises(ValueError, match="finite"):
        ChestXray().prepare(broken)


# --- histology --------------------------------------------------------------------------------------------------------


def test_all_eight_symmetries_of_a_tile_appear_and_nothing_else() -> None:
    transforms = Histology(size=32, stain_jitter=0, jitter=0)
    image = tissue()
    turned = [np.rot90(image, quarter) for quarter in range(4)]
    expected = {np.ascontiguousarray(variant).tobytes() for turn in turned for variant in (turn, turn[:, ::-1])}
    assert len(expected) == 8
    assert {transforms.augment(image, seed).tobytes() for seed in range(200)} == expected


def test_stain_jitter_changes_tissue_but_not_glass() -> None:
    transforms = Histology(size=32, symmetries=False, jitter=0)
    glass = np.full((32, 32, 3), 245, np.uint8)
    image = tissue()
    is_glass = (image == 255).all(axis=2)
    for seed in SEEDS:
        augmented = transforms.augment(image, seed)
        assert (augmented[is_glass] == 255).all()
        assert (augmented[~is_glass] != image[~is_glass]).any()
        assert abs(transforms.augment(glass, seed).astype(int) - 245).max() <= 3


def test_stains_are_scaled_one_by_one() -> None:
    from medsoft.data.transforms.augment import HED, scale_stains

    image = noise((16, 16, 3))
    np.testing.assert_array_equal(scale_stains(image, np.ones(3)), image)
    amounts = np.array([0.8, 0.5, 0.2])
    for stain in range(3):
        factors = np.ones(3)
        factors[stain] = 1.3
        before, after = (256 * np.exp(-(a @ HED)) - 1 for a in (amounts, amounts * factors))
        scaled = scale_stains(np.rint(before).astype(np.uint8).reshape(1, 1, 3), factors)
        np.testing.assert_allclose(scaled[0, 0], after, atol=1.5)


# --- dermoscopy -------------------------------------------------------------------------------------------------------


def test_coloured_light_is_removed() -> None:
    grey = np.repeat(noise((40, 40, 1)) // 2 + 20, 3, axis=2)
    tinted = np.rint(grey * [1.0, 0.8, 0.6]).astype(np.uint8)
    corrected = shades_of_grey(tinted).astype(int)
    assert np.ptp(corrected, axis=2).max() <= 2
    assert np.ptp(tinted.astype(int), axis=2).max() > 40
    np.testing.assert_array_equal(shades_of_grey(grey), grey)


def test_a_picture_without_one_colour_is_left_alone() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 0] = 200
    np.testing.assert_array_equal(shades_of_grey(red), red)


def test_no_border_comes_into_an_enlarged_lesion() -> None:
    transforms = Dermoscopy(size=32, zoom=0.5, jitter=0)
    image = np.full((32, 32, 3), 120, np.uint8)
    assert all((transforms.augment(image, seed) == 120).all() for seed in SEEDS)


# --- fundus -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "centre", "radius"),
    [((200, 300), (140, 100), 80), ((2000, 3000), (1400, 1000), 900), ((60, 50), (25, 30), 20)],
)
def test_the_crop_holds_the_disc_and_no_more(shape: tuple[int, int], centre: tuple[int, int], radius: int) -> None:
    image = lit_disc(shape, centre, radius)
    cv2.putText(image, "OD", (2, shape[0] // 10), cv2.FONT_HERSHEY_PLAIN, shape[0] / 200, (255, 255, 255))  # burnt in
    box = disc_box(image)
    expected = (centre[0] - radius, centre[1] - radius, 2 * radius + 1, 2 * radius + 1)
    np.testing.assert_allclose(box, expected, atol=max(shape) / 100)


@pytest.mark.parametrize("value", [0, 1, 3, 120, 255])
def test_a_picture_without_a_margin_is_not_cropped(value: int) -> None:
    image = np.full((300, 400, 3), value, np.uint8)
    assert disc_box(image) == (0, 0, 400, 300)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_the_crop_lies_within_the_picture(height: int, width: int, seed: int) -> None:
    left, top, box_width, box_height = disc_box(noise((height, width, 3), seed=seed) // (1 + 50 * (seed % 2)))
    assert 0 <= left < left + box_width <= width
    assert 0 <= top < top + box_height <= height


@pytest.mark.parametrize("folder", ["idrid_512", "idrid_fullres"])
def test_the_disc_is_found_in_every_photograph_of_idrid(folder: str) -> None:
    # One camera and one field of view: left edge at 4 to 7 % of the width, 78 to 82 % wide, cut at top and bottom.
    files = sorted((SHARED / "fundus" / folder / "images").glob("*.jpg"))
    if not files:
        pytest.skip(f"no photographs in {SHARED / 'fundus' / folder}")
    for file in files:
        image = np.asarray(Image.open(file))
        left, top, width, height = disc_box(image)
        assert 0.04 < left / image.shape[1] < 0.07, file
        assert 0.78 < width / image.shape[1] < 0.82, file
        assert (top, height) == (0, image.shape[0]), file


def test_equalising_leaves_the_margin_black() -> None:
    photograph = np.zeros((100, 140, 3), np.uint8)
    cv2.circle(photograph, (70, 50), 45, (120, 70, 40), -1)
    cv2.line(photograph, (40, 50), (100, 55), (105, 60, 38), 2)  # a faint vessel
    transforms = [Fundus(size=96, crop_to_disc=False, clahe=clahe) for clahe in (0, 4)]
    plain, equalised = (each.prepare(photograph) for each in transforms)
    margin = plain.max(axis=2) == 0
    assert (equalised[margin] == 0).all()
    assert equalised[40:60, 30:66, 0].std() > 1.3 * plain[40:60, 30:66, 0].std()
