"""Trivial facts of samples: of pixels, files, volumes, bags and whole tables."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medsoft.data.facts.bags import bag_facts, source_facts
from medsoft.data.facts.jpeg_quality import jpeg_quality
from medsoft.data.facts.pictures import picture_facts, pixel_facts
from medsoft.data.facts.table import facts_table
from medsoft.data.facts.volumes import VOLUME_FACTS, volume_facts
from medsoft.data.images.read import read_image
from medsoft.data.tables.sample_table import read_table
from medsoft.data.volumes.volume import Volume
from tests.builders.dicom import write

NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 100])
def test_the_quality_of_a_jpeg_is_told_from_its_tables(quality):
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        assert jpeg_quality(image.quantization[0]) == pytest.approx(quality, abs=1)


def test_facts_of_pixels_are_those_that_a_plain_computation_gives():
    facts = pixel_facts(NOISE)
    assert facts["mean of red"] == pytest.approx(NOISE[..., 0].mean() / 255, abs=1e-6)
    assert facts["deviation of blue"] == pytest.approx(NOISE[..., 2].std() / 255, abs=1e-6)
    assert facts["share of dark pixels"] == pytest.approx((NOISE.mean(axis=2) / 255 < 0.1).mean(), abs=1e-6)
    assert facts["aspect"] == pytest.approx(math.log10(96 / 64))
    smooth = np.linspace(0, 255, 96)[None, :, None].repeat(64, 0).repeat(3, 2).astype(np.uint8)
    assert pixel_facts(smooth)["sharpness"] < facts["sharpness"] - 2


def test_a_large_picture_has_the_facts_of_a_small_one_of_the_same_colours():
    large = np.tile(NOISE, (20, 20, 1))
    small, both = pixel_facts(NOISE), pixel_facts(large)
    for name in ("mean of green", "deviation of green", "share of bright pixels"):
        assert both[name] == pytest.approx(small[name], abs=0.02)


def test_a_file_tells_its_bytes_quality_resolution_and_camera(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model 7"
    Image.fromarray(NOISE).save(path, quality=60, dpi=(300, 300), exif=exif)
    facts = picture_facts(str(path), read_image(path))
    assert facts["bytes of the file"] == pytest.approx(math.log10(path.stat().st_size))
    assert facts["JPEG quality"] == pytest.approx(60, abs=1)
    assert (facts["camera"], facts["format"]) == ("Maker Model 7", "jpg")
    assert facts["pixels an inch"] == pytest.approx(math.log10(300))


def test_a_dicom_file_tells_its_maker_and_spacing(tmp_path):
    path = write(tmp_path / "a.dcm", NOISE[..., 0].copy(), Manufacturer="ACME", PixelSpacing=[0.254, 0.254])
    facts = picture_facts(str(path), read_image(path))
    assert facts["camera"] == "ACME"
    assert facts["pixels an inch"] == pytest.approx(2.0)


def test_one_of_many_pictures_in_a_file_has_no_facts_of_a_file(tmp_path):
    np.savez(tmp_path / "a.npz", images=NOISE[None])
    facts = picture_facts(f"{tmp_path / 'a.npz'}#images/0", NOISE)
    assert math.isnan(facts["bytes of the file"])
    assert facts["format"] == ""


def test_facts_of_a_volume_are_its_values_size_and_spacing():
    array = np.random.default_rng(0).normal(5, 2, (1, 10, 12, 14)).astype(np.float32)
    volume = Volume(array, np.diag([0.5, 1.0, 2.0, 1.0]))
    facts = dict(zip(VOLUME_FACTS, volume_facts(volume), strict=True))
    assert facts["mean"] == pytest.approx(array.mean(), abs=1e-5)
    assert facts["voxels along z"] == pytest.approx(math.log10(14))
    assert [facts[f"mm along {axis}"] for axis in "xyz"] == pytest.approx([math.log10(0.5), 0, math.log10(2)])
    unknown = Volume(array, np.eye(4), meta={"spacing": "unknown"})
    assert math.isnan(dict(zip(VOLUME_FACTS, volume_facts(unknown), strict=True))["mm along x"])


def test_pooled_bags_have_the_sum_of_their_tiles():
    facts = bag_facts([30, 70], [None, None])
    assert facts["tiles"] == pytest.approx(2.0)
    assert facts["slides"] == 2
    assert math.isnan(facts["um a pixel"])


def test_what_a_bag_was_made_from_is_looked_at_where_it_is_there(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    (tmp_path / "b.svs").write_bytes(b"0" * 1000)
    assert "mean of red" in source_facts(tmp_path / "a.png")
    assert source_facts(tmp_path / "b.svs") == {"bytes of the file": 3.0, "format": "svs"}
    assert source_facts(tmp_path / "c.svs") == {}


def test_a_table_of_facts_has_site_and_scanner_but_never_a_label_of_such_a_name(tmp_path):
    rows = pd.DataFrame(
        {"path": ["a.png", "b.png"], "scanner": ["x", "y"], "camera": ["p", "q"], "hospital": ["1", "2"]}
    )
    for level, name in enumerate(rows["path"]):
        Image.fromarray(NOISE // (level + 1)).save(tmp_path / name)
    rows.to_csv(tmp_path / "t.csv", index=False)
    part = read_table(tmp_path / "t.csv", label="scanner", site="hospital", task="binary", classes="x,y")
    table = facts_table(
        part, [{"size": 1.0, "format": "png"}, {"size": 2.0}], {"age": np.array([50, np.nan])}, ["scanner"]
    )
    assert table.columns.tolist() == [
        *("id", "split", "target", "number size", "kind format", "kind site", "kind camera (of the table)"),
        "covariate age",
    ]
    assert table["kind format"].tolist() == ["png", ""]
