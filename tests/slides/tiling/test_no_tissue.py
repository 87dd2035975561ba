"""A run that finds no tissue where there must be some says so at its end, and is no success."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medsoft.data.images.write_pyramid import write_pyramid
from medsoft.slides.tiling.tissue import why_colourless

LOUD = "NO TISSUE ON {} OF {} SLIDES"


def write(path: Path, kind: str) -> Path:
    """640 x 512 px at 1 µm/px."""
    noise = np.random.default_rng(0).integers(-15, 15, (512, 640, 3))
    pixels = np.full((512, 640, 3), 243, np.uint8)
    if kind != "glass":
        pixels[60:450, 60:580] = np.clip(np.array([190, 100, 170]) + noise[60:450, 60:580], 0, 255)
    if kind == "grey":
        pixels = np.repeat(pixels.mean(axis=2).astype(np.uint8)[..., None], 3, axis=2)
    if kind == "black":
        pixels //= 16  # 12 bits of which the upper 8 were kept
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, (640, 512), lambda x, y, w, h: pixels[y : y + h, x : x + w], 1.0, downsamples=(1, 4))
    return path


WORDS = {
    "tile": [],
    "encode": ["--encoder", "resnet10t", "--encoder-init", "random", "--device", "cpu"],
}


@pytest.fixture
def run(medsoft, tmp_path):
    def call(verb: str, *kinds: str) -> tuple[int, list[str]]:
        for number, kind in enumerate(kinds):
            write(tmp_path / "in" / f"{number}.tif", kind)
        code, out, err = medsoft(
            "slides", verb, tmp_path / "in", "--mpp", 1, "--tile", 64, "--out", tmp_path / "out", *WORDS[verb]
        )
        assert code in (0, 3), err
        return code, out.splitlines()

    return call


@pytest.mark.parametrize("verb", WORDS)
@pytest.mark.parametrize(
    ("kinds", "code", "said"),
    [
        (["glass"], 3, LOUD.format(1, 1)),
        (["glass", "glass", "tissue"], 3, LOUD.format(2, 3)),
        (["glass", "tissue", "tissue"], 0, "No tissue on 1 of 3 slides"),
        (["grey", "tissue", "tissue"], 3, "No tissue on 1 of 3 slides"),
        (["grey", "black"], 3, LOUD.format(2, 2)),
    ],
)
def test_no_tissue_is_said_in_the_last_lines(run, tmp_path, verb, kinds, code, said):
    for again in range(2):  # a second run, of which an earlier one has done the work, is no better
        got, lines = run(verb, *kinds)
        assert got == code, (again, lines)
        assert any(said in line for line in lines[-5:]), lines
        if said.isupper():
            assert "overviews" in "".join(lines[-4:])
            assert "--tissue.method everything" in lines[-1]
    if {"grey", "black"} & set(kinds):
        with (tmp_path / "out" / "errors.csv").open(newline="") as file:
            reasons = {row["id"]: row["reason"] for row in csv.DictReader(file)}
        for number, kind in enumerate(kinds):
            if kind in ("grey", "black"):
                assert {"grey": "is grey", "black": "is nearly black"}[kind] in reasons[str(number)]
                assert "--tissue.method everything" in reasons[str(number)]


def test_photographs_in_grey_can_be_tiled_where_that_is_asked_for(medsoft, tmp_path):
    words = ["--mpp", 1, "--tile", 64, "--tissue.method", "everything", "--out", tmp_path / "out"]
    code, out, _ = medsoft("slides", "tile", write(tmp_path / "a.tif", "grey"), *words)
    assert (code, "is grey" in out) == (0, False)
    code, out, _ = medsoft("slides", "tile", write(tmp_path / "b.tif", "black"), *words)
    assert (code, "is nearly black" in out) == (0, True)


@pytest.mark.parametrize("level", [0, 3, 40, 128, 200, 243, 255])
def test_a_bare_glass_is_not_called_grey_and_a_dark_picture_is_not_called_glass(level):
    why = why_colourless(np.full((50, 60, 3), level, np.uint8))
    assert (why is None) == (level > 190)
    assert level >= 32 or "nearly black" in why


def test_colour_anywhere_is_enough():
    image = np.full((100, 100, 3), 120, np.uint8)
    image[:5, :5, 0] = 200
    assert why_colourless(image) is None


def test_a_real_slide_in_grey_is_refused(shared_data, medsoft, tmp_path):
    from medsoft.slides.reading.slide import open_slide

    with open_slide(shared_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        overview = slide.overview(2.0)
    assert why_colourless(overview) is None
    Image.fromarray(overview).convert("L").save(tmp_path / "grey.png")
    resolution = {"resolution": (5_000, 5_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "grey.tif", np.asarray(Image.open(tmp_path / "grey.png")), **resolution)
    code, out, _ = medsoft("slides", "tile", tmp_path / "grey.tif", "--mpp", 2, "--tile", 64, "--out", tmp_path / "out")
    assert code == 3
    assert "as the slide is grey" in out
    assert LOUD.format(1, 1) in out


def test_what_could_not_be_read_says_nothing_of_the_colours():
    image = np.full((700, 60, 3), (220, 120, 170), np.uint8)
    gaps = np.ones(image.shape[:2], bool)
    gaps[600:] = False
    image[:600] = 255
    image[600:] = 120
    assert "is grey" in why_colourless(image, gaps)
    assert why_colourless(np.where(gaps[..., None], 120, (220, 120, 170)).astype(np.uint8), gaps) is None
