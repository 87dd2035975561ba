"""Pictures of one value are problems, and 16-bit pictures that use a few bits are told where they are read."""

import imagecodecs
import nibabel
import numpy as np
import pytest
import tifffile

from medsoft.data.images.pixel_facts import PixelFacts
from medsoft.data.images.read import is_constant
from tests.builders.images import TINY


def write_deep(folder, bits: int, n: int = 8):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(n):
        pixels = rng.integers(0, 2**bits, (20, 24), dtype=np.uint16)
        pixels[0, 0] = 2**bits - 1
        if index % 2:
            tifffile.imwrite(folder / f"{index}.tif", pixels)
        else:
            (folder / f"{index}.tif").write_bytes(imagecodecs.png_encode(pixels))  # the name says nothing
    rows = "".join(f"{index}.tif,{'ab'[index % 2]}\n" for index in range(n))
    (folder / "t.csv").write_text("path,label\n" + rows)
    return folder / "t.csv"


@pytest.mark.parametrize(("bits", "told"), [(12, True), (13, True), (14, False), (16, False)])
def test_data_check_tells_of_few_bits(tmp_path, medsoft, bits, told):
    code, out, _ = medsoft("data", "check", write_deep(tmp_path / "set", bits), "--positive", "b")
    assert code == 0
    assert ("--transforms.window 1,99" in out) == told
    if told:
        assert (
            f"8 pictures are stored in 16 bits, and the highest value of all is {2**bits - 1}, which {bits} bits" in out
        )


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_fit_tells_of_few_bits_unless_a_window_is_set(tmp_path, medsoft, cache):
    table = write_deep(tmp_path / "set", 12, n=12)
    words = [
        "fit",
        f"--data.table={table}",
        "--data.positive=b",
        *TINY,
        "--trainer.max_epochs=1",
        f"--data.cache={cache}",
    ]
    code, out, err = medsoft(*words, "--data.num_workers=0", f"--out={tmp_path / 'a'}")
    assert code == 0, err
    assert "12 pictures are stored in 16 bits" in out
    assert "set transforms.window" in out
    if cache == "memory":
        code, out, err = medsoft(*words, "--transforms.window=[1, 99]", f"--out={tmp_path / 'b'}")
        assert code == 0, err
        assert "stored in 16 bits" not in out


def test_constant_pictures_and_volumes_are_told_with_their_rows(tmp_path, medsoft):
    varied = np.random.default_rng(0).integers(0, 255, (9, 9), dtype=np.uint8)
    pictures = {"a": np.full((9, 9), 7, np.uint8), "b": varied}
    for name, pixels in pictures.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
        nibabel.save(nibabel.Nifti1Image(np.stack([pixels] * 3, axis=-1), np.eye(4)), tmp_path / f"{name}.nii")
    for suffix, what in (("tif", "picture"), ("nii", "volume")):
        (tmp_path / f"{suffix}.csv").write_text(f"path,label\nb.{suffix},x\na.{suffix},y\n")
        code, out, err = medsoft("data", "check", tmp_path / f"{suffix}.csv", "--positive", "y")
        assert code == 2, out
        assert f"constant {what}" in err
        assert "row 2: has the same value" in err


def test_constant_means_one_value_in_grey_and_one_colour_in_colour():
    assert is_constant(np.full((4, 5, 1), 3))
    assert is_constant(np.tile(np.array([1, 2, 3], np.uint8), (4, 5, 1)))
    assert not is_constant(np.arange(12).reshape(2, 2, 3))
    odd = np.zeros((30, 40, 50), np.float32)
    assert is_constant(odd, axes=3)
    odd[29, 39, 48] = 1
    assert not is_constant(odd, axes=3)


def test_only_16_bit_pictures_count_and_the_brightest_decides():
    facts = PixelFacts()
    facts.look("a", np.full((2, 2, 1), 9, np.uint8))
    assert facts.depth_note() == ""
    facts.look("b", np.array([[[5]], [[9]]], np.uint16))
    assert "1 picture is stored in 16 bits, and the highest value is 9, which 4 bits hold" in facts.depth_note()
    facts.look("c", np.array([[[5]], [[9000]]], np.uint16))
    assert facts.depth_note() == ""
