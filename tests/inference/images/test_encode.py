"""``medsoft encode``: one feature file an image or volume, whole or not at all, whatever breaks in between."""

import csv
import json
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsoft.cluster.client import Cluster
from medsoft.data.features.open import open_bag
from medsoft.errors import InputError
from medsoft.inference.images import encode as encode_module
from medsoft.inference.images.encode import encode_images
from medsoft.inference.images.folder import ImagesFolder
from medsoft.inference.images.options import ImageInput
from medsoft.inference.images.samples import find_samples
from tests.builders.volumes import write_volumes

CONVOLUTIONAL = ("--encoder=test_resnet", "--encoder-init=random", "--input-px=32")
TRANSFORMER = ("--encoder=test_vit", "--encoder-init=random", "--input-px=32")


@pytest.fixture
def images(tmp_path) -> Path:
    """Five photographs of two sizes, and their table without labels."""
    rng = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    names = [f"raw/bild {i} ä.png" for i in range(5)]
    for i, name in enumerate(names):
        size = (70, 100, 3) if i % 2 else (64, 64, 3)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / name)
    table = tmp_path / "table.csv"
    table.write_text("path,eye\n" + "".join(f"{name},left\n" for name in names), encoding="utf-8")
    return table


@pytest.fixture
def encode(medsoft, tmp_path):
    """The verb into ``out``; gives the exit code, all output, and the folder."""

    def run(table, *words, encoder=CONVOLUTIONAL, code=0):
        got, out, err = medsoft("encode", table, *encoder, f"--out={tmp_path / 'out'}", "--device=cpu", *words)
        assert got == code, (got, out, err)
        return out + err, ImagesFolder(tmp_path / "out")

    return run


def rows(folder):
    with folder.encoded_csv.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def errors(folder):
    with folder.errors_csv.open(newline="", encoding="utf-8") as file:
        return {row["id"]: (row["stage"], row["reason"]) for row in csv.DictReader(file)}


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.features("x").parent.iterdir()}


def test_each_image_gets_its_tokens_its_vector_and_a_row(images, encode):
    said, folder = encode(images, "--size=64")
    assert "tokens of 96 features; RANDOM weights" in said
    assert "Prepared as plain, 64 x 64 px" in said
    assert "5 of 5 images encoded, 20 tokens" in said
    found = rows(folder)
    assert list(found) == [f"bild {i} ä" for i in range(5)]
    assert {row["status"] for row in found.values()} == {"encoded"}
    assert (found["bild 1 ä"]["size"], found["bild 1 ä"]["tokens"], found["bild 1 ä"]["eye"]) == (
        "100 x 70",
        "4",
        "left",
    )
    assert not folder.errors_csv.exists()
    with open_bag(folder.features("bild 0 ä")) as bag:
        assert (bag.num_tiles, bag.num_features, bag.pooled.shape, bag.unit, bag.cell) == (
            4,
            96,
            (1, 96),
            "px",
            (32, 32),
        )
        assert bag.facts.name == "bild 0 ä.png"
        assert bag.coords.tolist() == [[0, 0], [32, 0], [0, 32], [32, 32]]
        np.testing.assert_allclose(bag.read().mean(axis=0), bag.pooled[0], rtol=0.01, atol=0.01)


def test_a_size_that_is_no_multiple_of_a_token_is_filled_up_and_one_below_a_token_refused(images, encode, tmp_path):
    said, folder = encode(images, "--size=70")
    assert "Prepared as plain, 70 x 70 px; 70 is no multiple of a token's 32 px: filled up with black to 96" in said
    assert {row["tokens"] for row in rows(folder).values()} == {"9"}
    shutil.rmtree(tmp_path / "out")
    for words in (("--size=31",), ("--size=20", "--aspect=keep")):
        said, folder = encode(images, *words, code=2)
        assert "is less than the 32 px of one token of test_resnet: give 32 or more" in said
        assert not folder.path.exists()
    assert "multiple" not in encode(images, "--size=64")[0]


def test_a_second_run_keeps_what_is_done_and_encodes_what_changed(images, encode):
    _, folder = encode(images)
    before = contents(folder)
    said, _ = encode(images)
    assert "5 of 5 images encoded (5 kept from earlier runs)" in said
    assert contents(folder) == before
    Image.fromarray(np.full((64, 64, 3), 9, np.uint8) * np.arange(64, dtype=np.uint8)[:, None, None]).save(
        images.parent / "raw/bild 2 ä.png"
    )
    said, _ = encode(images)
    assert "(4 kept from earlier runs)" in said
    assert rows(folder)["bild 2 ä"]["warnings"].startswith("replaces a feature file of other content")
    after = contents(folder)
    assert [name for name in before if before[name] != after[name]] == ["bild 2 ä.h5"]


