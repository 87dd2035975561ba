"""``medsoft data masks``: outlines of other programs become masks in which fit finds them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

from medsoft.data.masks.draw import draw_areas
from tests.builders.images import SHARED_DATA

SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30], [10, 10]]
HOLE = [[15, 15], [20, 15], [20, 20], [15, 20], [15, 15]]
INNER = [[22, 22], [28, 22], [28, 28], [22, 28], [22, 22]]


def feature(name: str, *rings) -> dict:
    named = {"classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": list(rings)}, "properties": named}


@pytest.fixture
def table(tmp_path) -> Path:
    """Two images of 40 x 50 px, the first with a square with a hole and a cup; the second has no outlines."""
    for number in range(2):
        ramp = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) % (200 + number)
        Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / f"{number}.png")
    drawn = {"type": "FeatureCollection", "features": [feature("cup", INNER), feature("disc", SQUARE, HOLE)]}
    (tmp_path / "0.geojson").write_text(json.dumps(drawn))
    pd.DataFrame({"file": ["0.png", "1.png"], "drawn": ["0.geojson", ""]}).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def coco(folder: Path, name: str = "0.png", **changes) -> Path:
    flat = [float(value) for point in SQUARE[:-1] for value in point]
    one = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [flat]} | changes
    content = {
        "images": [{"id": 7, "file_name": name, "width": 50, "height": 40}],
        "categories": [{"id": 3, "name": "disc"}],
        "annotations": [one],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def test_a_pixel_belongs_to_the_area_that_its_centre_lies_in():
    triangle = shapely.Polygon([(0, 0), (8, 0), (0, 8)])
    mask = draw_areas([(3, triangle)], (10, 10))
    y, x = np.mgrid[:10, :10] + 0.5
    np.testing.assert_array_equal(mask == 3, (x + y < 8))
    outside = draw_areas([(1, shapely.box(-5, -5, 2, 2)), (2, shapely.box(20, 20, 30, 30))], (10, 10))
    assert outside.sum() == 4


def test_outlines_become_masks_with_holes_and_the_later_class_on_top(tmp_path, medsoft, table):
    words = ["--path=file", "--annotations=drawn", "--classes=[disc, cup]", f"--out={tmp_path / 'out'}"]
    code, out, err = medsoft("data", "masks", table, *words)
    assert (code, err) == (0, "")
    assert "1 images have no outlines" in out
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "0.png"))
    assert mask.shape == (40, 50)
    assert (mask == 2).sum() == 36
    assert (mask == 1).sum() == 400 - 25 - 36
    assert not mask[15:20, 15:20].any()
    written = pd.read_csv(tmp_path / "out" / "masks.csv", keep_default_na=False)
    assert written["mask"].tolist() == ["masks/0.png", ""]
    assert (tmp_path / "out" / written["file"][0]).is_file()


def test_coco_finds_images_by_name_and_a_clean_table_is_accepted_by_fit(tmp_path, medsoft, table):
    words = ["--path=file", f"--annotations={coco(tmp_path)}", "--classes=disc", f"--out={tmp_path / 'out'}"]
    code, _, err = medsoft("data", "masks", table, *words)
    assert (code, err) == (0, "")
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "0.png"))
    assert mask[10:30, 10:30].all()
    assert mask.sum() == 400


def test_labelme_of_a_real_picture_is_drawn(tmp_path, medsoft):
    file = SHARED_DATA / "annotations" / "labelme" / "2011_000003.json"
    if not file.is_file():
        pytest.skip("the shared data are not here")
    content = json.loads(file.read_text())
    size = content["imageWidth"], content["imageHeight"]
    ramp = np.tile(np.arange(size[0]) % 251, (size[1], 1)).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "t.csv").write_text("file,drawn\na.png,a.json\n")
    names = sorted({shape["label"] for shape in content["shapes"]})
    words = ["--path=file", "--annotations=drawn", f"--classes={json.dumps(names)}", f"--out={tmp_path / 'out'}"]
    code, _, err = medsoft("data", "masks", tmp_path / "t.csv", *words)
    assert (code, err) == (0, "")
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png"))
    assert mask.shape == size[::-1]
    assert set(np.unique(mask)) - {0} <= set(range(1, len(names) + 1))
    assert 0.05 < (mask > 0).mean() < 0.95


def test_what_cannot_be_drawn_is_told_of_and_nothing_is_written(tmp_path, medsoft, table):
    def refused(*words) -> str:
        code, _, err = medsoft("data", "masks", table, "--path=file", *words, f"--out={tmp_path / 'out'}")
        assert code == 2
        assert "Traceback" not in err
        assert not (tmp_path / "out" / "masks.csv").exists()
        return err

    assert "not named: cup (1)" in refused("--annotations=drawn", "--classes=disc")
    assert "no column of" in refused("--annotations=outlines", "--classes=disc")
    assert "each once" in refused("--annotations=drawn", "--classes=[disc, disc]")
    assert "no image has outlines" in refused(f"--annotations={coco(tmp_path, 'other.png')}", "--classes=disc")
    assert "category that is not there" in refused(f"--annotations={coco(tmp_path, category_id=9)}", "--classes=disc")
    (tmp_path / "0.geojson").write_text(json.dumps(feature("disc", [[100, 100], [120, 100], [120, 120], [100, 100]])))
    assert "lie outside" in refused("--annotations=drawn", "--classes=disc")
    other = json.loads(coco(tmp_path).read_text())
    other["images"][0]["width"] = 99
    (tmp_path / "coco.json").write_text(json.dumps(other))
    assert "of an image of 99 x 40" in refused(f"--annotations={tmp_path / 'coco.json'}", "--classes=disc")
