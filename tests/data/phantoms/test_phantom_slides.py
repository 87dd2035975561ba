"""Phantom slides: reproducible, said to be phantoms, and alike in colour with and without tumour."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medsoft.data.images import write_pyramid as pyramid
from medsoft.data.phantoms.slides import write as slides
from medsoft.data.phantoms.slides.coarse_maps import Rectangle
from medsoft.data.phantoms.slides.nuclei import LARGEST_UM, reach_px, stamps
from medsoft.data.phantoms.slides.paint import paint
from medsoft.data.phantoms.slides.plan import INSIDE, MOST_CELLS, REGION, TISSUE, SlidePlan, plan_slide
from medsoft.data.phantoms.slides.regions import tumour_regions, tumour_share
from medsoft.data.phantoms.slides.write import has_tumour, patient_of, phantom_slides
from medsoft.errors import InputError
from medsoft.slides.annotations.read import parsed_json

N, SIZE = 48, 1024
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "new" / "folder"
    phantom_slides(str(out), n=N, size=SIZE, seed=0, workers=1)
    return out


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "labels.csv")


@pytest.fixture(scope="module")
def pictures(folder: Path, table: pd.DataFrame) -> list[Pixels]:
    """Each slide at 2 µm per pixel."""
    found = []
    for path in table["path"]:
        with openslide.OpenSlide(folder / path) as slide:
            found.append(np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]))[..., :3])
    return found


@pytest.fixture(scope="module")
def twins() -> tuple[SlidePlan, SlidePlan]:
    """One slide without and with tumour."""
    healthy, ill = (plan_slide(5, 3, 2048, 0.5, tumour=tumour) for tumour in (False, True))
    return healthy, ill


def whole(plan: SlidePlan) -> Pixels:
    half = plan.size_px0 // 2
    rows = [np.concatenate([paint(plan, x, y, half, half) for x in (0, half)], axis=1) for y in (0, half)]
    return np.concatenate(rows)


def test_the_folder_holds_what_the_table_names_and_nothing_else(folder: Path, table: pd.DataFrame) -> None:
    assert list(table.columns) == ["path", "label", "patient", "regions", "tumour_share", "phantom"]
    assert sorted(p.name for p in folder.iterdir()) == ["README.txt", "labels.csv", "regions", "slides"]
    for column, name in (("path", "slides"), ("regions", "regions")):
        assert sorted(table[column]) == sorted(f"{name}/{p.name}" for p in (folder / name).iterdir())
    assert len(table) == N
    assert (table["phantom"] == "yes").all()


def test_openslide_reads_levels_and_resolution(folder: Path, table: pd.DataFrame) -> None:
    with openslide.OpenSlide(folder / table["path"][0]) as slide:
        assert slide.level_dimensions == ((1024, 1024), (256, 256), (64, 64), (16, 16))
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert slide.properties["openslide.comment"].startswith("PHANTOM")


def test_classes_are_balanced_and_patients_have_one_label_and_one_or_two_slides(table: pd.DataFrame) -> None:
    assert table["label"].value_counts().to_dict() == {"normal": N // 2, "tumour": N // 2}
    patients = table.groupby("patient")
    assert (patients["label"].nunique() == 1).all()
    assert set(patients.size()) == {1, 2}
    assert ((table["tumour_share"] > 0) == (table["label"] == "tumour")).all()


@given(seed=st.integers(0, 1000), pair=st.integers(0, 500))
def test_one_of_two_slides_in_a_row_is_a_positive(seed: int, pair: int) -> None:
    assert has_tumour(seed, 2 * pair) != has_tumour(seed, 2 * pair + 1)
    assert patient_of(2 * pair) != patient_of(2 * pair + 1)


def test_more_processes_and_a_smaller_set_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    phantom_slides(str(tmp_path), n=3, size=SIZE, seed=0, workers=2)
    small = (tmp_path / "labels.csv").read_text().splitlines()
    assert small == (folder / "labels.csv").read_text().splitlines()[:4]
    for name in ("slides", "regions"):
        for file in (tmp_path / name).iterdir():
            assert file.read_bytes() == (folder / name / file.name).read_bytes()


def test_another_seed_and_another_number_are_another_slide() -> None:
    pictures = [
        paint(plan_slide(seed, index, 1024, 0.5, tumour=True), 0, 0, 1024, 1024)
        for seed, index in ((0, 0), (0, 1), (1, 0))
    ]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


@settings(max_examples=15, deadline=None)
@given(x=st.integers(300, 1300), y=st.integers(300, 1300), width=st.integers(1, 400), height=st.integers(1, 400))
def test_any_part_is_painted_alike(twins: tuple[SlidePlan, SlidePlan], x: int, y: int, width: int, height: int) -> None:
    large = paint(twins[1], 280, 280, 1024, 1024)
    width, height = min(width, 1304 - x), min(height, 1304 - y)
    part = paint(twins[1], x, y, width, height)
    np.testing.assert_array_equal(part, large[y - 280 :, x - 280 :][:height, :width])


@pytest.mark.parametrize("size", [1024, 2048, 4096])
def test_tumour_covers_a_twentieth_to_a_quarter_of_the_tissue(size: int) -> None:
    shares = [tumour_share(plan_slide(1, index, size, 0.5, tumour=True)) for index in range(25)]
    assert min(shares) >= 0.05
    assert max(shares) <= 0.25
    assert max(shares) - min(shares) > 0.1


def test_tissue_covers_a_plausible_share_of_the_glass() -> None:
    shares = [(plan_slide(1, k, 2048, 0.5, tumour=True).maps.values[..., TISSUE] >= INSIDE).mean() for k in range(25)]
    assert min(shares) > 0.2
    assert max(shares) < 0.6


@pytest.mark.parametrize("mpp", [slides.FINEST_MPP, 0.5, slides.COARSEST_MPP])
def test_glass_is_empty_and_tissue_is_not(mpp: float) -> None:
    plan = plan_slide(0, 1, 1024, mpp, tumour=True)
    tissue = plan.maps.enlarged(Rectangle(0, 0, 1024, 1024))[..., TISSUE]
    coloured = np.ptp(paint(plan, 0, 0, 1024, 1024), axis=2) > 20
    assert not coloured[tissue == 0].any()
    assert coloured[tissue == 255].mean() > 0.8


@pytest.mark.parametrize("mpp", [slides.FINEST_MPP, slides.COARSEST_MPP])
def test_corners_are_painted_at_the_finest_and_the_coarsest_resolution(mpp: float) -> None:
    plan = plan_slide(0, 0, 1100, mpp, tumour=True)
    plan.maps.values[...] = INSIDE + 1  # tissue reaches the corners
    for x, y, width in ((0, 0, 1024), (1024, 1024, 76)):
        assert paint(plan, x, y, width, width).shape == (width, width, 3)


def test_the_plan_of_the_largest_slide_is_small() -> None:
    plan = plan_slide(0, 0, slides.LARGEST_PX, 0.25, tumour=True)
    assert max(plan.maps.values.shape[:2]) <= MOST_CELLS + 8
    last = slides.LARGEST_PX - 700
    assert paint(plan, last, last, 700, 700).shape == (700, 700, 3)


def test_tumour_and_inflammation_differ_inside_the_region_only_and_not_in_mean_colour(
    twins: tuple[SlidePlan, SlidePlan],
) -> None:
    plan = twins[0]
    np.testing.assert_array_equal(plan.maps.values, twins[1].maps.values)
    region = plan.maps.values[..., REGION]
    margin = 3 + -(-2 * reach_px(plan.mpp) // plan.maps.cell_px0)
    far = cv2.dilate((region > 0).astype(np.uint8), np.ones((2 * margin + 1,) * 2)) == 0
    cells = np.s_[4:-4, 4:-4]
    scale = np.ones((plan.maps.cell_px0,) * 2, bool)
    far_px, in_px = np.kron(far[cells], scale), np.kron(region[cells] >= INSIDE, scale)
    healthy, ill = (whole(twin).astype(float) for twin in twins)
    np.testing.assert_array_equal(healthy[far_px], ill[far_px])
    assert np.abs(healthy - ill)[in_px].mean() > 20
    np.testing.assert_allclose(healthy[in_px].mean(axis=0), ill[in_px].mean(axis=0), atol=5)  # of 255 grey levels
    np.testing.assert_allclose(healthy[in_px].std(axis=0), ill[in_px].std(axis=0), atol=5)


def test_nuclei_of_tumour_are_larger(twins: tuple[SlidePlan, SlidePlan]) -> None:
    areas = []
    for plan in twins:
        dark = (whole(plan)[..., 0] < 140).astype(np.uint8)
        inside = plan.maps.enlarged(Rectangle(0, 0, plan.size_px0, plan.size_px0))[..., REGION] >= INSIDE
        _, _, statistics, centres = cv2.connectedComponentsWithStats(cv2.erode(dark, np.ones((5, 5))))
        column, row = centres.astype(int).T
        here = inside[row, column] & (np.arange(len(row)) > 0)
        areas.append(np.median(statistics[here, cv2.CC_STAT_AREA]))
    assert areas[1] > 2 * areas[0]


def test_mean_colours_do_not_give_the_class_away(table: pd.DataFrame, pictures: list[Pixels]) -> None:
    # Six slides in a row are four patients, two of each class: kept together, every fold is balanced.
    groups = np.arange(N) // 6
    target = (table["label"] == "tumour").to_numpy()
    slide = np.array([picture.mean(axis=(0, 1)) for picture in pictures])
    coloured = [np.ptp(picture, axis=2) > 20 for picture in pictures]
    tissue = np.array([picture[mask].mean(axis=0) for picture, mask in zip(pictures, coloured, strict=True)])
    for features in (slide, tissue, np.concatenate([slide, tissue], axis=1)):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        folds = cross_val_predict(model, features, target, groups=groups, cv=GroupKFold(8), method="predict_proba")
        assert roc_auc_score(target, folds[:, 1]) <= 0.65


def test_outlines_are_geojson_of_the_tumour(folder: Path, table: pd.DataFrame) -> None:
    for row in table[:12].itertuples():
        found = json.loads((folder / str(row.regions)).read_text())
        assert found.keys() == {"type", "features"}  # no crs: level-0 pixels
        assert bool(found["features"]) == (row.label == "tumour")
        assert all(region.area.area > 0 for region in parsed_json(found).regions)  # which must be valid
        for feature in found["features"]:
            assert feature["geometry"]["type"] == "Polygon"
            assert feature["properties"]["classification"]["name"] == "tumour"
            for ring in feature["geometry"]["coordinates"]:
                assert ring[0] == ring[-1]
                assert len(ring) >= 4
                assert 0 <= np.min(ring) <= np.max(ring) <= SIZE


def test_outlines_lie_where_the_tumour_is(twins: tuple[SlidePlan, SlidePlan]) -> None:
    assert tumour_regions(twins[0])["features"] == []
    drawn = np.zeros((2048, 2048), np.uint8)
    for feature in tumour_regions(twins[1])["features"]:
        for ring in feature["geometry"]["coordinates"]:  # even-odd: holes stay open
            once = np.zeros_like(drawn)
            cv2.fillPoly(once, [np.array(ring, np.int32)], 1)
            drawn ^= once
    region = twins[1].maps.enlarged(Rectangle(0, 0, 2048, 2048))[..., REGION] >= INSIDE
    assert region.any()
    assert (drawn.astype(bool) & region).sum() / (drawn.astype(bool) | region).sum() > 0.97


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_nuclei_have_their_size_at_every_resolution(mpp: float) -> None:
    for kind, pictures in stamps(mpp).items():
        area_um2 = np.mean([(picture > kind.stain / 2).sum() for picture in pictures]) * mpp**2
        ellipse = np.pi / 4 * kind.length_um * kind.width_um
        assert area_um2 == pytest.approx(ellipse, rel=0.35)
        assert max(len(picture) for picture in pictures) <= 2 * reach_px(mpp) + 1
    assert reach_px(mpp) * mpp >= LARGEST_UM / 2


def test_every_slide_says_that_it_is_a_phantom(folder: Path, pictures: list[Pixels]) -> None:
    corner = np.s_[240:253, 2:45]
    written = [picture[corner].max(axis=2) < 200 for picture in pictures]
    assert 40 < written[0].sum() < 400
    assert max(np.mean(mark != written[0]) for mark in written) < 0.03
    readme = (folder / "README.txt").read_text()
    assert "PHANTOMS, not slides" in readme
    assert f"--n {N} --size 1024 --mpp 0.5 --seed 0" in readme


def test_the_command_line_draws_and_answers_mistakes(medsoft, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = medsoft("data", "phantom", "slides", "--out", tmp_path / "a", "--n=1", "--size=1100", "--workers=1")
    assert code == 0
    assert "Wrote 1 phantom slides" in out
    with openslide.OpenSlide(tmp_path / "a" / "slides" / "phantom_0000.tif") as slide:
        assert slide.dimensions == (1100, 1100)
    code, _, err = medsoft("data", "phantom", "slides", "--out", tmp_path / "b", "--sise", 2048)
    assert code == 2
    assert "size" in err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 0}, "--n 0"),
        ({"size": 1000}, "--size 1000"),
        ({"size": 200_000}, "--size 200000"),
        ({"mpp": 0.24}, "--mpp 0.24"),
        ({"mpp": float("nan")}, "--mpp nan"),
        ({"seed": -1}, "--seed -1"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, float], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        phantom_slides(str(tmp_path / "new"), **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        phantom_slides(str(tmp_path), n=1, size=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["results.txt"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "phantoms"):
        with pytest.raises(InputError, match="cannot be written"):
            phantom_slides(str(out), n=1, size=SIZE)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(pyramid, "write_pyramid", fails)
    expected = InputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if expected is InputError else None):
        phantom_slides(str(tmp_path), n=2, size=SIZE, workers=1)
    assert list(tmp_path.iterdir()) == []
