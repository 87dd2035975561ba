"""``medsoft benchmark tiles``: which tiles are read, what is compared, what is written. Never how fast it was."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medsoft.benchmark.reading import job_for, with_medsoft, with_openslide, with_the_decoder
from medsoft.benchmark.tiles import COLUMNS
from medsoft.slides.reading.slide import open_slide
from tests.builders.tiff import damage, write_tiff


class Facts:
    """What ``job_for`` asks of a slide."""

    path, mpp = Path("a.tif"), 0.25

    def __init__(self, width: int, height: int) -> None:
        self.size_px0 = (width, height)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@given(
    width=st.integers(1, 100_000),
    height=st.integers(1, 100_000),
    mpp=st.floats(0.25, 4),
    tile=st.integers(16, 512),
    most=st.integers(1, 2000),
)
def test_tiles_lie_inside_side_by_side_in_row_order(width, height, mpp, tile, most):
    coords = job_for(Facts(width, height), mpp, tile, most).coords_N2_px0
    step = tile * mpp / 0.25
    assert len(coords) <= most
    assert len(coords) > 0 or min(width, height) < step
    assert [tuple(corner) for corner in coords[:, ::-1]] == sorted(tuple(corner) for corner in coords[:, ::-1])
    if len(coords):
        assert coords.min() >= 0
        assert (coords.max(0) + step <= np.array([width, height]) + 1).all()
        steps = np.diff(np.unique(coords[:, 0]))
        assert (np.abs(steps - step) <= 1).all()


def test_every_way_reads_every_tile_and_they_agree(tmp_path):
    path = write_tiff(tmp_path / "a.tif")
    with open_slide(path) as slide:
        job = job_for(slide, 0.5, 60, 1000)
    read = {}
    for name, way in (("medsoft", with_medsoft), ("openslide", with_openslide)):
        found: dict[int, np.ndarray] = {}
        run, close = way(job)
        run(found.__setitem__)
        close()
        assert sorted(found) == list(range(len(job.coords_N2_px0)))
        read[name] = found
    for row, tile in read["medsoft"].items():
        assert np.array_equal(tile, read["openslide"][row])
    decoded: list[np.ndarray | None] = []
    run, close = with_the_decoder(job)
    run(lambda _, tile: decoded.append(tile))
    close()
    assert len(decoded) == 6  # level 1 has 350 x 250 px; of its tiles of 128 px the job's 5 x 4 tiles meet all six
    assert all(tile is not None and tile.shape == (128, 128, 3) for tile in decoded)


def test_the_command_leaves_a_table_and_its_conditions(tmp_path, medsoft):
    path = write_tiff(tmp_path / "a b.tif")
    code, out, err = medsoft("benchmark", "tiles", path, "--tile", "60", "--workers", "1,2", "--out", tmp_path / "out")
    assert code == 0, err
    rows = table(tmp_path / "out/tiles.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [(row["name"], row["workers"]) for row in rows] == [
        *((name, workers) for workers in "12" for name in ("medsoft", "openslide", "decoder")),
        *((name, "1") for name in ("best level", "level 0")),
    ]
    assert {row["rounds"] for row in rows} == {"7"}
    assert {row["unreadable"] for row in rows} == {"0"}
    for row in rows:
        assert float(row["q1_s"]) <= float(row["median_s"]) <= float(row["q3_s"])
        assert float(row["tiles_per_s"]) == pytest.approx(int(row["tiles"]) / float(row["median_s"]), rel=1e-4)
        if row["name"] == "medsoft":
            assert row["equal_tiles"] == row["tiles"] == "88"
        assert (float(row["ratio"]) == 1) == (row["name"] in ("openslide", "level 0"))
    assert float(rows[-1]["mpp"]) == pytest.approx(0.5)
    record = json.loads((tmp_path / "out/tiles.json").read_text())
    assert record["slide"]["reader"] == "tiff tiles"
    assert record["options"]["tile"] == 60
    assert "cpu" in record["machine"]
    assert "a b.tif, read by tiff tiles" in out


def test_unreadable_tiles_are_counted_and_end_in_3(tmp_path, medsoft):
    path = damage(write_tiff(tmp_path / "a.tif", levels=1), tmp_path / "b.tif", lambda data: b"")
    code, _, _ = medsoft("benchmark", "tiles", path, "--tile", "100", "--workers", "2", "--out", tmp_path)
    assert code == 3  # the damaged one lies in the upper right corner, and two tiles of 100 px meet it
    assert [(row["name"], row["unreadable"]) for row in table(tmp_path / "tiles.csv")] == [
        ("medsoft", "2"),
        ("openslide", "2"),
        ("decoder", "1"),
    ]


def test_a_plain_picture_has_nothing_to_be_compared_with(tmp_path, medsoft):
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(tmp_path / "a.png")
    call = ("benchmark", "tiles", tmp_path / "a.png", "--tile", "64", "--workers", "1", "--out", tmp_path)
    code, _, err = medsoft(*call)
    assert code == 2
    assert "a.png: does not say its resolution" in err
    code, _, _ = medsoft(*call, "--slide-mpp", "10")
    assert code == 0
    assert [(row["name"], row["ratio"], row["tiles"]) for row in table(tmp_path / "tiles.csv")] == [
        ("medsoft", "", "16")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "3"], "--rounds 3 must be 7 or more"),
        (["--workers", "0"], "--workers 0"),
        (["--tile", "0"], "--tile 0 must be 1 or more"),
        (["--tile", "2000"], "smaller than one tile"),
        (["--mpp", "0.01"], "too coarse"),
    ],
)
def test_mistakes_are_said_before_work_starts(tmp_path, medsoft, options, message):
    path = write_tiff(tmp_path / "a.tif", levels=1)
    code, _, err = medsoft("benchmark", "tiles", path, "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()
    assert tifffile.TiffFile(path).pages[0].shape == (500, 700, 3)
