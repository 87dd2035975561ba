"""Slides to feature files: whole or not at all, in order, whatever breaks in between."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from medsoft.data.features.open import open_bag
from medsoft.data.images.write_pyramid import write_pyramid
from medsoft.errors import TileError
from medsoft.slides.encoding.prefetch import prefetch
from medsoft.slides.encoding.resume import is_of_slide
from medsoft.slides.find import find_slides
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.reading.slide import Slide
from medsoft.slides.source import SlideInput, SlideSource
from medsoft.slides.tiling.settings import TileSettings
from tests.builders.coloured_slides import SETTINGS, Colours, encode, features, picture, statuses, write_slide
from tests.builders.waiting import LIMIT_SECONDS, wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def slides(tmp_path) -> list[SlideSource]:
    return [write_slide(tmp_path / "slides" / f"Schnitt {i} ä.png", i) for i in range(3)]


@pytest.fixture
def folder(tmp_path) -> SlidesFolder:
    return SlidesFolder(tmp_path / "out")


def errors(folder: SlidesFolder) -> list[dict[str, str]]:
    if not folder.errors_csv.is_file():
        return []
    with folder.errors_csv.open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(folder: SlidesFolder) -> set[str]:
    return {path.name for path in folder.features("x").parent.glob("*")}


def test_each_tile_gets_its_features(slides, folder):
    slide_statuses = encode(slides, folder)
    for source, slide_status in zip(slides, slide_statuses, strict=True):
        with open_bag(folder.features(source.id)) as bag:
            pixels = np.asarray(Image.open(source.path))
            tiles = np.stack([pixels[y : y + 64, x : x + 64] for x, y in bag.coords_N2_px0])
            np.testing.assert_allclose(bag.read(), Colours()(tiles).astype(np.float16), atol=1e-3)
            assert bag.good_N.all()
            facts = bag.facts
        assert (slide_status.status, slide_status.tiles, slide_status.unreadable) == ("encoded", len(tiles), 0)
        assert (facts.slide, facts.encoder, facts.encoder_sha256) == (source.path.name, "colours", "ab" * 32)
        assert (facts.tile_settings, facts.mpp, facts.precision) == (SETTINGS.as_dict(), 1.0, "float32")
    assert statuses(folder) == {source.id: "encoded" for source in slides}
    assert not errors(folder)


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (7, 4), (1000, 2)])
def test_batch_and_workers_change_nothing(slides, folder, tmp_path, batch, workers):
    encode(slides, folder)
    other = SlidesFolder(tmp_path / "other")
    encode(reversed(slides), other, batch_size=batch, workers=workers)
    for source in slides:
        assert np.array_equal(features(folder, source.id), features(other, source.id))


def test_the_next_slide_is_read_while_this_one_is_encoded(slides, folder, monkeypatch):
    read, of_the_next = Slide.read_tile, threading.Event()

    def read_tile(self, *where):
        if self.name == slides[1].path.name:
            of_the_next.set()
        return read(self, *where)

    class Waiting(Colours):
        def __call__(self, images_BHWC):
            if len(self.batches) == 9:  # ten batches of five a slide: the last one
                assert of_the_next.wait(timeout=LIMIT_SECONDS)
            return super().__call__(images_BHWC)

    monkeypatch.setattr(Slide, "read_tile", read_tile)
    slide_statuses = encode(slides[:2], folder, Waiting())
    assert [slide_status.status for slide_status in slide_statuses] == ["encoded", "encoded"]
    assert slide_statuses[0].tiles > 45


def test_finished_slides_are_left_as_they_are(slides, folder):
    encode(slides[:2], folder)
    before = {path: path.stat().st_mtime_ns for path in folder.features("x").parent.iterdir()}
    encoder = Colours()
    slide_statuses = encode(slides, folder, encoder)
    assert sum(encoder.batches) == slide_statuses[2].tiles
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert statuses(folder) == {source.id: "encoded" for source in slides}


@pytest.mark.parametrize("change", ["content", "settings", "weights", "encoder settings", "resolution", "dtype"])
def test_anything_that_decides_the_features_makes_them_anew(slides, folder, change):
    source = slides[0]
    encode([source], folder)
    encoder, settings, options = Colours(), SETTINGS, {}
    if change == "content":
        write_slide(source.path, 99)
    elif change == "settings":
        settings = replace(SETTINGS, overlap_px=32)
    elif change == "weights":
        encoder.sha256 = "cd" * 32
    elif change == "encoder settings":
        encoder.settings = {"input_px": 32}
    elif change == "resolution":
        source = replace(source, mpp=1.25)
    else:
        options = {"dtype": "float32"}
    slide_status = encode([source], folder, encoder, settings, **options)[0]
    assert sum(encoder.batches) == slide_status.tiles > 0
    assert "replaces a feature file" in slide_status.warnings


def test_a_feature_file_cut_short_is_made_anew(slides, folder):
    encode(slides[:1], folder)
    whole, path = features(folder, slides[0].id), folder.features(slides[0].id)
    path.write_bytes(path.read_bytes()[:-2000])
    assert encode(slides[:1], folder)[0].status == "encoded"
    assert np.array_equal(features(folder, slides[0].id), whole)


def break_tiles(monkeypatch, broken) -> None:
    """Let tiles whose corner satisfies ``broken(x, y)`` be unreadable."""
    read = Slide.read_tile

    def read_tile(self, x_px0, y_px0, size_px, mpp):
        if broken(x_px0, y_px0):
            raise TileError("no light")
        return read(self, x_px0, y_px0, size_px, mpp)

    monkeypatch.setattr(Slide, "read_tile", read_tile)


def test_unreadable_tiles_are_marked_and_counted(slides, folder, monkeypatch):
    break_tiles(monkeypatch, lambda x, y: (x, y) == (128, 128))
    slide_status = encode(slides[:1], folder, max_unreadable=0.1)[0]
    assert (slide_status.status, slide_status.unreadable) == ("encoded", 1)
    with open_bag(folder.features(slides[0].id)) as bag:
        (bad,) = np.flatnonzero(~bag.good_N)
        assert list(bag.coords_N2_px0[bad]) == [128, 128]
        assert np.isnan(bag.read()[bad]).all()
        assert np.isfinite(bag.read()[bag.good_N]).all()


def test_a_batch_without_a_readable_tile(slides, folder, monkeypatch):
    break_tiles(monkeypatch, lambda x, y: y == 128)
    assert encode(slides[:1], folder, batch_size=1, max_unreadable=0.5)[0].unreadable == 8


def test_too_many_unreadable_tiles_fail_the_slide_and_the_rest_goes_on(slides, folder, monkeypatch):
    read = Slide.read_tile

    def read_tile(self, *where):
        if self.name == slides[1].path.name and where[1] > 100:
            raise TileError("no light")
        return read(self, *where)

    monkeypatch.setattr(Slide, "read_tile", read_tile)
    slide_statuses = encode(slides, folder, max_unreadable=0.2)
    assert [slide_status.status for slide_status in slide_statuses] == ["encoded", "failed", "encoded"]
    (error,) = errors(folder)
    assert (error["id"], error["stage"]) == (slides[1].id, "encode")
    assert "cannot be read, more than 0.2 of all" in error["reason"]
    assert "no light" in error["reason"]
    assert files_of(folder) == {f"{slides[i].id}.h5" for i in (0, 2)}


def test_a_slide_of_which_nothing_can_be_read_fails(slides, folder, monkeypatch):
    break_tiles(monkeypatch, lambda x, y: True)
    assert "none of its" in encode(slides[:1], folder, max_unreadable=1)[0].reason
    assert not files_of(folder)


def test_no_tissue_is_no_success_and_no_file(tmp_path, slides, folder):
    glass = write_slide(tmp_path / "glass.png", 0, tissue=(0, 0, 0, 0))
    assert [slide_status.status for slide_status in encode([glass, *slides[:1]], folder)] == ["no tissue", "encoded"]
    assert files_of(folder) == {f"{slides[0].id}.h5"}
    assert statuses(folder)["glass"] == "no tissue"
    assert not errors(folder)


def test_old_features_of_what_has_no_tissue_any_more_are_removed(slides, folder):
    encode(slides[:1], folder)
    write_slide(slides[0].path, 0, tissue=(0, 0, 0, 0))
    assert encode(slides[:1], folder)[0].status == "no tissue"
    assert not files_of(folder)


def test_a_slide_with_one_tile(tmp_path, folder):
    one = write_slide(tmp_path / "one.png", 0, side=(320, 320), tissue=(0, 0, 320, 320))
    slide_status = encode([one], folder, settings=replace(SETTINGS, tile_px=256))[0]
    assert (slide_status.tiles, features(folder, "one").shape) == (1, (1, 9))


def test_a_slide_deleted_after_it_was_tiled(slides, folder):
    encode(slides[1:2], folder)
    for source in slides[:2]:
        source.path.unlink()
    assert [slide_status.status for slide_status in encode(slides, folder)] == ["failed", "failed", "encoded"]
    assert [error["stage"] for error in errors(folder)] == ["open", "open"]
    # What was encoded of it before stays: that it is no longer right cannot be known.
    assert f"{slides[1].id}.h5" in files_of(folder)


def test_a_slide_deleted_while_it_is_encoded(slides, folder, monkeypatch):
    """It ends in features or in a reason, never in half a file."""
    read, deleted = Slide.read_tile, []

    def read_tile(self, *where):
        if not deleted:
            deleted.append(self.path)
            self.path.unlink()
        return read(self, *where)

    monkeypatch.setattr(Slide, "read_tile", read_tile)
    slide_statuses = encode(slides, folder)
    assert slide_statuses[0].status in ("encoded", "failed")
    assert [slide_status.status for slide_status in slide_statuses[1:]] == ["encoded", "encoded"]


def test_an_encoder_that_gives_nan_fails_the_slide_not_the_run(slides, folder):
    class Sick(Colours):
        def __call__(self, images_BHWC):
            found = super().__call__(images_BHWC)
            if len(self.batches) == 2:
                found[0, 0] = np.nan
            return found

    slide_statuses = encode(slides, folder, Sick())
    assert [slide_status.status for slide_status in slide_statuses] == ["failed", "encoded", "encoded"]
    assert "NaN" in slide_statuses[0].reason
    assert len(files_of(folder)) == 2


def test_features_beyond_float16_are_not_stored_as_infinity(slides, folder):
    class Large(Colours):
        def __call__(self, images_BHWC):
            return super().__call__(images_BHWC) * 1e5

    assert "float32" in encode(slides[:1], folder, Large())[0].reason
    assert encode(slides[:1], folder, Large(), dtype="float32")[0].status == "encoded"


def test_an_error_that_nobody_foresaw_is_listed_with_its_name(slides, folder):
    class Picky(Colours):
        def prepare(self, tile_HWC):
            raise ZeroDivisionError("what now")

    slide_statuses = encode(slides, folder, Picky())
    assert {slide_status.reason for slide_status in slide_statuses} == {"ZeroDivisionError: what now"}


def test_an_encoder_that_breaks_ends_the_run_and_leaves_what_was_finished(slides, folder):
    class Breaking(Colours):
        def __call__(self, images_BHWC):
            if sum(self.batches) >= 60:
                raise KeyboardInterrupt
            return super().__call__(images_BHWC)

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        encode(slides, folder, Breaking())
    assert files_of(folder) == {f"{slides[0].id}.h5"}
    wait_until(lambda: not set(threading.enumerate()) - before)


SCRIPT = """
import sys, time
from pathlib import Path
from tests.builders.coloured_slides import Colours, encode
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.source import SlideSource

