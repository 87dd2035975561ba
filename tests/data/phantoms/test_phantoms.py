"""Phantoms: reproducible, said to be phantoms, and alike in both classes but for the lesions."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medsoft.data.phantoms import fundus, phantom_fundus
from medsoft.data.phantoms.fundus import CAMERAS, draw_fundus
from medsoft.errors import InputError

N = 80
CORNER = np.s_[:13, :50]  # where PHANTOM stands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "new" / "folder"
    phantom_fundus(str(out), n=N, seed=0)
    return out


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "labels.csv")


@pytest.fixture(scope="module")
def pictures(folder: Path, table: pd.DataFrame) -> list[NDArray[np.uint8]]:
    return [np.asarray(Image.open(folder / path)) for path in table["path"]]


def mean_colours(pictures: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Mean red, green and blue of the whole picture and of its field of view, (N, 6)."""
    inside = [picture[picture.max(axis=2) > 30] for picture in pictures]
    return np.array([[*p.mean(axis=(0, 1)), *f.mean(axis=0)] for p, f in zip(pictures, inside, strict=True)])


def test_the_folder_holds_what_the_table_names_and_nothing_else(folder: Path, table: pd.DataFrame) -> None:
    assert list(table.columns) == ["path", "label", "patient", "eye", "site", "n_lesions", "phantom"]
    assert sorted(p.name for p in folder.iterdir()) == ["README.txt", "images", "labels.csv"]
    assert sorted(table["path"]) == sorted(f"images/{p.name}" for p in (folder / "images").iterdir())
    assert len(table) == N


