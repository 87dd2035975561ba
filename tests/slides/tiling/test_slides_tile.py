"""``medsoft slides tile``: every slide accounted for, whatever is wrong with some."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from medsoft.cli.slides.tile import tile_slides
from medsoft.errors import InputError, SlideError
from medsoft.parsing.parser import call
from medsoft.slides.find import find_slides
from medsoft.slides.folder import COLUMNS, SlidesFolder, SlideStatus
from medsoft.slides.source import SlideInput, SlideSource, make_ids
from medsoft.slides.tiling.overview_figure import draw_overview, facts, scale_bar
from medsoft.slides.tiling.run import ensure_tiling, open_source
from medsoft.slides.tiling.settings import TileSettings, TilingOptions, TissueSettings
from medsoft.slides.tiling.tiling import tile_slide
from medsoft.slides.tiling.tiling_file import read_tiling, write_tiling
from tests.builders.waiting import LIMIT_SECONDS, wait_until

REPOSITORY = Path(__file__).parents[3]
SETTINGS = TileSettings(4, 16, min_tissue=0.5)
OPTIONS = ("--mpp", 4, "--tile", 16, "--slide-mpp", 4)


def write_slide(path: Path, size=(320, 240), discs=((160, 120, 80),), seed: int = 0) -> Path:
    """A picture of stained discs on glass; at 4 µm/px it measures 1.3 × 1 mm."""
    rng = np.random.default_rng(seed)
    image = np.full((size[1], size[0], 3), (243, 242, 244), np.uint8)
    for x, y, radius in discs:
        cv2.circle(image, (x, y), radius, (190, 110, 170), cv2.FILLED)
    noisy = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy).save(path)
    return path


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def write_table(path: Path, *records: dict[str, str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


class FakeSlide:
    """What ``tile_slide`` needs of a slide, from an array."""

    def __init__(self, path, image, mpp=4.0, bounds=None, gaps=None):
        self.path, self.name, self.image, self.mpp, self.mpp_origin = path, path.name, image, mpp, "option"
        self.size_px0 = image.shape[1], image.shape[0]
        self.bounds_px0 = bounds or (0, 0, *self.size_px0)
        self.gaps, self.notes = gaps, ()

    def check_mpp(self, mpp):
        pass

    def overview_and_gaps(self, mpp):
        size = [max(1, round(side * self.mpp / mpp)) for side in self.size_px0]
        gaps = np.zeros(self.image.shape[:2], np.uint8) if self.gaps is None else self.gaps.astype(np.uint8)
        return (
            cv2.resize(self.image, size, interpolation=cv2.INTER_AREA),
            cv2.resize(gaps, size, interpolation=cv2.INTER_NEAREST) > 0,
        )


@pytest.fixture
def fake(tmp_path):
    def make(**options):
        path = write_slide(tmp_path / "fake.png")
        return FakeSlide(path, np.asarray(Image.open(path)), **options)

    return make


# The tiles of one slide


def test_tiles_lie_on_the_tissue_and_nowhere_else(fake):
    tiling, mask, overview = tile_slide(fake(), SETTINGS)
    assert mask.shape == overview.shape[:2] == (120, 160)  # 8 µm/px
    centres = tiling.coords_N2_px0 + 8
    distance = np.hypot(*(centres - (160, 120)).T)
    assert distance.max() < 80 + 12
    assert len(tiling) == pytest.approx(np.pi * 80**2 / 16**2, rel=0.1)
    assert tiling.tissue_mm2 == pytest.approx(np.pi * 0.32**2, rel=0.08)
    assert (tiling.tissue_N >= 0.5).all()
    assert (np.lexsort(tiling.coords_N2_px0.T) == np.arange(len(tiling))).all()  # by y, then x
    assert tiling.coords_N2_px0.dtype == np.int64
    assert tiling.warnings == ()


def test_more_tissue_asked_means_fewer_tiles_of_the_same_grid(fake):
    found = [
        {tuple(corner) for corner in tile_slide(fake(), replace(SETTINGS, min_tissue=least))[0].coords_N2_px0.tolist()}
        for least in (0, 0.01, 0.5, 1)
    ]
    assert len(found[0]) == 20 * 15
    assert found[0] > found[1] > found[2] > found[3] > set()


def test_overlapping_tiles(fake):
    one, two = (tile_slide(fake(), replace(SETTINGS, overlap_px=overlap))[0] for overlap in (0, 8))
    assert len(two) == pytest.approx(4 * len(one), rel=0.15)
    assert set(map(tuple, one.coords_N2_px0.tolist())) < set(map(tuple, two.coords_N2_px0.tolist()))


def test_the_grid_begins_at_the_bounds_and_ends_within_them(fake):
    bounds = (97, 61, 150, 130)
    coords = tile_slide(fake(bounds=bounds), replace(SETTINGS, min_tissue=0))[0].coords_N2_px0
    assert coords.min(axis=0).tolist() == [97, 61]
    assert coords.max(axis=0).tolist() == [97 + 8 * 16, 61 + 7 * 16]


def test_what_cannot_be_read_counts_as_tissue_and_is_told(fake):
    gaps = np.zeros((240, 320), bool)
    gaps[:32, :32] = True
    tiling, mask, _ = tile_slide(fake(gaps=gaps), SETTINGS)
    assert {(0, 0), (16, 16)} < set(map(tuple, tiling.coords_N2_px0.tolist()))
    assert mask[:16, :16].all()
    assert "cannot be read" in tiling.warnings[0]
    assert tiling.tissue_mm2 == tile_slide(fake(), SETTINGS)[0].tissue_mm2


@pytest.mark.parametrize(
    ("mpp", "words"), [(0.4, "0.128 × 0.096 mm"), (1.6, "mm² of tissue at 1.6"), (600, "192 × 144 mm"), (4, "")]
)
def test_an_absurd_size_is_doubted(fake, mpp, words):
    tiling, _, _ = tile_slide(fake(mpp=mpp), replace(SETTINGS, mpp=max(mpp, 4), min_tissue=0))
    assert words in " ".join(tiling.warnings)
    assert bool(words) == bool(tiling.warnings)


def test_a_slide_larger_than_any_is_refused_before_it_fills_the_memory(fake):
    slide = fake(mpp=2.5)
    slide.size_px0 = 61_440, 61_440
    with pytest.raises(SlideError, match=r"153\.6 × 153\.6 mm at 2\.5 µm/px \(option\).*--slide-mpp"):
        tile_slide(slide, SETTINGS)


def test_tiles_finer_than_the_slide_are_told_and_too_close_ones_refused(fake):
    assert "enlarged" in tile_slide(fake(), TileSettings(2, 32))[0].warnings[0]
    with pytest.raises(SlideError, match="--overlap"):
        tile_slide(fake(), TileSettings(2, 32, 31))


def test_a_slide_smaller_than_a_tile(fake):
    tiling, _, _ = tile_slide(fake(), TileSettings(4, 512))
    assert len(tiling) == 0
    assert "1280 × 960 µm, is smaller than a tile of 2048 µm" in tiling.warnings[0]


def test_one_tile_only(fake):
    tiling, _, _ = tile_slide(fake(), TileSettings(4, 240, min_tissue=0.1))
    assert tiling.coords_N2_px0.tolist() == [[0, 0]]


# Its file and its picture


def test_a_tiling_survives_its_file(fake, tmp_path):
    tiling = replace(
        tile_slide(fake(), replace(SETTINGS, overlap_px=3))[0], slide="Präparat 1.svs", warnings=("µ", "²")
    )
    write_tiling(tmp_path / "a.h5", tiling)
    back = read_tiling(tmp_path / "a.h5")
    for name in vars(tiling):
        assert np.array_equal(getattr(back, name), getattr(tiling, name)), name
    with h5py.File(tmp_path / "a.h5") as file:  # as other programs read it
        assert file["coords"].dtype == np.int64
        assert file.attrs["tile_px0"] == 16


def test_a_tiling_without_tiles_survives_its_file(fake, tmp_path):
    write_tiling(tmp_path / "a.h5", tile_slide(fake(), TileSettings(4, 512))[0])
    assert read_tiling(tmp_path / "a.h5").coords_N2_px0.shape == (0, 2)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other", "version", "settings"])
def test_a_damaged_file_of_tiles_says_so(fake, tmp_path, damage):
    path = tmp_path / "a.h5"
    if damage != "missing":
        write_tiling(path, tile_slide(fake(), SETTINGS)[0])
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-700])
    elif damage == "other":
        with h5py.File(path, "w") as file:
            file["coords"] = [[1, 2]]
    elif damage in ("version", "settings"):
        with h5py.File(path, "r+") as file:
            name, value = {"version": ("format_version", 99), "settings": ("settings", "{}")}[damage]
            file.attrs[name] = value
    with pytest.raises(SlideError, match=r"a\.h5"):
        read_tiling(path)


def test_the_picture_shows_tissue_tiles_scale_and_facts(fake):
    tiling, mask, overview = tile_slide(fake(), SETTINGS)
    picture = draw_overview(overview, mask, replace(tiling, warnings=("look here",)))
    assert picture.shape[1] == 1600
    assert picture.shape[0] > 1200
    assert (picture[:1200] == (0, 130, 60)).all(axis=2).sum() > 2000  # the contour
    lines = [line for line, _ in facts(replace(tiling, warnings=("look here",)))]
    assert lines[1] == "320 × 240 px at 4 µm/px (option)"
    assert lines[2] == f"{len(tiling)} tiles of 16 px at 4 µm/px (64 µm), at least 50% tissue"
    assert lines[-1] == "look here"


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3)])
def test_slides_of_any_shape_can_be_drawn(tmp_path, size):
    slide = FakeSlide(write_slide(tmp_path / "a.png"), np.full((size[1], size[0], 3), 200, np.uint8))
    tiling, mask, overview = tile_slide(slide, SETTINGS)
    assert draw_overview(overview, mask, tiling).ndim == 3


@pytest.mark.parametrize(
    ("um_per_px", "expected"), [(1, (200, "200 µm")), (4, (250, "1 mm")), (0.04, (250, "10 µm")), (100, (200, "20 mm"))]
)
def test_the_scale_bar_is_a_round_number(um_per_px, expected):
    assert scale_bar(um_per_px, 300) == expected


# Which slides


def test_files_folders_and_globs(tmp_path):
    for name in ("a/1.svs", "a/deep/2.tif", "a/._1.svs", "a/notes.txt", "a/preview.png", ".hidden/3.svs", "b/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for words, expected in {
        ("a",): ["1", "2"],
        (".",): ["1", "2"],
        ("b",): ["4"],
        ("a/1.svs", "a", "b/4.png"): ["1", "2", "4"],
        ("a/*.svs", "a/*/*"): ["1", "2"],
        ("**/*.tif",): ["2"],
        (str(tmp_path / "a" / "preview.png"),): ["preview"],
    }.items():
        found = find_slides(SlideInput(words, slide_mpp=0.5))
        assert [source.id for source in found] == expected, words
        assert all(source.path.is_absolute() and source.path.is_file() for source in found)
        assert {(source.mpp, source.mpp_origin) for source in found} == {(0.5, "option")}


def test_all_words_that_name_nothing_are_listed(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as told:
        find_slides(SlideInput(["empty", "none.svs", "*.ndpi"]))
    assert [line.split(":")[0] for line in str(told.value).split("\n")] == ["empty", "none.svs", "*.ndpi"]
    with pytest.raises(InputError, match="name slides"):
        find_slides(SlideInput([]))


def test_slides_of_one_name_get_their_folders_before_it():
    paths = [
        Path(path) for path in ("/d/a/x.svs", "/d/b/x.svs", "/d/b/y.svs", "/d/b/z.svs", "/d/b/z.tif", "/e/a/x.svs")
    ]
    assert make_ids(paths) == ["d-a-x", "b-x", "y", "z.svs", "z.tif", "e-a-x"]
    with pytest.raises(InputError, match="b-c"):
        make_ids(
            [Path("/a-b/c.svs"), Path("/x/a/b-c.svs"), Path("/c.svs"), Path("/a/b-c.svs")] + [Path("/b/c.svs")] * 2
        )
    with pytest.raises(InputError, match="150 bytes"):
        make_ids([Path("/") / ("ä" * 76 + ".svs")])


def test_the_levels_of_a_dicom_series_are_one_slide(shared_data, tmp_path):
    real = shared_data / "wsi" / "cptac_brca_15BR001_level.dcm"
    for name in ("level0.dcm", "level1.dcm"):
        shutil.copy(real, tmp_path / name)
    shutil.copy(shared_data / "wsi" / "multi_frame_jpeg_camelyon_challenge_image.dcm", tmp_path / "other.dcm")
    (tmp_path / "report.dcm").write_bytes(b"no slide")
    assert [source.id for source in find_slides(SlideInput([str(tmp_path)]))] == ["level0", "other", "report"]


def test_a_table_with_resolutions_and_columns_of_its_own(tmp_path):
    write_slide(tmp_path / "s" / "1.png")
    write_slide(tmp_path / "s" / "2.png")
    table = write_table(
        tmp_path / "t.csv",
        {"FILENAME": "1.png", "PATIENT": "007", "um": "0.25", "name": "é 1"},
        {"FILENAME": "2.png", "PATIENT": "008", "um": "", "name": "two"},
    )
    found = find_slides(
        SlideInput([str(table)], slide_mpp=0.5, root=tmp_path / "s", path="FILENAME", id="name", slide_mpp_column="um")
    )
    assert [(source.id, source.mpp, source.mpp_origin) for source in found] == [
        ("é 1", 0.25, "table"),
        ("two", 0.5, "option"),
    ]
    assert found[0].row["PATIENT"] == "007"
    unnamed = find_slides(SlideInput([str(table)], root=tmp_path / "s", path="FILENAME"))
    assert [(source.id, source.mpp, source.mpp_origin) for source in unnamed] == [("1", None, ""), ("2", None, "")]


def test_all_problems_of_a_table_are_listed(tmp_path):
    write_slide(tmp_path / "1.png")
    table = write_table(
        tmp_path / "t.csv",
        {"path": "1.png", "mpp": "0,5", "id": "a"},
        {"path": "1.png", "mpp": "-1", "id": "a"},
        {"path": "gone.png", "mpp": "", "id": "x/y"},
        {"path": "", "mpp": "1001", "id": ""},
    )
    with pytest.raises(InputError) as told:
        find_slides(SlideInput([str(table)], id="id"))
    for words in (
        "'0,5'",
        "'-1'",
        "'1001'",
        "from 0.05 to 1000",
        "same file as row 1",
        "missing file (1)",
        "path is empty",
        "duplicate id",
        "'x/y'",
    ):
        assert words in str(told.value), words
    with pytest.raises(InputError, match="nearest: 'path'"):
        find_slides(SlideInput([str(table)], path="paths"))
    with pytest.raises(InputError, match="not both"):
        find_slides(SlideInput([str(table), str(tmp_path / "1.png")]))


# The account


def test_rows_of_other_runs_and_columns_of_tables_stay(tmp_path):
    folder, other = SlidesFolder(tmp_path / "out"), SlidesFolder(tmp_path / "out")
    folder.record(
        SlideSource("a", Path("/x/a.svs"), row={"patient": "P,1", "id": "never"}), SlideStatus("tiled", tiles=3)
    )
    other.record(
        SlideSource("b", Path("/x/b.svs"), row={"label": "0"}), SlideStatus("failed", "open", 'is "bad"\nvery')
    )
    folder.record(
        SlideSource("a", Path("/x/a.svs"), row={"patient": "P,1"}), SlideStatus("encoded", tiles=3, unreadable=1)
    )
    found = rows(folder.slides_csv)
    assert list(found) == ["a", "b"]
    assert list(found["a"]) == [*COLUMNS, "patient", "label"]
    assert (found["a"]["patient"], found["a"]["status"], found["a"]["unreadable"]) == ("P,1", "encoded", "1")
    assert folder.slide_statuses()["b"] == SlideStatus("failed", "open", 'is "bad"\nvery')
    assert list(rows(folder.errors_csv)) == ["b"]
    folder.record(SlideSource("b", Path("/x/b.svs")), SlideStatus("tiled", tiles=0, mpp=0.25, seconds=1.5))
    assert not folder.errors_csv.exists()
    assert folder.slide_statuses()["b"] == SlideStatus("tiled", tiles=0, mpp=0.25, seconds=1.5)


def test_many_threads_write_one_account(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def record(i: int) -> None:
        SlidesFolder(tmp_path / "out").record(
            SlideSource(f"s{i}", Path(f"/s{i}.svs")), SlideStatus("failed", "open", "bad")
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(60)))
    assert set(rows(tmp_path / "out" / "errors.csv")) == {f"s{i}" for i in range(60)}
    assert not list((tmp_path / "out").glob(".*"))


# The command line


def run_tile(medsoft, *words, code=0):
    got, out, err = medsoft("slides", "tile", *words, "--out", "out")
    assert got == code, (got, out, err)
    return out, err


def test_good_and_bad_slides_together(medsoft, tmp_path):
    write_slide(tmp_path / "in put" / "Präparat 1.png")
    write_slide(tmp_path / "in put" / "glass.png", discs=())
    (tmp_path / "in put" / "broken.png").write_bytes(b"\x89PNG but no more")
    out, _ = run_tile(medsoft, "in put", *OPTIONS, code=3)
    found = rows(tmp_path / "out" / "slides.csv")
    assert {id: row["status"] for id, row in found.items()} == {
        "Präparat 1": "tiled",
        "glass": "no tissue",
        "broken": "failed",
    }
    assert found["glass"]["reason"] == "no tissue was found"
    assert (found["Präparat 1"]["mpp"], found["Präparat 1"]["mpp_origin"]) == ("4", "option")
    assert list(rows(tmp_path / "out" / "errors.csv")) == ["broken"]
    assert "errors.csv" in out
    assert "glass: no tissue" in out
    tiling = read_tiling(tmp_path / "out" / "tiles" / "Präparat 1.h5")
    assert len(tiling) == int(found["Präparat 1"]["tiles"]) > 50
    for name in ("Präparat 1", "glass"):
        with Image.open(tmp_path / "out" / "overviews" / f"{name}.jpg") as picture:
            assert picture.size[0] == 1600


def test_a_slide_without_resolution_is_told_what_to_do(medsoft, tmp_path):
    write_slide(tmp_path / "a.png")
    run_tile(medsoft, "a.png", "--mpp", 4, "--tile", 16, code=3)
    reason = rows(tmp_path / "out" / "errors.csv")["a"]["reason"]
    assert "--slide-mpp" in reason
    assert "column mpp of the table" in reason
    run_tile(medsoft, "a.png", *OPTIONS)
    assert not (tmp_path / "out" / "errors.csv").exists()


def test_a_table_of_slides_with_one_missing(medsoft, tmp_path):
    write_slide(tmp_path / "a.png")
    write_table(
        tmp_path / "t.csv", {"path": "a.png", "mpp": "4", "label": "1"}, {"path": "gone.png", "mpp": "4", "label": "0"}
    )
    _, err = run_tile(medsoft, "t.csv", "--mpp", 4, "--tile", 16, code=2)
    assert "row 2: no such file" in err
    assert "gone.png" not in err, "names of files stay in the table"
    assert not (tmp_path / "out").exists()
    run_tile(medsoft, "t.csv", "--mpp", 4, "--tile", 16, "--on-error", "skip", code=3)
    found = rows(tmp_path / "out" / "slides.csv")
    assert (found["a"]["status"], found["a"]["mpp_origin"], found["a"]["label"]) == ("tiled", "table", "1")
    assert (found["gone"]["status"], found["gone"]["stage"]) == ("failed", "open")


def test_two_slides_of_one_name(medsoft, tmp_path):
    write_slide(tmp_path / "A" / "x.png")
    write_slide(tmp_path / "B" / "x.png", discs=((60, 60, 40),))
    run_tile(medsoft, "A", "B", *OPTIONS)
    counts = {id: int(row["tiles"]) for id, row in rows(tmp_path / "out" / "slides.csv").items()}
    assert counts["A-x"] > 3 * counts["B-x"] > 0


def test_a_second_slide_of_a_name_is_refused_in_a_later_run(medsoft, tmp_path):
    write_slide(tmp_path / "A" / "x.png")
    write_slide(tmp_path / "B" / "x.png", discs=((60, 60, 40),))
    run_tile(medsoft, "A", *OPTIONS)
    before = (tmp_path / "out" / "tiles" / "x.h5").read_bytes()
    _, err = run_tile(medsoft, "B", *OPTIONS, code=2)
    assert "'x' is that of another slide" in err
    with pytest.raises(SlideError, match="another slide"):  # should it come while this run is under way
        ensure_tiling(SlideSource("x", tmp_path / "B" / "x.png", 4, "option"), None, SlidesFolder("out"), SETTINGS)
    assert (tmp_path / "out" / "tiles" / "x.h5").read_bytes() == before
    shutil.move(tmp_path / "A", tmp_path / "moved")  # the same slide elsewhere is no other
    run_tile(medsoft, "moved", *OPTIONS)
    assert rows(tmp_path / "out" / "slides.csv")["x"]["path"] == str(tmp_path / "moved" / "x.png")


def test_finished_slides_are_left_and_all_else_is_done_again(medsoft, tmp_path):
    write_slide(tmp_path / "a.png")
    tiles, picture = tmp_path / "out" / "tiles" / "a.h5", tmp_path / "out" / "overviews" / "a.jpg"

    def is_left(*options) -> bool:
        before = tiles.stat().st_mtime_ns
        run_tile(medsoft, "a.png", *(options or OPTIONS))
        assert picture.is_file()
        return tiles.stat().st_mtime_ns == before

    run_tile(medsoft, "a.png", *OPTIONS)
    assert is_left()
    assert not is_left(*OPTIONS, "--min-tissue", 0.5)
    assert is_left(*OPTIONS, "--min_tissue", 0.5)
    assert not is_left("--mpp", 4, "--tile", 16, "--slide-mpp", 3)
    assert not is_left(*OPTIONS, "--tissue.mpp", 10)
    assert not is_left()
    picture.unlink()
    assert not is_left()
    tiles.write_bytes(tiles.read_bytes()[:-900])
    assert not is_left()
    write_slide(tmp_path / "a.png", seed=1)  # another scan under the same name
    assert not is_left()
    assert is_left()


def test_the_account_says_with_which_settings_tiles_were_made(medsoft, tmp_path):
    write_slide(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    run_tile(medsoft, "a.png", "broken.png", *OPTIONS, "--overlap", 4, "--tissue.ink", "red", code=3)
    found = rows(tmp_path / "out" / "slides.csv")
    named = ("tile_mpp", "tile_px", "overlap_px", "min_tissue")
    assert [found["a"][name] for name in named] == ["4", "16", "4", "0.25"]
    assert found["a"]["tissue"].startswith("method=saturation mpp=8 smooth_um=16 ")
    assert "ink=red " in found["a"]["tissue"]
    assert [found["broken"][name] for name in (*named, "tissue")] == [""] * 5


def test_tiles_that_replace_others_are_said_and_those_that_stay_too(medsoft, tmp_path):
    write_slide(tmp_path / "a.png")
    out, _ = run_tile(medsoft, "a.png", *OPTIONS)
    assert "kept" not in out
    assert "replaces" not in out
    out, _ = run_tile(medsoft, "a.png", *OPTIONS)
    assert "a: kept, tiled" in out
    assert "1 kept from earlier runs" in out
    features = SlidesFolder("out").features("a")
    features.parent.mkdir()
    features.touch()
    out, _ = run_tile(medsoft, "a.png", *OPTIONS, "--overlap", 4, "--tissue.mpp", 10)
    words = "replaces tiles of other settings: tissue.mpp 8, not 10, overlap_px 0, not 4"
    warnings = rows(tmp_path / "out" / "slides.csv")["a"]["warnings"]
    assert warnings == f"{words}; its features are still those of the replaced tiles: encode it anew"
    assert warnings in out
    features.unlink()
    out, _ = run_tile(medsoft, "a.png", "--mpp", 4, "--tile", 16, "--slide-mpp", 3, "--overlap", 4, "--tissue.mpp", 10)
    assert "replaces tiles of other settings: slide of 4 µm/px, not 3" in out
    assert "its features" not in out


def test_pictures_beside_slides_are_counted(tmp_path, capfd):
    for name in ("1.svs", "preview 1.png", "deep/2.jpg"):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scans" / name).touch()
    assert [source.id for source in find_slides(SlideInput(["scans"]))] == ["1"]
    assert capfd.readouterr().out.startswith("2 PNG or JPEG pictures beside slides are taken for previews and left out")
    assert len(find_slides(SlideInput(["scans", "scans/deep/2.jpg", "scans/preview 1.png"]))) == 3
    assert capfd.readouterr().out == "", "they are named"


def test_tiling_again_does_not_forget_that_a_slide_was_encoded(medsoft, tmp_path):
    write_slide(tmp_path / "a.png")
    run_tile(medsoft, "a.png", *OPTIONS)
    [source] = find_slides(SlideInput(["a.png"]))
    SlidesFolder("out").record(source, SlideStatus("encoded", tiles=5, unreadable=1))
    run_tile(medsoft, "a.png", *OPTIONS)
    assert rows(tmp_path / "out" / "slides.csv")["a"]["status"] == "encoded"


def test_ensure_tiling_makes_it_once(tmp_path):
    write_slide(tmp_path / "a.png")
    [source] = find_slides(SlideInput(["a.png"], slide_mpp=4))
    folder = SlidesFolder("out")
    with open_source(source) as slide:
        made = ensure_tiling(source, slide, folder, SETTINGS)
        time_made = folder.tiles("a").stat().st_mtime_ns
        again = ensure_tiling(source, slide, folder, SETTINGS)
    assert np.array_equal(made.coords_N2_px0, again.coords_N2_px0)
    assert folder.tiles("a").stat().st_mtime_ns == time_made


def test_workers_change_nothing(tmp_path):
    for i in range(5):
        write_slide(tmp_path / "in" / f"{i}.png", discs=((100 + 20 * i, 120, 60),), seed=i)
    for workers in (1, 4):
        assert tile_slides(SlideInput(["in"], slide_mpp=4), f"out{workers}", TilingOptions(4, 16), workers) == 0
    for i in range(5):
        one, four = ((tmp_path / f"out{n}" / "tiles" / f"{i}.h5").read_bytes() for n in (1, 4))
        assert one == four


def test_a_file_in_place_of_the_folder_is_refused_before_work_starts(tmp_path, medsoft):
    (tmp_path / "a.csv").write_text("path\n")
    (tmp_path / "slide.tif").touch()
    words = ("slides", "tile", tmp_path / "slide.tif", "--mpp=0.5", "--tile=64")
    code, _, err = medsoft(*words, "--out", tmp_path / "a.csv")
    assert code == 2
    assert "is a file; name a folder" in err
    assert (tmp_path / "a.csv").read_text() == "path\n"


def test_hyphens_underscores_and_any_order(medsoft, tmp_path):
    write_slide(tmp_path / "a.png")
    write_slide(tmp_path / "-b: c.png")
    run_tile(medsoft, "--slide_mpp=4", "--mpp", 4, "a.png", "--tile", 16, "./-b: c.png", "--min-tissue", 0.5)
    assert set(rows(tmp_path / "out" / "slides.csv")) == {"a", "-b: c"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("a.png", "--mpp", 4, "--tile", 16, "--slide-mmp", 4), "slide_mpp"),
        (("a.png", "--tile", 16), "missing: mpp"),
        (("--mpp", 4, "--tile", 16), "missing: slides"),
        (("a.png", "--mpp", 4, "--tile"), "needs a value"),
        (("a.png", "--mpp", 4, "--tile", 16, "--overlap", 16), "overlap 16"),
        (("a.png", "--mpp", 4, "--tile", 16, "--tissue.method", "magic"), "magic"),
        (("a.png", "--mpp", 4, "--tile", 16, "--workers", 0), "workers"),
        (("b.png", "--mpp", 4, "--tile", 16), "b.png: no such file"),
        (("a.png", "--mpp", 4, "--tile", 16, "--slide-mpp", 0), "slide_mpp 0 must be between 0.05 and 1000"),
    ],
)
def test_a_wrong_call_is_one_message_before_work_starts(medsoft, tmp_path, words, told):
    write_slide(tmp_path / "a.png")
    code, _, err = medsoft("slides", "tile", *words, *(() if words[-1] == "--tile" else ("--out", "out")))
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_several_words_reach_a_function_as_they_are():
    def take(things: list[str], size: int = 1, big_size: int = 2) -> tuple[list[str], int, int]:
        """Take things.

        Args:
            things: Words.
            size: A number.
            big_size: Another.
        """
        return things, size, big_size

    words = ["a b", "ä: ö", '"q"', "[x]", "{y: 1}", "#z", "1", "null", "back\\slash", "*.svs"]
    got = call(
        take, [*words[:3], "--size", "-5", *words[3:], "--big-size=7"], "take", positional="things", several=True
    )
    assert got == (words, -5, 7)


def test_a_read_only_folder_of_slides(tmp_path):
    write_slide(tmp_path / "in" / "a.png")
    (tmp_path / "in").chmod(0o555)
    try:
        assert tile_slides(SlideInput(["in"], slide_mpp=4), "out", TilingOptions(4, 16)) == 0
        assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.png"]
    finally:
        (tmp_path / "in").chmod(0o755)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs rights that this user has not")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(medsoft, tmp_path, tiny_disk):
    for i in range(12):
        write_slide(tmp_path / "in" / f"{i}.png", seed=i)
    code, _, err = medsoft("slides", "tile", "in", *OPTIONS, "--out", tiny_disk / "out", "--workers", 1)
    assert code == 1
    assert "No space left on device" in err
    assert not list(tiny_disk.rglob(".*"))
    done = rows(tiny_disk / "out" / "slides.csv")
    assert 0 < len(done) < 12
    assert all(read_tiling(path) for path in (tiny_disk / "out" / "tiles").iterdir())


HANGS_AT_THE_THIRD = """
import time
from pathlib import Path
from medsoft.slides.tiling import run
begun, tile = [], run.tile_slide
def hang(*args):
    begun.append(args)
    if len(begun) == 3:
        Path("hanging").touch()
        time.sleep(3600)
    return tile(*args)
