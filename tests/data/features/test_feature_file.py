"""The feature file: what goes in comes out, whole or not at all, and what is wrong with one is said in a line."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsoft.data.features.native import FeatureWriter, is_complete
from medsoft.data.features.open import open_bag
from medsoft.data.features.provenance import EncoderIdentity
from medsoft.errors import BagError
from medsoft.storage.files import remove_partial_files
from medsoft.storage.hashing import PIECE_BYTES, quick_hash, sha256
from tests.builders.feature_files import FACTS, F, N, numbers, write


@pytest.fixture
def whole(tmp_path) -> Path:
    """A file of 700 tiles, the second and the last unreadable."""
    return write(tmp_path / "whole.h5", *numbers(), bad=(1, N - 1))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_goes_in_comes_out(tmp_path, dtype):
    features, coords = numbers()
    with open_bag(write(tmp_path / "folder" / "a b ä.h5", features, coords, dtype=dtype)) as bag:
        assert (bag.origin, bag.num_tiles, bag.num_features, bag.dtype) == ("medsoft", N, F, dtype)
        np.testing.assert_array_equal(bag.read(), features)
        np.testing.assert_array_equal(bag.read(250, 260), features[250:260])
        np.testing.assert_array_equal(bag.read(690), features[690:])
        assert bag.read().dtype == np.float32
        assert bag.read(5, 5).shape == (0, F)
        assert bag.coords_N2_px0.dtype == np.int64
        np.testing.assert_array_equal(bag.coords_N2_px0, coords)
        np.testing.assert_array_equal(bag.coords_N2_um, (coords * 0.499).astype(np.float32))
        assert bag.good_N.all()
        assert bag.facts == FACTS
        assert bag.identity == FACTS.identity
        assert (bag.mpp, bag.tile_um) == (0.499, 112)
        assert bag.tile_px0 == pytest.approx(112 / 0.499)


def test_the_file_is_what_the_format_says(whole):
    """As another program would read it."""
    with h5py.File(whole) as file:
        assert (file["features"].dtype, file["features"].shape) == (np.float16, (N, F))
        assert file["features"].chunks == (256, F)
        assert (file["coords"].dtype, file["coords"].shape) == (np.int64, (N, 2))
        assert (file["status"].dtype, file["status"].shape) == (np.uint8, (N,))
        assert np.flatnonzero(file["status"]).tolist() == [1, N - 1]
        assert np.isnan(file["features"][1]).all()
        attributes = dict(file.attrs)
    assert attributes["format_version"] == 1
    assert attributes["slide"] == "Präparat 7.svs"
    assert attributes["size_px0"].tolist() == [2220, 2967]
    assert (attributes["tile_px"], attributes["tile_um"], attributes["overlap_px"]) == (224, 112, 32)
    assert attributes["tile_px0"] == pytest.approx(112 / 0.499)


def test_unreadable_tiles_are_nan_whatever_came_with_them_and_never_used(tmp_path):
    features, coords = numbers()
    given = features.copy()
    given[[0, 3, 699]] = 7
    given[4] = np.inf
    bad = [0, 3, 4, 699]
    with open_bag(write(tmp_path / "a.h5", given, coords, bad=bad)) as bag:
        assert np.flatnonzero(~bag.good_N).tolist() == bad
        assert np.isnan(bag.read()[bad]).all()
        pieces = list(bag.chunks(100))
        assert max(len(piece) for piece, _ in pieces) == 100
        np.testing.assert_array_equal(np.concatenate([piece for piece, _ in pieces]), features[bag.good_N])
        np.testing.assert_array_equal(np.concatenate([place for _, place in pieces]), bag.coords_N2_um[bag.good_N])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 600), st.integers(1, 5), st.data())
def test_any_order_and_any_size_of_pieces(tmp_path_factory, n, f, data):
    features, coords = numbers(n, f, seed=n)
    bad_N = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    bad_N[data.draw(st.integers(0, n - 1))] = False
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, n - 1)), max_size=5)) | {0, n})
    pieces = data.draw(st.permutations(list(itertools.pairwise(cuts))))
    path = tmp_path_factory.mktemp("any") / "a.h5"
    with FeatureWriter(path, FACTS, coords, f) as writer:
        for start, stop in pieces:
            writer.write(start, features[start:stop], bad_N[start:stop].astype(np.uint8))
    with open_bag(path) as bag:
        np.testing.assert_array_equal(bag.good_N, ~bad_N)
        np.testing.assert_array_equal(bag.read()[bag.good_N], features[~bad_N])
        assert np.isnan(bag.read()[bad_N]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_refused(tmp_path, value):
    features, coords = numbers()
    features[321, 3] = value
    with pytest.raises(BagError, match="NaN or infinite features for tile 321"):
        write(tmp_path / "a.h5", features, coords)
    assert not list(tmp_path.iterdir())


def test_what_float16_does_not_hold_is_refused_and_not_made_infinite(tmp_path):
    features, coords = numbers()
    features[5, 0] = -70000
    with pytest.raises(BagError, match=r"tile 5 reach 70000, beyond float16 \(±65504\): store them as float32"):
        write(tmp_path / "a.h5", features, coords)
    with open_bag(write(tmp_path / "a.h5", features, coords, dtype="float32")) as bag:
        assert bag.read(5, 6)[0, 0] == -70000


def test_missing_rows_leave_nothing_and_the_older_file_stays(whole):
    before = whole.read_bytes()
    features, coords = numbers()
    with (
        pytest.raises(BagError, match="600 of 700 tiles were not written"),
        FeatureWriter(whole, FACTS, coords, F) as w,
    ):
        w.write(0, features[:100], np.zeros(100, np.uint8))
    with pytest.raises(ZeroDivisionError), FeatureWriter(whole, FACTS, coords, F) as w:
        w.write(0, features, 1 // 0)
    assert whole.read_bytes() == before
    assert list(whole.parent.iterdir()) == [whole]


def test_calls_that_make_no_sense(tmp_path):
    features, coords = numbers()
    with pytest.raises(ValueError, match="at least one tile"):
        FeatureWriter(tmp_path / "a.h5", FACTS, coords[:0], F)
    with pytest.raises(ValueError, match="must be integers"):
        FeatureWriter(tmp_path / "a.h5", FACTS, coords.astype(float), F)
    with pytest.raises(ValueError, match="float16 or float32"):
        FeatureWriter(tmp_path / "a.h5", FACTS, coords, F, "float64")
    for start, rows, status in [(650, 100, 100), (0, 100, 99), (-1, 100, 100)]:
        with (
            pytest.raises(ValueError, match=r"do not fit|one status"),
            FeatureWriter(tmp_path / "a.h5", FACTS, coords, F) as w,
        ):
            w.write(start, features[:rows], np.zeros(status, np.uint8))
    with pytest.raises(ValueError, match="one status"), FeatureWriter(tmp_path / "a.h5", FACTS, coords, F) as w:
        w.write(0, features[:3], np.array([0, 1, 2]))
    assert not list(tmp_path.iterdir())


# Complete, or to be done again


def test_a_complete_file_is_recognised_by_what_is_in_it(whole):
    assert is_complete(whole, FACTS)
    renamed = replace(FACTS, slide="renamed.svs", mpp_origin="option", precision="float32", engine="onnx")
    assert is_complete(whole, renamed)
    assert not is_complete(whole, replace(FACTS, precision="bfloat16"))
    tissue = FACTS.tile_settings | {"tissue": {"method": "everything"}}
    for other in [
        {"quick_hash": "f" * 32},
        {"mpp": 0.25},
        {"size_px0": (1, 1)},
        {"tile_settings": FACTS.tile_settings | {"tile_px": 256}},
        {"tile_settings": tissue},
        {"encoder": "uni"},
        {"encoder_sha256": "cd" * 32},
        {"encoder_init": "random"},
        {"encoder_settings": {}},
    ]:
        assert not is_complete(whole, replace(FACTS, **other)), other
    assert not is_complete(whole, FACTS, dtype="float32")
    assert not is_complete(whole.with_name("missing.h5"), FACTS)
    assert not is_complete(whole.parent, FACTS)


def test_a_file_cut_short_is_recognised_and_redone(whole):
    data = whole.read_bytes()
    for length in [0, 1, 100, len(data) // 2, len(data) - 4096, len(data) - 1]:
        whole.write_bytes(data[:length])
        assert not is_complete(whole, FACTS), length
        with pytest.raises(BagError, match=r"is cut short: [\d,]+ of [\d,]+ bytes|is empty|not an HDF5 file|damaged"):
            open_bag(whole)
    write(whole, *numbers())
    assert is_complete(whole, FACTS)


def test_a_file_of_the_right_length_without_its_rows_is_not_complete(tmp_path):
    features, coords = numbers()
    with h5py.File(write(tmp_path / "whole.h5", features, coords)) as old, h5py.File(tmp_path / "b.h5", "w") as new:
        new.attrs.update(old.attrs)
        new.create_dataset("features", (N, F), "float16", chunks=(256, F))[:256] = features[:256]
        new["coords"], new["status"] = coords, np.zeros(N, np.uint8)
    assert is_complete(tmp_path / "whole.h5", FACTS)
    assert not is_complete(tmp_path / "b.h5", FACTS)
    with pytest.raises(BagError, match="not all rows of 'features' were written"):
        open_bag(tmp_path / "b.h5")


def test_changed_bytes_are_noticed(whole):
    """Wherever a bit turns: the file is refused, or gives what was written."""
    data, (features, coords) = whole.read_bytes(), numbers()
    good_N = ~np.isin(np.arange(N), (1, N - 1))
    reasons = []
    for place in np.random.default_rng(0).integers(0, len(data), 150):
        whole.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            with open_bag(whole) as bag:
                read, px0, good = bag.read(), bag.coords_N2_px0, bag.good_N
        except BagError as error:
            reasons.append(error.reason)
            continue
        np.testing.assert_array_equal(read[good_N], features[good_N])
        np.testing.assert_array_equal(px0, coords)
        np.testing.assert_array_equal(good, good_N)
    assert len(reasons) > 120
    assert not [reason for reason in reasons if "\n" in reason]


def test_damage_in_the_middle_spares_the_rest(whole):
    features, _ = numbers()
    with h5py.File(whole) as file:
        place = file["features"].id.get_chunk_info(1).byte_offset + 1000
    data = bytearray(whole.read_bytes())
    data[place] ^= 0xFF
    whole.write_bytes(data)
    with open_bag(whole) as bag:
        np.testing.assert_array_equal(bag.read(2, 256), features[2:256])
        with pytest.raises(BagError, match=r"damaged: rows 0 to 699 of 'features' cannot be read \(the bytes are not"):
            bag.read()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda f: f.attrs.__setitem__("format_version", 3),
            "version 3.0 of the format, this medsoft .* reads up to 2",
        ),
        (lambda f: f.attrs.__delitem__("quick_hash"), "lacks the attribute quick_hash"),
        (lambda f: f.attrs.__setitem__("tile_settings", "{"), "damaged"),
        (lambda f: f.attrs.__setitem__("tile_settings", "{}"), "damaged"),
        (lambda f: f.attrs.__setitem__("mpp", -1.0), "damaged: a tile is -"),
        (lambda f: f.__delitem__("coords"), "no dataset 'coords': it holds features, status"),
        (lambda f: f.__delitem__("status"), "no dataset 'status'"),
        (lambda f: f["status"].__setitem__(slice(None), 1), "no tile that could be read"),
    ],
)
def test_what_is_missing_is_said(whole, change, reason):
    with h5py.File(whole, "a") as file:
        change(file)
    with pytest.raises(BagError, match=reason):
        open_bag(whole)
    assert not is_complete(whole, FACTS)


def test_what_is_no_feature_file_is_said(tmp_path):
    (tmp_path / "text.h5").write_text("not this")
    for path, reason in [
        (tmp_path / "none.h5", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "text.h5", "HDF5"),
    ]:
        with pytest.raises(BagError, match=reason):
            open_bag(path)
        assert not is_complete(path, FACTS)


def test_a_read_only_folder_can_be_read(whole):
    whole.chmod(0o444)
    whole.parent.chmod(0o555)
    try:
        with open_bag(whole) as bag:
            assert bag.num_tiles == N
    finally:
        whole.parent.chmod(0o755)


# Killed, or two at once, or on a full disk

ROOT = str(Path(__file__).parents[3])
WRITE_SLOWLY = """
import sys, time, numpy as np
sys.path.insert(0, {root!r})
from pathlib import Path
from medsoft.data.features.native import FeatureWriter
from tests.builders.feature_files import FACTS, F, numbers
features, coords = numbers()
with FeatureWriter(Path(sys.argv[1]), FACTS, coords, F) as writer:
    writer.write(0, features[:300], np.zeros(300, np.uint8))
    print("begun", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def writing(tmp_path):
    """Another process in the middle of writing a file."""
    path = tmp_path / "killed.h5"
    program = WRITE_SLOWLY.format(root=ROOT)
    process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    yield process, path
    process.kill()
    process.wait()
    process.stdout.close()


def test_kill_9_leaves_a_hidden_file_that_a_later_run_removes(writing):
    process, path = writing
    (hidden,) = path.parent.iterdir()
    assert hidden.name.startswith(".killed.partial-")
    os.utime(hidden, (0, 0))  # long untouched, but its process lives
    assert remove_partial_files(path.parent) == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_complete(path, FACTS)
    write(path, *numbers())
    assert is_complete(path, FACTS)
    os.utime(hidden, (time.time() + 3600,) * 2)  # just made, however slow the machine: it may be about to be locked
    assert remove_partial_files(path.parent) == []
    os.utime(hidden, (time.time() - 60,) * 2)
    assert remove_partial_files(path.parent) == [hidden]
    assert list(path.parent.iterdir()) == [path]


def test_the_hidden_file_of_another_machine_stays_for_a_day(tmp_path):
    hidden = tmp_path / ".a.partial-elsewhere-12345678.h5"
    hidden.touch()
    os.utime(hidden, (time.time() - 3600,) * 2)
    assert remove_partial_files(tmp_path) == []
    os.utime(hidden, (time.time() - 25 * 3600,) * 2)
    assert remove_partial_files(tmp_path) == [hidden]


def test_the_longest_names_can_be_written(tmp_path):
    assert is_complete(write(tmp_path / f"{'ä' * 126}.h5", *numbers()), FACTS)


def test_two_runs_at_once_never_mix(tmp_path):
    path = tmp_path / "a.h5"
    (one, coords), (two, _) = numbers(seed=1), numbers(seed=2)
    status = np.zeros(100, np.uint8)
    with FeatureWriter(path, FACTS, coords, F) as first:
        with FeatureWriter(path, FACTS, coords, F) as second:
            for start in range(0, N, 100):
                first.write(start, one[start : start + 100], status)
                second.write(start, two[start : start + 100], status)
        with open_bag(path) as bag:
            np.testing.assert_array_equal(bag.read(), two)
    with open_bag(path) as bag:
        np.testing.assert_array_equal(bag.read(), one)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_one_error_and_leaves_room_for_others(tiny_disk):
    """In a process of its own: after a disk is full, HDF5 left to itself crashes when the process ends."""
    program = f"""
        import sys
        sys.path.insert(0, {ROOT!r})
        from pathlib import Path
        from medsoft.data.features.native import is_complete
        from tests.builders.feature_files import FACTS, numbers, write
        disk = Path({str(tiny_disk)!r})
        for room in (0, 4096, 100_000, 900_000):
            (disk / "others").write_bytes(bytes(2**20 - 8192 - room))
            try:
                write(disk / "a.h5", *numbers(20_000, 100))
            except OSError as error:
                assert (error.errno, error.filename) == (28, str(disk / "a.h5")), error
            else:
                raise AssertionError("it was written")
            assert [file.name for file in disk.iterdir()] == ["others"]
        (disk / "others").unlink()
        write(disk / "b.h5", *numbers())
        assert is_complete(disk / "b.h5", FACTS)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Encoders


def test_bags_of_one_encoder_go_together():
    """Whatever the slide, its scanner, the machine that encoded, and the order and kind of the numbers in settings."""
    assert replace(FACTS, slide="b", mpp=0.25, precision="float32").identity == FACTS.identity
    settings = dict(reversed(FACTS.tile_settings.items())) | {"tile_px": 224.0}
    assert replace(FACTS, tile_settings=settings).identity == FACTS.identity
    assert replace(FACTS, encoder_settings={"input_px": 224, "mean": (0.485, 0.456, 0.406)}).identity == FACTS.identity
    assert FACTS.identity.differences(FACTS.identity) == []


def test_what_differs_between_encoders_is_said():
    tissue = replace(FACTS, tile_settings=FACTS.tile_settings | {"tissue": {"method": "everything"}})
    assert FACTS.identity.differences(tissue.identity) == ["tiles.tissue.method 'everything', not 'saturation'"]
    random = replace(FACTS, encoder_init="random", encoder_sha256="")
    assert FACTS.identity.differences(random.identity) == [f"weights 'random weights', not '{'ab' * 32}'"]
    bare = replace(FACTS, encoder="uni", encoder_settings={})
    assert FACTS.identity.differences(bare.identity) == [
        "encoder 'uni', not 'resnet18'",
        "settings.input_px not known, not 224",
        "settings.mean not known, not [0.485, 0.456, 0.406]",
    ]
    other = EncoderIdentity("stamp", "uni", "cd" * 32, tiles='{"tile_px": 224}')
    assert FACTS.identity.differences(other) == ["origin 'stamp', not 'medsoft'", "encoder 'uni', not 'resnet18'"]
    assert str(FACTS.identity).startswith("resnet18, weights abababababab, tiles {")
    assert str(random.identity).startswith("resnet18, random weights, tiles {")


# Hashes


def test_the_quick_hash_sees_size_head_and_tail(tmp_path):
    path = tmp_path / "slide"
    data = bytearray(np.random.default_rng(0).bytes(3 * PIECE_BYTES))
    path.write_bytes(data)
    first = quick_hash(path)
    assert len(first) == 32
    for place in (0, PIECE_BYTES - 1, 2 * PIECE_BYTES, len(data) - 1):
        changed = data.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        assert quick_hash(path) != first
    path.write_bytes(data[:PIECE_BYTES] + bytes(PIECE_BYTES) + data[2 * PIECE_BYTES :])
    assert quick_hash(path) == first  # the middle is not read
    path.write_bytes(data[:PIECE_BYTES] + data[2 * PIECE_BYTES :])
    assert quick_hash(path) != first


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES - 1])
def test_every_byte_of_a_short_file_counts(tmp_path, size):
    path = tmp_path / "a"
    path.write_bytes(bytes(size))
    hashes = {quick_hash(path)}
    for place in {0, size // 2, size - 1} if size else ():
        path.write_bytes(bytes(place) + b"x" + bytes(size - place - 1))
        hashes.add(quick_hash(path))
    assert len(hashes) == 1 + len({0, size // 2, size - 1} if size else ())
    with pytest.raises(FileNotFoundError):
        quick_hash(tmp_path / "none")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_memory_does_not_grow_with_the_bag(tmp_path):
    """200,000 tiles of 256 features are 205 MB as float32; here they are written and read piece by piece."""
    program = f"""
        import resource, sys
        sys.path.insert(0, {ROOT!r})
        import numpy as np
        from medsoft.data.features.native import FeatureWriter
        from medsoft.data.features.open import open_bag
        from tests.builders.feature_files import FACTS
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        features, status = np.ones((400, 256), np.float32), np.zeros(400, np.uint8)
        with FeatureWriter("a.h5", FACTS, np.zeros((200_000, 2), int), 256) as writer:
            for start in range(0, 200_000, 400):
                writer.write(start, features, status)
        with open_bag("a.h5") as bag:
            tiles = sum(len(piece) for piece, _ in bag.chunks())
        print(tiles, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    tiles, megabytes = map(int, done.stdout.split())
    assert tiles == 200_000
    assert megabytes < 70


def test_torch_is_not_needed():
    """Feature files are read and written without it (tensors of CLAM are the exception)."""
    program = "import sys, medsoft.data.features.open, medsoft.cli.slides.export; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
