from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from medsoft.data.datasets.contact_sheet import contact_sheet, shorten, transforms_sheet
from medsoft.data.transforms import ChestXray, Histology

RED, BLUE = (230, 30, 30), (30, 30, 230)


def plain(colour: tuple[int, int, int], height: int = 20, width: int = 20) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def share(page: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(page.astype(int) - colour).max(axis=2) <= 2).mean())


def read(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def test_pictures_are_drawn_row_by_row(tmp_path: Path) -> None:
    out = tmp_path / "new" / "sheet.png"
    contact_sheet([plain(RED), plain(BLUE), plain(BLUE)], ["a", "b", "c"], 2, "Title", out)
    page = read(out)
    half = page.shape[1] // 2
    assert share(page[: page.shape[0] // 2, :half], RED) > 0.5
    assert share(page[:, half:], RED) == 0
    assert share(page[page.shape[0] // 2 :, half:], BLUE) < 0.05
    assert list(out.parent.iterdir()) == [out]


def test_aspect_is_kept(tmp_path: Path) -> None:
    contact_sheet([plain(RED, 10, 40)], ["wide"], 5, "", tmp_path / "sheet.png")
    rows, columns = np.nonzero((np.abs(read(tmp_path / "sheet.png").astype(int) - RED) <= 2).all(axis=2))
    assert np.ptp(columns) / np.ptp(rows) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_grey_is_stretched_for_the_eye(tmp_path: Path, dtype: type) -> None:
    image = np.full((20, 20, 1), 1000, dtype)
    image[:, 10:] = 1100
    contact_sheet([image], ["16 bits"], 1, "", tmp_path / "sheet.png")
    page = read(tmp_path / "sheet.png")
    assert share(page, (0, 0, 0)) > 0.2
    assert share(page, (255, 255, 255)) > 0.4


def test_captions_may_hold_anything(tmp_path: Path) -> None:
    # Dollars would be typeset as mathematics, and this one does not parse.
    contact_sheet([plain(RED)], ["$\\frac{$_é\n" + "x" * 200], 1, "$^{", tmp_path / "sheet.png")
    assert read(tmp_path / "sheet.png").shape[1] < 300


def test_long_lines_keep_both_ends() -> None:
    line = "patient_0001_" + "x" * 80 + "_left.png"
    assert shorten(line).startswith("patient_0001")
    assert shorten(line).endswith("_left.png")
    assert len(shorten(line)) <= 28
    assert shorten("short") == "short"


def test_a_sheet_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(_: Figure, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    out = tmp_path / "sheet.png"
    out.write_text("old")
    with pytest.raises(OSError, match="no space"):
        contact_sheet([plain(RED)], ["a"], 1, "", out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(("images", "captions"), [([], []), ([plain(RED)], []), ([plain(RED)], ["a", "b"])])
def test_captions_must_match(tmp_path: Path, images: list[np.ndarray], captions: list[str]) -> None:
    with pytest.raises(ValueError, match="caption"):
        contact_sheet(images, captions, 2, "", tmp_path / "sheet.png")
    assert not any(tmp_path.iterdir())


def test_a_row_shows_the_sample_as_read_as_prepared_and_augmented(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    colour = (200, 120, 180)
    transforms = Histology(size=20, jitter=0)
    transforms_sheet([plain(colour, 40, 40), plain(RED)], ["first", "second"], transforms, "H&E", out)
    page = read(out)
    columns = np.array_split(page[: page.shape[0] // 2], 6, axis=1)
    assert [share(column, colour) > 0.3 for column in columns] == [True, True, False, False, False, False]
    for seed, column in enumerate(columns[2:]):
        assert share(column, tuple(transforms.augment(plain(colour), seed)[0, 0])) > 0.3


def test_deep_radiographs_can_be_shown(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 4096, (30, 40, 1)).astype(np.uint16)
    transforms_sheet([image], ["chest"], ChestXray(size=32), "Radiographs", tmp_path / "sheet.pdf")
    assert (tmp_path / "sheet.pdf").read_bytes().startswith(b"%PDF")
