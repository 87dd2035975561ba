"""``medsoft data crop``: images cut to masks, of the table or of a segmentation's predictions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medsoft.data.images.read import read_image
from medsoft.data.masks.crop import box_around, cropped
from medsoft.data.masks.write import write_picture


@pytest.fixture
def table(tmp_path):
    """Three images of 30 x 40 px: a square in the middle, one at the corner, and an empty mask."""
    rng = np.random.default_rng(0)
    for number, place in enumerate([(slice(10, 16), slice(20, 26)), (slice(0, 4), slice(0, 8)), (slice(0), slice(0))]):
        image, mask = rng.integers(1, 255, (30, 40, 3), np.uint8), np.zeros((30, 40), np.uint8)
        mask[place] = 2
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"m{number}.png")
    rows = pd.DataFrame(
        {"file": ["0.png", "1.png", "2.png"], "seg": ["m0.png", "m1.png", "m2.png"], "label": [1, 0, 1]}
    )
    rows.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def call(medsoft, table, *words):
    return medsoft("data", "crop", table, "--path=file", *words)


def test_images_are_cut_and_their_table_says_where(medsoft, table, tmp_path):
    words = ["--masks=seg", "--margin=0.5", "--empty=whole", f"--out={tmp_path / 'out'}"]
    code, said, err = call(medsoft, table, *words)
    assert (code, err) == (0, "")
    assert "1 images have an empty mask" in said
    rows = pd.read_csv(tmp_path / "out" / "cropped.csv")
    assert rows[["crop_x0", "crop_y0", "crop_x1", "crop_y1"]].to_numpy().tolist() == [
        [17, 7, 29, 19],
        [0, 0, 12, 8],
        [0, 0, 40, 30],
    ]
    assert rows["mask_fraction"].tolist() == pytest.approx([36 / 1200, 32 / 1200, 0], abs=1e-6)
    assert rows["label"].tolist() == [1, 0, 1]
    assert "seg" not in rows
    assert all((tmp_path / "out" / name).resolve() == tmp_path / f"{n}.png" for n, name in enumerate(rows["crop_of"]))
    for row, name in zip(rows.itertuples(), ["0.png", "1.png", "2.png"], strict=True):
        whole = read_image(str(tmp_path / name))
        part = read_image(str(tmp_path / "out" / row.file))
        np.testing.assert_array_equal(part, whole[row.crop_y0 : row.crop_y1, row.crop_x0 : row.crop_x1])


def test_outside_may_be_black_and_values_chosen(medsoft, table, tmp_path):
    options = ["--masks=seg", "--outside=black", "--empty=whole", "--square=true"]
    assert call(medsoft, table, *options, f"--out={tmp_path / 'out'}")[0] == 0
    part = read_image(str(tmp_path / "out" / "images" / "1.png"))
    assert part.shape[:2] == (10, 10)
    assert part[:4, :8].min() > 0
    assert part[4:].max() == part[:, 8:].max() == 0
    code, _, err = call(medsoft, table, "--masks=seg", "--values=[1]", f"--out={tmp_path / 'none'}")
    assert (code, err.count("empty mask")) == (2, 1)
    assert "rows 1, 2, 3: has an empty mask" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--masks=seg"], "row 3: has an empty mask; --empty whole keeps"),
        (["--masks=label", "--empty=whole"], "unusable mask or image"),
        (["--masks=nowhere"], "no column of"),
        (["--masks=seg", "--margin=-1"], "--margin"),
    ],
)
def test_what_cannot_be_cut_is_told_before_anything_is_written(medsoft, table, tmp_path, words, said):
    code, _, err = call(medsoft, table, *words, f"--out={tmp_path / 'out'}")
    assert (code, said in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_size_is_refused(medsoft, table, tmp_path):
    Image.fromarray(np.ones((20, 40), np.uint8)).save(tmp_path / "m0.png")
    code, _, err = call(medsoft, table, "--masks=seg", "--empty=whole", f"--out={tmp_path / 'out'}")
    assert (code, "is 40 x 30 px, and its mask is of an image of 40 x 20" in err) == (2, True), err


@given(st.integers(0, 29), st.integers(0, 39), st.integers(1, 30), st.integers(1, 40), st.floats(0, 1), st.booleans())
def test_a_box_holds_the_mask_and_lies_in_the_image(y, x, height, width, margin, square):
    inside = np.zeros((30, 40), bool)
    inside[y : y + height, x : x + width] = True
    box = box_around(inside, margin, square)
    part = cropped(inside[..., None], inside, box)
    assert 0 <= box.x0 < box.x1 <= 40
    assert 0 <= box.y0 < box.y1 <= 30
    assert part.sum() == inside.sum()
    sides = box.x1 - box.x0, box.y1 - box.y0
    assert not square or sides[0] == sides[1] or min(sides) == 30 == sides[1] or sides == (40, 30)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 1), (np.uint8, 3), (np.uint16, 1), (np.uint16, 3)])
def test_pictures_come_back_as_they_were(tmp_path, dtype, channels):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (7, 5, channels), dtype)
    write_picture(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), image)