@pytest.mark.parametrize(
    ("words", "encoder"),
    [
        (("--size=96",), CONVOLUTIONAL),
        (("--transforms=dermoscopy",), CONVOLUTIONAL),
        (("--tokens=false",), CONVOLUTIONAL),
        (("--views=1",), CONVOLUTIONAL),
        (("--dtype=float32",), CONVOLUTIONAL),
        ((), TRANSFORMER),
    ],
)
def test_another_preparation_or_encoder_encodes_again(images, encode, words, encoder):
    _, folder = encode(images)
    said, _ = encode(images, *words, encoder=encoder)
    assert "kept" not in said
    assert {row["warnings"][:8] for row in rows(folder).values()} == {"replaces"}
    assert "(5 kept" in encode(images, *words, encoder=encoder)[0]


def test_views_depend_on_the_image_and_the_seed_alone(images, encode, tmp_path):
    _, folder = encode(images, "--views=2", "--transforms=dermoscopy", "--dtype=float32")
    first = contents(folder)
    with open_bag(folder.features("bild 0 ä")) as bag:
        assert bag.num_views == 2
        assert bag.read_view(0).shape == bag.read().shape
        assert not np.array_equal(bag.read_view(0), bag.read_view(1))
        pooled = bag.read_pooled_views()
    lines = images.read_text(encoding="utf-8").splitlines()
    images.write_text("\n".join([lines[0], *reversed(lines[1:])]), encoding="utf-8")
    for file in folder.features("x").parent.iterdir():
        file.unlink()
    encode(images, "--views=2", "--transforms=dermoscopy", "--dtype=float32", "--batch-size=1")
    with open_bag(folder.features("bild 0 ä")) as bag:
        np.testing.assert_allclose(bag.read_pooled_views(), pooled, rtol=1e-4, atol=1e-5)
    encode(images, "--views=2", "--seed=1", "--transforms=dermoscopy", "--dtype=float32")
    with open_bag(folder.features("bild 0 ä")) as bag:
        assert not np.allclose(bag.read_pooled_views(), pooled, rtol=1e-3)
    assert len(first) == 5


def test_pooled_vectors_alone(images, encode):
    said, folder = encode(images, "--tokens=false", "--size=native")
    assert "one vector of 96" in said
    with open_bag(folder.features("bild 1 ä")) as bag:
        assert (bag.num_tiles, bag.coords, bag.facts.cell) == (1, None, ())


def test_large_images_are_read_in_windows_by_transformers_too(images, encode):
    said, folder = encode(images, "--size=native", encoder=TRANSFORMER)
    assert "windows of 32 px that overlap by" in said
    with open_bag(folder.features("bild 1 ä")) as bag:
        assert (bag.num_tiles, bag.cell) == (5 * 7, (16, 16))
    said, _ = encode(images, "--size=native", "--window=64", encoder=TRANSFORMER, code=2)
    assert "takes 32 px and no other size" in said


def png_header(width, height) -> bytes:
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_what_cannot_be_encoded_is_listed_and_the_rest_goes_on(images, encode):
    raw = images.parent / "raw"
    _, folder = encode(images)
    (raw / "bild 0 ä.png").write_bytes(b"not a picture")
    (raw / "bild 1 ä.png").write_bytes(png_header(50_000, 50_000))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 90, 3), dtype=np.uint8)).save(raw / "bild 2 ä.png")
    said, _ = encode(images, "--size=native", code=3)
    assert "2 of 5 images encoded" in said
    assert "3 failed:" in said
    found = errors(folder)
    assert found["bild 0 ä"][0] == "open"
    assert "is not a picture" in found["bild 0 ä"][1]
    assert "more pixels than the limit of 89478485 (max_pixels)" in found["bild 1 ä"][1]
    assert "medsoft slides encode reads it tile by tile" in found["bild 1 ä"][1]
    assert "shows 90 x 20 pixels, less than the 32 of one token of the encoder: give a --size" in found["bild 2 ä"][1]
    assert sorted(contents(folder)) == ["bild 3 ä.h5", "bild 4 ä.h5"]  # older ones would be taken for these
    encode(images, "--max-pixels=100", code=3)
    assert len(errors(folder)) == 5