def test_labels_are_balanced_words_and_agree_with_the_lesions(table: pd.DataFrame) -> None:
    assert table["label"].value_counts().to_dict() == {"healthy": N // 2, "lesions": N // 2}
    assert ((table["n_lesions"] > 0) == (table["label"] == "lesions")).all()
    assert set(table["site"]) == set(CAMERAS)


def test_a_patient_has_a_left_and_a_right_eye_and_mostly_one_label(table: pd.DataFrame) -> None:
    patients = table.groupby("patient")
    assert (patients["eye"].agg(list).map(tuple) == ("left", "right")).all()
    assert (patients["site"].nunique() == 1).all()
    share_alike = (patients["label"].nunique() == 1).mean()
    assert 0.7 < share_alike < 1


def test_a_smaller_set_is_the_beginning_of_a_larger_one(folder: Path, tmp_path: Path) -> None:
    phantom_fundus(str(tmp_path), n=5, seed=0)
    small = (tmp_path / "labels.csv").read_text().splitlines()
    assert small == (folder / "labels.csv").read_text().splitlines()[:6]
    for picture in (tmp_path / "images").iterdir():
        assert picture.read_bytes() == (folder / "images" / picture.name).read_bytes()


def test_another_seed_draws_another_eye() -> None:
    one, other = (draw_fundus(seed, 0, camera=CAMERAS["A"], lesions=False).image for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("index", [0, 1])
def test_lesions_change_neither_vessels_nor_mean_colour(camera: str, index: int) -> None:
    healthy, ill = (draw_fundus(5, index, camera=CAMERAS[camera], lesions=lesions) for lesions in (False, True))
    np.testing.assert_array_equal(healthy.vessels, ill.vessels)
    np.testing.assert_array_equal(healthy.field, ill.field)
    means = [phantom.image[phantom.field].mean(axis=0) for phantom in (healthy, ill)]
    np.testing.assert_allclose(*means, atol=0.5)  # of 255 grey levels
    changed = np.abs(healthy.image.astype(int) - ill.image).max(axis=2)
    assert not healthy.lesions.any()
    assert changed[ill.lesions & ill.field].mean() > 5 * changed[~ill.lesions & ill.field].mean()


def test_vessels_cover_a_plausible_share_of_the_field() -> None:
    phantoms = [draw_fundus(2, index, camera=CAMERAS["A"], lesions=False) for index in range(8)]
    shares = [phantom.vessels.sum() / phantom.field.sum() for phantom in phantoms]
    assert min(shares) > 0.06
    assert max(shares) < 0.20


def test_the_optic_disc_lies_on_the_nose_side() -> None:
    for index, on_the_right in ((0, False), (1, True)):
        phantom = draw_fundus(0, index, camera=CAMERAS["A"], lesions=False)
        green = np.where(phantom.field, phantom.image[..., 1], 0).astype(float)
        brightest = np.argwhere(green > np.percentile(green[phantom.field], 99))
        assert (brightest[:, 1].mean() > phantom.image.shape[1] / 2) == on_the_right


def test_mean_colours_do_not_give_the_class_away(table: pd.DataFrame, pictures: list[NDArray[np.uint8]]) -> None:
    # Four pictures in a row hold two of each class: kept together, every fold is balanced, and a model that knows
    # nothing scores 0.5, not less.
    groups = np.arange(N) // 4
    target = (table["label"] == "lesions").to_numpy()
    colours = mean_colours(pictures)
    for features in (colours[:, :3], colours[:, 3:], colours):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        folds = cross_val_predict(model, features, target, groups=groups, cv=GroupKFold(5), method="predict_proba")
        assert roc_auc_score(target, folds[:, 1]) < 0.65


def test_every_picture_says_that_it_is_a_phantom(folder: Path, pictures: list[NDArray[np.uint8]]) -> None:
    written = [picture[CORNER].max(axis=2) > 45 for picture in pictures]
    assert 60 < written[0].sum() < 300
    # JPEG and noise move a faint pixel or two across the threshold.
    assert max(np.mean(mark != written[0]) for mark in written) < 0.06
    assert "PHANTOMS, not photographs" in (folder / "README.txt").read_text()
    assert "--n 80 --seed 0" in (folder / "README.txt").read_text()


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_word_stands_outside_the_field_of_view(camera: str) -> None:
    for index in range(3):
        assert not draw_fundus(0, index, camera=CAMERAS[camera], lesions=False).field[CORNER].any()


def test_few_lesions_are_fewer_in_the_same_eyes_and_healthy_eyes_are_the_same_picture(
    tmp_path: Path, table: pd.DataFrame, pictures: list[NDArray[np.uint8]]
) -> None:
    phantom_fundus(str(tmp_path), n=8, seed=0, lesions=0.15)
    few = pd.read_csv(tmp_path / "labels.csv")
    ill = few["label"] == "lesions"
    assert (few["label"] == table["label"][:8]).all()
    assert (few["n_lesions"][ill] >= 1).all()
    assert few["n_lesions"][ill].sum() < 0.4 * table["n_lesions"][:8][ill].sum()
    for path, before, is_ill in zip(few["path"], pictures, ill, strict=False):
        same = np.array_equal(np.asarray(Image.open(tmp_path / path)), before)
        assert same != is_ill
    assert "--lesions 0.15" in (tmp_path / "README.txt").read_text()
    with pytest.raises(InputError, match="lesions 0"):
        phantom_fundus(str(tmp_path / "none"), n=1, lesions=0)


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        phantom_fundus(str(tmp_path), n=1)
    assert [p.name for p in tmp_path.iterdir()] == ["results.txt"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "phantoms"):
        with pytest.raises(InputError, match="cannot be written"):
            phantom_fundus(str(out), n=1)


@pytest.mark.parametrize(("n", "seed", "said"), [(0, 0, "--n 0"), (-3, 0, "--n -3"), (1, -1, "--seed -1")])
def test_numbers_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, n: int, seed: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        phantom_fundus(str(tmp_path / "new"), n=n, seed=seed)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    calls = itertools.count()

    def fails_later(*args: object, **kwargs: object) -> object:
        if next(calls) == 2:
            raise failure
        return draw_fundus(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(fundus, "draw_fundus", fails_later)
    expected = InputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if expected is InputError else None):
        phantom_fundus(str(tmp_path), n=4)
    assert list(tmp_path.iterdir()) == []
