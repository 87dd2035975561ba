"""``slides tile --save-tiles``: tiles as pictures or by their places, with labels, for ``--config histo_tiles``."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from medsoft.data.images.read import locate, read_image
from medsoft.errors import ReadError
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.reading.sample import TilePlace
from medsoft.slides.reading.slide import open_slide
from medsoft.slides.tiling.tiling_file import read_tiling
from tests.builders.annotations import asap, feature, geojson
from tests.builders.slides import TILES, write_slide

LEFT = [(0, 0), (320, 0), (320, 512), (0, 512)]
MIDDLE = [(288, 0), (360, 0), (360, 512), (288, 512)]
"""Half of one column of tiles, 64 px wide, and more than half of the next."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate("ab"):
        write_slide(folder / "slides" / f"{name}.tif", seed)
    (folder / "drawn").mkdir()
    (folder / "drawn" / "a.geojson").write_text(geojson(feature(LEFT, name="tumour")))
    (folder / "drawn" / "b.xml").write_text(asap((LEFT, "Polygon", "tumour"), (MIDDLE, "Polygon", "None")))
    rows = [("path", "label", "patient"), ("slides/a.tif", "yes", "P1"), ("slides/b.tif", "no", "P2")]
    (folder / "slides.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    return folder


@pytest.fixture
def tile(medsoft, scans, tmp_path):
    def run(*words, slides="slides.csv", code=0):
        found, said, err = medsoft("slides", "tile", scans / slides, *TILES, *words, "--out", tmp_path / "out")
        assert found == code, said + err
        return said + err

    return run


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "tiles.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("format", ["png", "jpeg", "hdf5", "table"])
def test_every_tile_is_listed_and_read_as_it_is_on_the_slide(scans, tile, tmp_path, format):
    said = tile("--save-tiles", format)
    out = tmp_path / "out"
    rows = table(out)
    tiles = [read_tiling(SlidesFolder(out).tiles(id)) for id in "ab"]
    assert len(rows) == sum(map(len, tiles))
    assert f"{len(rows)} tiles in {out / 'tiles.csv'}" in said
    assert "label" not in rows[0]
    assert (rows[0]["slide_label"], rows[0]["patient"], rows[-1]["patient"]) == ("yes", "P1", "P2")
    assert len({row["id"] for row in rows}) == len(rows)
    with open_slide(scans / "slides" / "a.tif") as slide:
        for row in rows[:3]:
            found = read_image(out / row["path"])
            expected = slide.read_tile(int(row["x_px0"]), int(row["y_px0"]), 32, 1.0)
            assert found.shape == (32, 32, 3)
            difference = np.abs(found.astype(int) - expected)
            assert difference.mean() < 6 if format == "jpeg" else difference.max() == 0


def test_saved_tiles_are_kept_until_the_tiles_change(tile, tmp_path):
    for format, pattern in (("png", "a/*.png"), ("hdf5", "a.h5")):
        tile("--save-tiles", format)
        images = tmp_path / "out" / "tile_images"
        before = {path: path.stat().st_mtime_ns for path in images.glob(pattern)}
        tile("--save-tiles", format)
        assert {path: path.stat().st_mtime_ns for path in images.glob(pattern)} == before
        tile("--save-tiles", format, "--min-tissue", "0.9")
        after = {path: path.stat().st_mtime_ns for path in images.glob(pattern)}
        assert not after.items() & before.items()
        assert not [path for path in images.iterdir() if path.name.startswith(".")]
        tile("--save-tiles", format)
    record = json.loads((images / "a" / "tiles.json").read_text())
    assert record["rows"] == list(range(record["tiles"]))


def test_a_label_is_the_class_of_more_than_half_of_the_tile(scans, tile, tmp_path):
    drawn = ["--regions", scans / "drawn", "--region-keep", "all"]
    said = tile("--save-tiles", "table", *drawn, "--region-other", "rest")
    labels = {(row["slide"], int(row["x_px0"])): row for row in table(tmp_path / "out")}
    columns = sorted({x for _, x in labels})
    assert columns == list(range(0, 640, 64))
    for x in columns:
        assert labels["a", x]["label"] == ("tumour" if x < 320 else "rest")
        assert labels["a", x]["label_part"] == "1"
    # Of slide b, 288 to 360 is of no class: half of the tile at 256, and 40 of 64 px of the one at 320.
    assert [labels["b", x]["label"] for x in (256, 320, 384)] == ["tumour", "unclassified", "rest"]
    assert float(labels["b", 320]["label_part"]) == 40 / 64
    assert f"{sum(row['label'] == 'tumour' for row in table(tmp_path / 'out'))} tumour" in said

    said = tile("--save-tiles", "table", *drawn, "--region-class", "tumour")
    assert {row["label"] for row in table(tmp_path / "out")} == {"tumour"}
    assert "tiles are not listed, as no class has more than half of their area" in said


def test_tiles_that_cannot_be_read_are_left_out(tile, tmp_path, monkeypatch):
    from medsoft.errors import TileError
    from medsoft.slides.reading.slide import Slide

    read = Slide.read_tile

    def broken(self, x, y, size, mpp):
        if x == 128:
            raise TileError("is broken")
        return read(self, x, y, size, mpp)

    monkeypatch.setattr(Slide, "read_tile", broken)
    said = tile("--save-tiles", "hdf5")
    rows = table(tmp_path / "out")
    assert rows
    assert all(row["x_px0"] != "128" for row in rows)
    assert "tiles cannot be read, and were not saved" in said
    with h5py.File(tmp_path / "out" / "tile_images" / "a.h5") as file:
        assert len(file["images"]) == len(file["coords"]) == len([row for row in rows if row["slide"] == "a"])


def test_a_label_for_the_rest_needs_a_table_and_regions(tile, scans):
    assert "--region_other labels tiles in tiles.csv" in tile("--region-other", "x", code=2)
    assert "it needs --save-tiles and --regions" in tile("--region-other", "x", "--save-tiles", "png", code=2)


def test_histo_tiles_trains_on_tiles_of_slides(medsoft, scans, tile, tmp_path):
    tile("--save-tiles", "table", "--regions", scans / "drawn", "--region-class", "tumour", "--region-keep", "all",
         "--region-other", "rest")  # fmt: skip
    words = ["--data.table", tmp_path / "out" / "tiles.csv", "--data.label", "label", "--data.positive", "tumour"]
    code, said, err = medsoft("data", "check", words[1], "--label", "label", "--positive", "tumour", "--id", "id")
    assert code == 0, said + err
    words += ["--data.id", "id", "--data.patient", "patient", "--data.val_fraction", "0.5", "--data.test_fraction", "0"]
    words += [
        "--transforms.size",
        "16",
        "--model.backbone",
        "vit_seqnorm_tiny_patch16_224",
        "--trainer.max_epochs",
        "1",
    ]
    words += [
        "--model.backbone_args.depth",
        "1",
        "--model.backbone_args.embed_dim",
        "12",
        "--model.backbone_args.num_heads",
        "1",
    ]
    words += ["--model.backbone_args.patch_size", "8", "--trainer.accelerator", "cpu", "--report", "false"]
    code, said, err = medsoft("fit", "--config", "histo_tiles", *words, "--out", tmp_path / "run")
    assert code == 0, said + err
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    assert {row["id"].split("-")[0] for row in predicted} <= {"a", "b"}
    assert predicted


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("1,2,32", "is no tile: write tile=x,y,size,mpp"),
        ("a,2,32,1", "is no tile"),
        ("1.5,2,32,1", "whole numbers for x, y and size"),
        ("1,2,32,0", "mpp above 0"),
        ("1,2,99999,1", "up to 16384 px"),
        ("1,2,nan,1", "is no tile"),
        ("6000,2,32,1", "has 640 x 512 pixels: the tile at 6000, 2 lies outside"),
        ("1,2,32,0.1", "coarse"),
    ],
)
def test_places_that_are_none_are_refused(scans, place, message):
    with pytest.raises(ReadError, match=message):
        read_image(f"{scans / 'slides' / 'a.tif'}#tile={place}")


def test_a_place_is_written_as_it_is_read():
    for place in (TilePlace(1, 2, 224, 0.5), TilePlace(100_000, 7, 8, 0.2525, 0.25)):
        file, key, index = locate(place.of("a b/c#d.svs"))
        assert (file, index) == ("a b/c#d.svs", 0)
        assert TilePlace.parse(key.removeprefix("tile=")) == place


def test_a_dataset_of_pictures_is_checked_before_it_is_read(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
        file["other"] = np.zeros((2, 4), np.uint8)
    assert read_image(f"{path}#images/1").shape == (4, 5, 3)
    for place, message in (("images/2", "has 2 pictures"), ("other/0", "has shape"), ("none/0", "none")):
        with pytest.raises(ReadError, match=message):
            read_image(f"{path}#{place}")
    with pytest.raises(ReadError, match="4 pixels"):
        read_image(f"{path}#images/0", max_pixels=10)
    path.write_bytes(b"damaged")
    with pytest.raises(ReadError):
        read_image(f"{path}#images/0")