def test_rows_without_a_file_stop_the_run_or_are_listed(images, encode):
    images.write_text(images.read_text(encoding="utf-8") + "raw/none.png,left\n", encoding="utf-8")
    said, folder = encode(images, code=2)
    assert "missing file" in said
    said, _ = encode(images, "--on-error=skip", code=3)
    assert "5 of 5 images encoded" in said
    assert errors(folder)["none"][0] == "table"


def test_features_that_are_no_numbers_fail_their_image_alone(images, encode, monkeypatch):
    from medsoft.encoders.encoder import Encoder

    whole = Encoder.pooled_and_tokens

    def broken(self, images_BHWC):
        pooled, tokens = whole(self, images_BHWC)
        tokens[images_BHWC.reshape(len(images_BHWC), -1).max(axis=1) < 50] = np.nan
        return pooled, tokens

    monkeypatch.setattr(Encoder, "pooled_and_tokens", broken)
    dark = np.random.default_rng(0).integers(0, 40, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(dark).save(images.parent / "raw/bild 3 ä.png")
    _, folder = encode(images, code=3)
    assert errors(folder)["bild 3 ä"][0] == "encode"
    assert "NaN or infinite features for token 0" in errors(folder)["bild 3 ä"][1]
    assert len(contents(folder)) == 4


def test_a_disk_without_room_is_told_before_the_work(images, encode, monkeypatch):
    monkeypatch.setattr(encode_module, "free_bytes", lambda _: 1000)
    for words in ((), ("--size=native",), ("--tokens=false",)):
        said, folder = encode(images, *words, code=2)
        assert "the features of 5 images need about" in said
        assert "a smaller --size, fewer --views" in said
        assert not folder.path.exists()


def test_a_disk_that_fills_leaves_nothing_half_written(images, encode, monkeypatch):
    from medsoft.data.features.new_hdf5 import _Disk

    write, written = _Disk.write, []

    def full(self, data):
        if len({id(disk) for disk in [*written, self]}) > 2:
            self._error = self._error or OSError(28, "No space left on device", "third file")
        written.append(self)
        return write(self, data)

    monkeypatch.setattr(_Disk, "write", full)
    said, folder = encode(images, code=1)
    assert "No space left on device; everything saved before is kept" in said
    assert sorted(contents(folder)) == ["bild 0 ä.h5", "bild 1 ä.h5"]
    monkeypatch.undo()
    said, _ = encode(images)
    assert "(2 kept from earlier runs)" in said


def test_the_same_can_be_done_to_new_images(images, encode, tmp_path):
    words = ("--config=dermoscopy", "--transforms-args={fit: crop}", "--size=64", "--views=1")
    _, folder = encode(images, *words)
    kept = json.loads(folder.encode_json.read_text(encoding="utf-8"))
    assert kept["settings"]["preparation"]["transforms"] == "dermoscopy"
    settings, identity = folder.read_settings()
    found = find_samples(ImageInput(str(images)))
    result = encode_images(found.samples, settings, str(tmp_path / "new"))
    assert result.failed == 0
    assert result.encoding.identity == identity
    for sample in found.samples:
        with open_bag(folder.features(sample.id)) as one, open_bag(result.folder.features(sample.id)) as other:
            assert one.facts == other.facts
            np.testing.assert_allclose(one.pooled, other.pooled, rtol=1e-4, atol=1e-5)
    folder.encode_json.write_text("{}")
    with pytest.raises(InputError, match="is damaged; encode the images again"):
        folder.read_settings()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--encoder=nothing", "--encoder-init=random"), "nothing"),
        ((*CONVOLUTIONAL, "--size=0"), "size 0"),
        ((*CONVOLUTIONAL, "--size=native", "--aspect=keep"), "leave out --aspect"),
        ((*CONVOLUTIONAL, "--window=50"), "window 50: not a multiple of the 32 px"),
        ((*CONVOLUTIONAL, "--transforms=volume"), "volume is for volumes, and these are images"),
        ((*CONVOLUTIONAL, "--transforms=nothing"), "there is no transforms 'nothing'"),
        ((*CONVOLUTIONAL, "--config=nothing"), "no shipped configuration"),
        ((*CONVOLUTIONAL, "--transforms-args={colour: 1}"), "plain has no colour; it has size"),
        ((*CONVOLUTIONAL, "--transforms-args={fit: 1, jitter: 7}"), "jitter"),
        ((*CONVOLUTIONAL, "--id=eye"), "duplicate id"),
        ((*CONVOLUTIONAL, "--path=nothing"), "nothing"),
        ((*CONVOLUTIONAL, "--mask=eye"), "are for volumes"),
    ],
)
def test_calls_that_are_wrong_are_told_before_the_work(images, medsoft, tmp_path, words, message):
    code, out, err = medsoft("encode", images, *words, f"--out={tmp_path / 'out'}", "--device=cpu")
    assert code == 2
    assert message in err, err
    assert not (tmp_path / "out").exists(), out


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (["config.yaml"], "the folder of a run"),
        (["config.yaml", "crossval.json"], "the folder of a cross-validation"),
        (["config.yaml", "auto.json"], "the folder of medsoft auto"),
        (["config.yaml", "bundle.json", "SHA256SUMS"], "a bundle"),
    ],
)
def test_the_folder_of_a_run_gets_no_features(images, medsoft, tmp_path, files, what):
    for name in files:
        (tmp_path / name).write_text("")
    code, _, err = medsoft("encode", images, "--encoder=efficientnet-lite0", "--out", tmp_path)
    assert (code, f"is {what}" in err) == (2, True), err
    assert not (tmp_path / "encode.json").exists()


