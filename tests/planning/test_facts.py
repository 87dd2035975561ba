"""What a plan says of a table: sizes, channels, borders, and what looks wrong."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from medsoft.data.tables.sample_table import read_table
from medsoft.planning.facts import border_share, look_at
from tests.builders.images import write_images


def test_borders_are_measured():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    assert border_share(image) == 0
    framed = np.zeros((60, 100, 3), np.uint8)
    framed[10:50, 25:75] = image
    assert border_share(framed) == pytest.approx(1 - 2000 / 6000)
    noisy = np.clip(framed + np.random.default_rng(1).integers(0, 4, framed.shape), 0, 255).astype(np.uint8)
    assert border_share(noisy) == border_share(framed)
    assert border_share(np.full((9, 9, 1), 7, np.uint8)) == 1


def test_counts_sizes_and_what_looks_wrong(tmp_path):
    table = write_images(tmp_path, 12, per_patient=2)
    shutil.copy(tmp_path / "images/im000.png", tmp_path / "images/im005.png")
    (tmp_path / "images/im007.png").write_bytes(b"no picture")
    samples = read_table(str(table), positive="light", patient="patient", on_error="keep")
    split = np.where(samples.frame["patient"].isin(["P000", "P001"]), "test", "train")
    found = look_at(samples.with_split(split), "image")
    assert (found.rows, found.test_rows, found.groups, found.test_groups, found.grouped_by) == (8, 4, 4, 2, "patient")
    assert found.classes == {"dark": (4, 2), "light": (4, 2)}
    assert found.rarest[1] == 2
    assert found.pictures.n == 11
    assert found.pictures.long_side == 48
    assert not found.pictures.is_grey
    assert found.same == 1
    said = "\n".join(found.in_words())
    assert "12 images, binary" in said
    assert "Size: 40 × 48 px" in said
    assert "8 images of 4 patients" in said
    assert "WARNING: 1 pictures cannot be read" in said
    assert "1 pair of pictures are identical" in said


def test_grey_pictures_in_colour_are_told(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    rows = []
    for i in range(4):
        grey = rng.integers(0, 256, (20, 24), dtype=np.uint8)
        Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / f"{i}.png")
        rows.append({"path": f"{i}.png", "label": "ab"[i % 2]})
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    found = look_at(read_table(str(tmp_path / "t.csv"), positive="a"), "image")
    assert found.pictures.is_grey
    assert found.pictures.grey_in_colour == 4
    assert "grey in fact" in "\n".join(found.in_words())
    assert any("patients are not named" in note for note in found.notes)