run.tile_slide = hang
"""


def start(*words: object, program: str = "") -> subprocess.Popen:
    """A command line in a process of its own."""
    program += "import sys\nfrom medsoft.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
    return subprocess.Popen(
        [sys.executable, "-c", program, "slides", "tile", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_killed_started_again_and_two_at_once(tmp_path):
    for i in range(12):
        write_slide(tmp_path / "in" / f"{i}.png", seed=i)
    words = ("in", *OPTIONS, "--out", "out", "--workers", 1)
    first = start(*words, program=HANGS_AT_THE_THIRD)
    wait_until((tmp_path / "hanging").exists, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert len(rows(tmp_path / "out" / "slides.csv")) == 2
    (tmp_path / "out" / "tiles").mkdir(exist_ok=True)
    left = tmp_path / "out" / "tiles" / f".3.partial-{os.uname().nodename}-0badc0de.h5"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    both = [start(*words), start(*words)]
    for process in both:
        said, _ = process.communicate(timeout=LIMIT_SECONDS)
        assert process.returncode == 0, said.decode()
    found = rows(tmp_path / "out" / "slides.csv")
    assert set(found) == {str(i) for i in range(12)}
    for id, row in found.items():
        assert len(read_tiling(tmp_path / "out" / "tiles" / f"{id}.h5")) == int(row["tiles"]) > 0
    assert not list((tmp_path / "out").rglob(".*"))
    assert len(list((tmp_path / "out" / "overviews").iterdir())) == 12


def test_tiling_imports_no_network_library(tmp_path):
    write_slide(tmp_path / "a.png")
    program = (
        "import sys; from medsoft.cli.main import main; "
        "code = main(['slides', 'tile', 'a.png', '--mpp', '4', '--tile', '16', '--slide-mpp', '4', '--out', 'out']); "
        "print(code, sorted({'torch', 'timm', 'lightning', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


# Real slides


def test_real_slides_and_damaged_ones(medsoft, shared_data, tmp_path):
    """Every file is accounted for, and what cannot be used says why in one line."""
    run_tile(medsoft, shared_data / "wsi", shared_data / "malformed", "--mpp", 0.5, "--tile", 256, code=3)
    found = rows(tmp_path / "out" / "slides.csv")
    assert found["CMU-1-Small-Region"]["tiles"] == "45"
    assert found["cmu-1-150kB-zeroed"]["status"] == "tiled"
    assert "cannot be read in the overview" in found["cmu-1-150kB-zeroed"]["warnings"]
    for row in found.values():
        assert row["status"] in ("tiled", "no tissue", "failed")
        assert bool(row["reason"]) == (row["status"] != "tiled")
        assert "\n" not in row["reason"]


def test_counts_on_the_cmu_slide(shared_data):
    """Beside those of other tools in docs/experiments/tissue.md."""
    with open_source(SlideSource("cmu", shared_data / "wsi" / "CMU-1-Small-Region.svs")) as slide:
        counts = [
            len(tile_slide(slide, settings)[0])
            for settings in (
                TileSettings(0.5, 256),
                TileSettings(1.0, 256),
                TileSettings(0.5, 256, 64),
                TileSettings(0.5, 256, min_tissue=0),
                TileSettings(0.5, 256, tissue=TissueSettings(method="everything")),
            )
        ]
    assert counts == [45, 11, 85, 88, 88]