def test_volumes_are_read_slice_by_slice(tmp_path, encode):
    table = write_volumes(tmp_path, 3)
    said, folder = encode(table, "--size=64", "--step=4", "--views=1")
    assert "Prepared as volume, every 4. slice across z at 64 x 64 px" in said
    assert "3 of 3 volumes encoded" in said
    with open_bag(folder.features("case00_0")) as bag:
        assert (bag.num_tiles, bag.num_views, bag.unit) == (4 * 4, 1, "mm")
        assert bag.coords.shape == (16, 3)
    settings, _ = folder.read_settings()
    assert settings.channels == (1,)
    Path(tmp_path / "volumes/case01_0.nii.gz").write_bytes(b"nothing")
    _, folder = encode(table, "--size=64", "--step=4", "--views=1", code=3)
    assert list(errors(folder)) == ["case01_0"]


def test_several_volumes_of_a_row_become_channels_where_the_encoder_has_as_many(tmp_path, encode):
    table = write_volumes(tmp_path, 2, phases=3)
    said, folder = encode(table, "--size=64", "--step=8")
    assert "2 of 2 volumes encoded" in said
    table = write_volumes(tmp_path / "two", 2, phases=2)
    said, _ = encode(table, "--size=64", code=2)
    assert "volumes of 2 channels have no slices of 3" in said
    assert len(contents(folder)) == 2


@pytest.fixture
def pretended_workers(monkeypatch):
    """Tasks are pickled and done here, a few at a time; an image that is all dark kills its worker."""

    def each(self, function, tasks):
        for number, task in enumerate(pickle.loads(pickle.dumps(list(tasks)))):
            is_dark = any(np.asarray(Image.open(sample.path)).max() < 50 for sample in task[1])
            yield [(number, None if is_dark else function(*task))]

    monkeypatch.setattr(Cluster, "map", each)
    monkeypatch.setattr(encode_module, "AT_ONCE", 2)


def test_several_processes_give_the_same_and_one_that_dies_takes_no_other_with_it(
    images, encode, tmp_path, pretended_workers
):
    _, folder = encode(images, "--size=64", "--dtype=float32")
    one = {name: open_bag(folder.features(name)).read() for name in rows(folder)}
    dark = np.random.default_rng(0).integers(0, 40, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(dark).save(images.parent / "raw/bild 2 ä.png")
    said, _ = encode(images, "--size=64", "--dtype=float32", "--jobs=2", f"--out={tmp_path / 'two'}", code=3)
    assert "4 of 5 images encoded, 16 tokens" in said
    other = ImagesFolder(tmp_path / "two")
    assert set(rows(other)) == set(rows(folder))
    assert "also when it was alone" in errors(other)["bild 2 ä"][1]
    for name in set(one) - {"bild 2 ä"}:
        np.testing.assert_allclose(open_bag(other.features(name)).read(), one[name], rtol=1e-4, atol=1e-5)
