"""Files of true boxes: what is read, to which image it belongs, what is refused; boxes that move with the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medsoft.data.boxes.of_images import Boxes, by_image
from medsoft.data.boxes.place import to_input, to_prepared
from medsoft.data.boxes.read import CORNERS, read_boxes
from medsoft.data.transforms.plain import Plain
from medsoft.errors import InputError
from tests.builders.boxes import CLASSES, write_boxes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five images, of which the third shows nothing."""
    return write_boxes(tmp_path_factory.mktemp("boxes") / "set", 5, (2,)).parent


def of_images(folder: Path, source: str, leave_out: bool = False, **options):
    paths = [str(folder / f"images/im{number:02d}.png") for number in range(5)]
    return by_image(read_boxes(folder / source, **options), paths, folder, CLASSES, leave_out)


def test_a_table_a_coco_file_and_a_folder_of_voc_files_say_the_same(folder):
    of_each = [of_images(folder, source)[0] for source in ("boxes.csv", "boxes.json", "voc")]
    assert [list(map(len, of.values())) for of in of_each] == [[2, 2, 0, 2, 2]] * 3
    for path, boxes in of_each[0].items():
        for other in of_each[1:]:
            np.testing.assert_array_equal(other[path].corners_N4, boxes.corners_N4)
            np.testing.assert_array_equal(other[path].class_N, boxes.class_N)


def test_an_image_that_nobody_looked_at_is_not_a_negative(folder, tmp_path):
    content = json.loads((folder / "boxes.json").read_text())
    content["images"] = content["images"][:3]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] < 3]
    (tmp_path / "b.json").write_text(json.dumps(content))
    paths = [str(folder / f"images/im{number:02d}.png") for number in range(5)]
    of, _ = by_image(read_boxes(tmp_path / "b.json"), paths, folder, CLASSES, False)
    assert [Path(path).stem for path in of] == ["im00", "im01", "im02"]


def test_pixels_counted_from_one_begin_one_earlier(folder):
    first = read_boxes(folder / "boxes.csv").frame
    from_one = read_boxes(folder / "boxes.csv", 1).frame
    assert (first[["x_min", "y_min"]] - 1).equals(from_one[["x_min", "y_min"]])
    assert first[["x_max", "y_max"]].equals(from_one[["x_max", "y_max"]])


def test_columns_may_have_other_common_names_and_empty_rows_are_images_without_boxes(folder, tmp_path):
    frame = pd.read_csv(folder / "boxes.csv")
    names = dict(zip((*CORNERS, "label", "file"), ("xmin", "ymin", "xmax", "ymax", "class", "filename"), strict=True))
    renamed = frame.rename(columns=names).astype(object)
    empty = {"filename": "images/im02.png"}
    pd.concat([renamed, pd.DataFrame([empty])]).to_csv(tmp_path / "b.csv", index=False)
    found = read_boxes(tmp_path / "b.csv")
    assert len(found.frame) == len(frame)
    assert found.notes == ("1 images are named without a box",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x_min": lambda f: f.x_min / 100, "x_max": lambda f: f.x_max / 100}, None),
        ({name: lambda f, name=name: f[name] / 100 for name in CORNERS}, "all coordinates lie between 0 and 1"),
        ({"label": "tumour"}, "'tumour' is no class .row 1, 8 boxes.: the classes are disc, square"),
        ({"label": ""}, "have no label or no file"),
        ({"file": "other.png"}, "8 boxes are of 1 images that the table does not have, such as 'other.png' .row 1."),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_place(folder, tmp_path, change, said):
    pd.read_csv(folder / "boxes.csv").assign(**change).to_csv(tmp_path / "b.csv", index=False)
    paths = [str(folder / f"images/im{number:02d}.png") for number in range(5)]

    def both():
        return by_image(read_boxes(tmp_path / "b.csv"), paths, folder, CLASSES, False)

    if said is None:
        assert len(both()[0]) == 5
        return
    with pytest.raises(InputError, match=said):
        both()


def test_boxes_of_other_images_can_be_left_out(folder, tmp_path):
    frame = pd.read_csv(folder / "boxes.csv")
    frame.loc[0, "file"] = "other.png"
    frame.to_csv(tmp_path / "b.csv", index=False)
    paths = [str(folder / f"images/im{number:02d}.png") for number in range(5)]
    of, notes = by_image(read_boxes(tmp_path / "b.csv"), paths, folder, CLASSES, True)
    assert len(of[paths[0]]) == 1
    assert notes == ["boxes of images that the table does not have were left out: 1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"images": []}', "no COCO file"),
        ('{"images": [], "categories": [], "annotations": [{"image_id": 1}]}', "is no such COCO file"),
        ("not json", "cannot be read"),
    ],
)
def test_what_is_no_coco_file_is_told(tmp_path, content, said):
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(InputError, match=said):
        read_boxes(tmp_path / "b.json")


