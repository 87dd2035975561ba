"""A sample is in a table twice where its pixels are, however they are stored; the rule is one for check and fit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medsoft.data.datasets.image_module import ImageDataModule
from medsoft.data.datasets.volume_module import VolumeDataModule
from medsoft.data.tables.duplicates import NEAR, Content, content_of, nearly_same, perceptual_hash
from medsoft.data.tables.problems import TableError
from medsoft.data.tables.sample_table import read_table
from medsoft.data.transforms.plain import Plain
from medsoft.data.volumes.transforms.recipe import VolumeTransforms


def picture(seed: int, size: int = 96) -> np.ndarray:
    """(size, size, 3) uint8 with structure at several scales, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = [np.kron(rng.normal(size=(n, n, 3)), np.ones((size // n, size // n, 1))) for n in (3, 6, 12, 24)]
    return np.clip(128 + 40 * sum(layers), 0, 255).astype(np.uint8)


def png(pixels: np.ndarray, level: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def tiff(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_lzw")
    return buffer.getvalue()


COPIES = {
    "bytes": ("copy.png", png(picture(1))),
    "re-encoded": ("copy.png", png(picture(1), level=1)),
    "trailing byte": ("copy.png", png(picture(1)) + b"\0"),
    "another format": ("copy.tif", tiff(picture(1))),
}


def write(folder: Path, copy: tuple[str, bytes], label: str) -> Path:
    """Eight pictures in train and val, and a copy of the second in test."""
    for i in range(8):
        (folder / f"{i}.png").write_bytes(png(picture(i)))
    (folder / copy[0]).write_bytes(copy[1])
    Image.fromarray(picture(8)).save(folder / "8.png")
    frame = pd.DataFrame(
        {
            "path": [*[f"{i}.png" for i in range(8)], copy[0], "8.png"],
            "label": [*"abababab", label, "a"],
            "split": ["train"] * 4 + ["val"] * 4 + ["test"] * 2,
        }
    )
    frame.to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def load(table: Path, **options: Any) -> ImageDataModule:
    data = ImageDataModule(Plain(size=16), str(table), positive="b", **options)
    data.load(["train", "val", "test"])
    return data


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize(("label", "kind"), [("b", "duplicate"), ("a", "contradiction")])
def test_check_and_fit_find_the_same_pixels(medsoft, tmp_path: Path, way: str, label: str, kind: str) -> None:
    table = write(tmp_path, COPIES[way], label)
    code, _, err = medsoft("data", "check", table, "--positive=b")
    assert code == 2
    told = "row 9: the same content as row 2" if kind == "duplicate" else "rows 2, 9: the same picture under two labels"
    assert told in err
    for cache in ("memory", "none"):
        with pytest.raises(TableError) as caught:
            load(table, cache=cache)
        assert [problem.kind for problem in caught.value.problems] == [kind]
        assert told in str(caught.value)
    if kind == "duplicate" and way != "bytes":
        data = load(table, on_error="skip")
        assert data.errors["reason"].tolist() == ["duplicate: the same content as row 2"]
        assert [len(data.part(split)) for split in ("train", "val", "test")] == [4, 4, 1]
        assert data.dataset("test")[0]["target"] == 0
        assert len(set(data.contents.values())) == 9
    if kind == "contradiction":
        with pytest.raises(TableError, match="two labels"):
            load(table, on_error="skip")


def test_pictures_of_arrays_are_compared(medsoft, tmp_path: Path) -> None:
    train = np.stack([picture(i, 24) for i in range(4)])
    val = np.stack([picture(9, 24), train[2], picture(7, 24)])
    np.savez(tmp_path / "a.npz", train_images=train, train_labels=[0, 1, 0, 1], val_images=val, val_labels=[1, 0, 1])
    code, _, err = medsoft("data", "check", "a.npz", "--task=binary")
    assert code == 2
    assert "row 6: the same content as row 3" in err
    data = ImageDataModule(Plain(size=16), str(tmp_path / "a.npz"), task="binary")
    with pytest.raises(TableError, match="row 6: the same content as row 3"):
        data.load(["train", "val"])


def test_volumes_are_compared_by_their_voxels(medsoft, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        voxels = rng.normal(size=(8, 8, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{i}.nii.gz")
        if i == 0:
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "copy.nii")
    table = tmp_path / "t.csv"
    table.write_text("path,label,split\n0.nii.gz,a,train\n1.nii.gz,b,train\n2.nii.gz,a,val\n3.nii.gz,b,val\n"
                     "copy.nii,a,test\n")  # fmt: skip
    code, _, err = medsoft("data", "check", table, "--positive=b")
    assert code == 2
    assert "row 5: the same content as row 1" in err
    recipe = VolumeTransforms(size=8, intensity="zscore")
    kept = str(tmp_path / "cache")
    for cache in ("memory", "disk", "disk", "none"):  # the second time from the files
        data = VolumeDataModule(recipe, str(table), positive="b", cache=cache, cache_dir=kept)
        with pytest.raises(TableError, match="row 5: the same content as row 1"):
            data.load(["train", "val", "test"])
    data = VolumeDataModule(VolumeTransforms(size=8, intensity="zscore"), str(table), positive="b", on_error="skip")
    with pytest.raises(TableError, match="the same content"):
        data.load(["train", "val", "test"])  # nothing is left of test


def variants(pixels: np.ndarray) -> dict[str, np.ndarray]:
    image = Image.fromarray(pixels)
    found = {}
    for quality in (95, 50):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        found[f"jpeg {quality}"] = np.array(Image.open(buffer))
    found["half"] = np.array(image.resize((48, 48), Image.Resampling.BOX))
    found["grey"] = np.array(image.convert("L"))[..., None]
    found["16 bits"] = pixels.astype(np.uint16) * 257
    return found


def test_copies_look_alike_and_other_pictures_do_not() -> None:
    def bits(one: np.ndarray, other: np.ndarray) -> int:
        looks = [perceptual_hash(one), perceptual_hash(other)]
        assert looks[0] is not None
        assert looks[1] is not None
        return int(np.bitwise_count(looks[0] ^ looks[1]).sum())

    for seed in range(5):
        for name, other in variants(picture(seed)).items():
            assert bits(picture(seed), other) <= NEAR, name
        assert min(bits(picture(seed), picture(other)) for other in range(5, 15)) > 2 * NEAR
    assert perceptual_hash(np.full((20, 20, 3), 7, np.uint8)) is None


def test_pairs_are_found_in_any_number_and_only_across_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [picture(0), variants(picture(0))["jpeg 50"], picture(1), picture(1), variants(picture(1))["half"]]
    contents: list[Content | None] = [content_of(image) for image in pictures]
    contents.insert(2, None)
    parts = ["train", "val", "val", "train", "train", "train"]
    for at_once in (1, 7, 2**22):
        monkeypatch.setattr("medsoft.data.tables.duplicates.COMPARED_AT_ONCE", at_once)
        assert [(pair.first, pair.second) for pair in nearly_same(contents, parts)] == [(0, 1)]
        everything = nearly_same(contents, range(6))
        assert [(pair.first, pair.second) for pair in everything] == [(0, 1), (3, 5), (4, 5)], "3 and 4 are equal"
    assert nearly_same([None, None], "ab") == []


def test_near_duplicates_in_two_parts_are_warned_of_and_listed(medsoft, tmp_path: Path) -> None:
    pixels = variants(picture(1))["jpeg 95"]
    table = write(tmp_path, ("copy.png", png(pixels)), "b")
    data = load(table)
    note = next(note for note in data.notes if note.startswith("WARNING"))
    assert "1 pair of images in different parts looks nearly the same (train row 2 and test row 9)" in note
    code, out, err = medsoft("data", "check", table, "--positive=b", "--out=d.csv")
    assert (code, err) == (0, "")
    assert "1 pair of images in two splits looks nearly the same" in out
    listed = pd.read_csv("d.csv")
    assert listed[["kind", "row", "row_2", "split", "split_2"]].to_numpy().tolist() == [["near", 2, 9, "train", "test"]]
    assert 0 <= listed["bits"][0] <= NEAR


def test_a_clean_table_has_no_problems_left(medsoft, tmp_path: Path) -> None:
    table = write(tmp_path, COPIES["re-encoded"], "b")
    Image.fromarray(picture(20)).save(tmp_path / "same.png")
    Image.fromarray(picture(20)).save(tmp_path / "same2.png", compress_level=1)
    (tmp_path / "broken.png").write_bytes(png(picture(5))[:300])
    Image.fromarray(variants(picture(3))["half"]).save(tmp_path / "half.png")
    more = [("same.png", "a", "train"), ("same2.png", "b", "train"), ("broken.png", "a", "train"),
            ("gone.png", "a", "val"), ("half.png", "b", "test")]  # fmt: skip
    frame = pd.read_csv(table)
    pd.concat([frame, pd.DataFrame(more, columns=list(frame))]).to_csv(table, index=False)
    code, out, _ = medsoft("data", "check", table, "--positive=b", "--out=d.csv", "--write-clean=clean.csv")
    assert code == 3
    assert "left out: 2 contradiction, 1 duplicate, 1 missing file, 1 near duplicate, 1 unreadable picture" in out
    assert pd.read_csv("d.csv")["kind"].tolist() == ["same", "two labels", "near"]
    clean = pd.read_csv("clean.csv")
    assert clean["path"].tolist() == [*[f"{i}.png" for i in range(8)], "8.png"]
    code, out, err = medsoft("data", "check", "clean.csv", "--positive=b")
    assert (code, err) == (0, "")
    code, _, err = medsoft("data", "check", table, "--positive=b", "--write-clean=clean.csv")
    assert code == 2
    assert "already exists" in err
    code, _, err = medsoft("data", "check", table, "--positive=b", "--out=e.csv", "--decode=false")
    assert (code, "leave out --decode" in err) == (2, True)


def test_a_clean_table_is_not_written_where_rows_do_not_say_what_is_wrong(medsoft, tmp_path: Path) -> None:
    table = write(tmp_path, COPIES["bytes"], "b")
    frame = pd.read_csv(table).assign(patient=[*range(9), 0])
    frame.to_csv(table, index=False)
    code, _, err = medsoft("data", "check", table, "--positive=b", "--patient=patient", "--write-clean=clean.csv")
    assert code == 2
    assert "a patient is in 'test' and 'train'" in err
    assert not Path("clean.csv").exists()


def test_equal_bytes_are_told_once(tmp_path: Path) -> None:
    table = write(tmp_path, COPIES["bytes"], "b")
    problems = read_table(table, positive="b", on_error="keep").problems
    assert [(problem.kind, problem.rows) for problem in problems] == [("duplicate", (9,))]