class Slow(Colours):
    def __call__(self, images_BHWC):
        time.sleep(0.01 if len(self.batches) < int(sys.argv[2]) else 3600)
        return super().__call__(images_BHWC)

sources = [SlideSource(Path(name).stem, Path(name), 1.0, "option") for name in sys.argv[3:]]
encode(sources, SlidesFolder(sys.argv[1]), Slow())
"""


def start(folder: SlidesFolder, batches: int, slides: list[SlideSource]) -> subprocess.Popen:
    """Another process, which comes no further than a number of batches."""
    words = [sys.executable, "-c", SCRIPT, str(folder.path), str(batches), *(str(slide.path) for slide in slides)]
    return subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(
    ("made", "stated", "done"),
    [
        (("ab", 0.5, "file"), None, True),
        (("cd", 0.5, "file"), None, False),
        (("ab", 0.5, "file"), 0.5, True),
        (("ab", 0.5, "file"), 0.25, False),
        (("ab", 0.5, "table"), 0.5, True),
        (("ab", 0.5, "option"), None, False),
    ],
    ids=["same", "content", "stated as found", "stated otherwise", "stated again", "no longer stated"],
)
def test_what_an_earlier_run_made_is_of_the_slide_as_it_is_and_is_stated_now(made, stated, done):
    of_earlier = SimpleNamespace(**dict(zip(("quick_hash", "mpp", "mpp_origin"), made, strict=True)), regions_from="")
    assert is_of_slide(of_earlier, SlideSource("a", Path("a.svs"), stated), "ab") == done


def test_killed_in_the_middle_and_started_again(slides, folder, tmp_path):
    process = start(folder, 15, slides)  # ten a slide: it hangs in the second one
    try:
        wait_until(lambda: folder.features(slides[0].id).is_file() and len(files_of(folder)) > 1, process)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not folder.features(slides[2].id).is_file()
    assert any(name.startswith(".") for name in files_of(folder)), "it was killed while it wrote"
    before = folder.features(slides[0].id).stat().st_mtime_ns

    encoder = Colours()
    encode(slides, folder, encoder)
    assert folder.features(slides[0].id).stat().st_mtime_ns == before
    assert statuses(folder) == {source.id: "encoded" for source in slides}
    once = SlidesFolder(tmp_path / "once")
    encode(slides, once)
    for source in slides:
        assert np.array_equal(features(folder, source.id), features(once, source.id))


def test_two_runs_at_once_on_one_folder(slides, folder, tmp_path):
    process = start(folder, 1000, slides)
    try:
        encode(list(reversed(slides)), folder)
        assert process.wait(timeout=LIMIT_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    once = SlidesFolder(tmp_path / "once")
    encode(slides, once)
    assert files_of(folder) == files_of(once)
    assert statuses(folder) == {source.id: "encoded" for source in slides}
    for source in slides:
        assert np.array_equal(features(folder, source.id), features(once, source.id))


def test_two_slides_of_one_name_in_two_folders(tmp_path, folder):
    for i, name in enumerate(("a", "b")):
        write_slide(tmp_path / "all" / name / "same.png", i)
    sources = find_slides(SlideInput([str(tmp_path / "all")], slide_mpp=1.0))
    encode(sources, folder)
    assert len(files_of(folder)) == 2
    first, second = (features(folder, source.id) for source in sources)
    assert not np.array_equal(first, second)


def test_a_pyramid_is_encoded_at_its_own_resolution(tmp_path, folder):
    pixels = picture(0, (1024, 1024), (100, 100, 900, 900))
    path = tmp_path / "slide.tif"
    write_pyramid(
        path, (1024, 1024), lambda x, y, w, h: pixels[y : y + h, x : x + w], 0.5, downsamples=(1, 2, 4),
        compression="deflate",
    )  # fmt: skip
    slide_status = encode([SlideSource("slide", path)], folder)[0]
    assert (slide_status.status, slide_status.mpp, slide_status.mpp_origin) == ("encoded", 0.5, "tiff resolution")
    with open_bag(folder.features("slide")) as bag:
        assert bag.tile_px0 == 128


def test_real_slides_good_and_bad(shared_data, folder):
    names = ("wsi/CMU-1-Small-Region.svs", "malformed/cmu-1-150kB-zeroed.svs")
    sources = find_slides(SlideInput([str(shared_data / name) for name in names]))
    settings = TileSettings(mpp=0.499, tile_px=256, min_tissue=0)
    good, bad = encode(sources, folder, settings=settings)
    assert (good.status, good.tiles, good.unreadable) == ("encoded", 88, 0)
    assert (bad.status, bad.stage) == ("failed", "encode")
    (bad,) = encode(sources[1:], folder, settings=settings, max_unreadable=0.5)
    assert bad.status == "encoded"
    assert 0.1 < bad.unreadable / bad.tiles < 0.3


def test_items_come_in_order_and_no_more_than_asked_are_made_ahead():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    ahead = prefetch(items(), 3)
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    time.sleep(0.3)
    assert len(made) <= 5 + 3 + 1
    assert list(ahead) == list(range(5, 100))


def test_an_error_comes_in_its_turn_and_an_early_stop_closes_the_source():
    closed = []

    def items(error):
        try:
            yield 1
            yield 2
            if error:
                raise ValueError("third")
            while True:
                yield 3
        finally:
            closed.append(error)

    ahead = prefetch(items(True), 5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(ahead)
    ahead = prefetch(items(False), 2)
    assert next(ahead) == 1
    ahead.close()
    assert closed == [True, False]


# The command line.


@pytest.fixture
def line(medsoft, slides, tmp_path):
    """``medsoft slides encode`` of the three slides with a small random network."""

    def run(*words: object) -> tuple[int, str, str]:
        return medsoft(
            "slides", "encode", tmp_path / "slides", "--encoder", "resnet10t", "--slide-mpp", "1", "--mpp=1",
            "--tile", "64", "--out", tmp_path / "out", "--min-tissue", "0.5", "--device=cpu", *words,
        )  # fmt: skip

    return run


def test_the_command_line(line, slides, folder):
    code, out, _ = line("--encoder-init", "random")
    assert code == 0
    assert "RANDOM weights" in out
    assert "3 slides" in out
    with open_bag(folder.features(slides[0].id)) as bag:
        assert (bag.facts.encoder_init, bag.facts.encoder_sha256, bag.num_features) == ("random", "", 512)
        assert bag.facts.encoder_settings["seed"] == 0
    again = features(folder, slides[1].id)
    folder.features(slides[1].id).unlink()
    code, out, _ = line("--encoder_init=random", "--batch-size", "3", "--workers", "1")
    np.testing.assert_allclose(features(folder, slides[1].id), again, rtol=2e-3, atol=2e-4)
    assert code == 0
    assert out.count(": kept, encoded, ") == 2
    assert "3 slides (2 kept from earlier runs)" in out
    assert (folder.rows()[slides[0].id]["tile_px"], folder.rows()[slides[0].id]["min_tissue"]) == ("64", "0.5")


def test_what_is_not_there_is_said_before_torch_is_imported(slides, tmp_path):
    lines = [
        ["encode", "--encoder=resnet10t", "--mpp=1", "--tile=64", "--weights=nowhere.bin"],
        ["encode", "--encoder=uni2-h"],
        ["predict", "--checkpoint=nowhere"],
        ["predict", "--bundle=nowhere"],
        ["heatmap", "--checkpoint=nowhere"],
        ["encode", "--encoder=uni2-h", "--slide-mpp=-1"],
    ]
    program = (
        "import json, sys; from medsoft.cli.main import main\n"
        "found = {}\n"
        "for verb, *options in json.loads(sys.argv[1]):\n"
        "    code = main(['slides', verb, sys.argv[2], *options, '--out', sys.argv[3]])\n"
        "    found[' '.join([verb, *options])] = [code, *sorted({'torch', 'timm', 'lightning'} & set(sys.modules))]\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(lines), tmp_path / "slides", tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "MEDSOFT_WEIGHTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {" ".join(words): [2] for words in lines}
    assert not (tmp_path / "out").exists()


def test_a_failed_slide_is_exit_code_3(line, slides):
    slides[1].path.write_bytes(b"no picture at all")
    code, out, _ = line("--encoder-init", "random")
    assert code == 3
    assert "1 failed" in out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "has no recipe, and timm's preprocessing"),
        (["--encoder-init=random", "--batch-size", "0"], "batch_size 0 must be 1 or more"),
        (["--encoder-init=random", "--batch", "8"], "--batch is now called --batch_size"),
        (["--encoder-init=random", "--max-unreadable", "2"], "between 0 and 1"),
        (["--encoder-init=random", "--device", "tpu9"], "not on this machine"),
        (["--encoder-init=random", "--encoder-args", "{"], "no JSON"),
        (["--encoder-init=random", "--encoder-args", "[1]"], "names with values"),
        (["--encoder-init=random", "--overlap", "64"], "overlap 64"),
        (["--encoder", "gigapath", "--encoder-init=random", "--weights-sha256", "ab"], "takes no weights"),
        (["--weights", "nowhere.bin", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"], "cannot be read"),
        (["--encoders", "uni"], "unknown option"),
    ],
)
def test_a_wrong_call_is_said_before_anything_is_written(line, folder, words, reason):
    code, _, err = line(*words)
    assert code == 2
    assert reason in err
    assert not folder.path.exists()


def test_photographs_have_no_resolution(medsoft, slides, tmp_path):
    words = ["slides", "encode", tmp_path / "slides", "--encoder", "resnet50-imagenet", "--encoder-init=random"]
    code, _, err = medsoft(*words, "--out", tmp_path / "out", "--slide-mpp=1")
    assert code == 2
    assert "no resolution of its own" in err


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs rights that this user has not")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("room", [300_000, 200_000, 150_000, 90_000, 4096], ids="{} bytes left".format)
def test_a_full_disk_is_one_message_and_the_rest_comes_later(line, slides, tiny_disk, room):
    others = tiny_disk / "others"
    others.write_bytes(bytes(2**20 - room))
    folder = SlidesFolder(tiny_disk / "out")
    code, _, err = line("--encoder-init=random", "--dtype=float32", "--out", folder.path)
    assert code == 1
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert not list(tiny_disk.rglob(".*"))
    for id, status in statuses(folder).items():
        assert status == "encoded"
        assert np.isfinite(features(folder, id)).all()
    others.unlink()
    assert line("--encoder-init=random", "--dtype=float32", "--out", folder.path)[0] == 0
    assert statuses(folder) == {source.id: "encoded" for source in slides}


def test_a_read_only_input_folder(line, slides):
    slides[0].path.parent.chmod(0o555)
    try:
        assert line("--encoder-init=random")[0] == 0
        assert sorted(path.name for path in slides[0].path.parent.iterdir()) == [slide.path.name for slide in slides]
    finally:
        slides[0].path.parent.chmod(0o755)