@pytest.mark.parametrize("content", ["<annotation><object><name>a</name></object></annotation>", "<other/>", "<a"])
def test_what_is_no_voc_file_is_told(tmp_path, content):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(InputError, match=r"a\.xml: is no Pascal VOC file"):
        read_boxes(tmp_path)


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((5, 5, 5, 9), "no area"),
        ((9, 5, 5, 9), "minimum and maximum exchanged"),
        ((5, 5, 21, 9), "reaches beyond the image of 20 x 10 px"),
        ((-1, 5, 7, 9), "reaches beyond"),
        ((np.nan, 5, 7, 9), "no number"),
        ((0, 0, 20, 10), ""),
    ],
)
def test_what_is_wrong_with_a_box_is_said_with_its_place(box, said):
    boxes = Boxes(np.array([(1, 1, 4, 4), box], float), np.zeros(2, int), ("row 1", "row 2"))
    wrong = boxes.wrong((10, 20))
    assert said in wrong
    assert wrong.startswith("row 2") == bool(said)


def test_real_voc_files_are_read(shared_data):
    found = read_boxes(shared_data / "annotations" / "pascal_voc")
    assert found.images == ("BloodImage_00001", "BloodImage_00007")
    assert found.frame.iloc[0][[*CORNERS, "label"]].tolist() == [68, 315, 286, 480, "WBC"]


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_boxes_go_to_the_model_and_back(fit):
    recipe = Plain(size=(40, 60), fit=fit, augmentation=False)
    image = np.zeros((100, 120, 3), np.uint8)
    image[20:50, 30:80] = 255
    placement, true = recipe.placement(image), np.array([[30.0, 20, 80, 50]])
    placed, seen = to_prepared(true, placement, recipe.size)
    assert seen.tolist() == [1.0]
    left, top, right, bottom = placed[0].round().astype(int)
    prepared = recipe.prepare(image)[..., 0]
    assert prepared[top + 1 : bottom - 1, left + 1 : right - 1].min() > 200
    assert prepared.sum() == pytest.approx(255 * np.prod(placed[0, 2:] - placed[0, :2]), rel=0.05)
    np.testing.assert_allclose(to_input(placed, placement, (100, 120))[0], true)


def test_boxes_are_augmented_with_their_picture_and_by_the_seed_alone():
    recipe = Plain(size=96, flips="both", rotation=0, zoom=0.2, jitter=0.0)
    image = np.zeros((96, 96, 3), np.uint8)
    image[10:40, 20:60] = 255
    boxes, labels = np.array([[20.0, 10, 60, 40]]), np.array([1])
    moved = []
    for seed in range(6):
        changed, found, of = recipe.augment_with_boxes(image, boxes, labels, seed, 0.25)
        again = recipe.augment_with_boxes(image, boxes, labels, seed, 0.25)
        np.testing.assert_array_equal(again[1], found)
        assert of.tolist() == [1]
        rows, columns = np.nonzero(changed[..., 0] > 127)
        bounds = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found[0], bounds, atol=1.5)
        moved.append(found[0])
    assert len(np.unique(np.round(moved), axis=0)) > 3
