"""A stop that is asked for always ends the run, whatever a thread is doing: reading for ever among it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from medsoft.data.images.write_pyramid import write_pyramid
from medsoft.slides.encoding import prefetch as ahead
from medsoft.slides.encoding.prefetch import DaemonPool, each_in_threads
from tests.builders.waiting import LIMIT_SECONDS, wait_until

HANG = """
import sys, time
from pathlib import Path
from medsoft.slides.encoding import prefetch as ahead
from medsoft.slides.reading.slide import Slide
ahead.PATIENCE_SECONDS = 0.3

def hang(*args):
    Path("hanging").touch()
    time.sleep(3600)

setattr(Slide, sys.argv[1], hang)
"""
TILE = """
from medsoft.cli.main import main
sys.exit(main(["slides", "tile", "in", "--mpp=0.5", "--tile=64", "--out=out"]))
"""
ENCODE = """
import numpy as np
from medsoft.system.signals import Stopped
from medsoft.slides.folder import SlidesFolder
from medsoft.slides.tiling.settings import TileSettings, TissueSettings
from medsoft.slides.find import find_slides
from medsoft.slides.source import SlideInput
from tests.builders.coloured_slides import encode

class Mean:
    name, sha256, init, precision, num_features, settings = "mean", "ab" * 32, "weights", "float32", 3, {}
    engine = "torch"
    expect = staticmethod(lambda tiles: None)
    prepare = staticmethod(lambda tile: tile)
    __call__ = staticmethod(lambda images: images.mean((1, 2), dtype=np.float32))

try:
    settings = TileSettings(0.5, 64, tissue=TissueSettings("everything"))
    encode(find_slides(SlideInput(["in"])), SlidesFolder("out"), Mean(), settings)
except Stopped as stop:
    print(stop)
    sys.exit(128 + stop.signal)
"""


@pytest.mark.parametrize(
    ("number", "where", "program"),
    [
        (signal.SIGTERM, "overview_and_gaps", TILE),
        (signal.SIGINT, "overview_and_gaps", TILE),
        (signal.SIGTERM, "overview_and_gaps", ENCODE),
        (signal.SIGTERM, "read_tile", ENCODE),
    ],
    ids=["SIGTERM, tile", "Ctrl-C, tile", "encode, finding tissue", "encode, reading tiles"],
)
def test_a_stop_ends_a_run_in_which_a_read_hangs(tmp_path, number, where, program):
    for name in ("a", "b", "c"):
        pixels = np.full((256, 256, 3), (190, 100, 170), np.uint8)
        path = tmp_path / "in" / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        write_pyramid(path, (256, 256), lambda x, y, w, h, p=pixels: p[y : y + h, x : x + w], 0.5, downsamples=(1,))
    process = subprocess.Popen(
        [sys.executable, "-c", HANG + program, where],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until((tmp_path / "hanging").exists, process)
        process.send_signal(number)
        said, _ = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 128 + number, said.decode()
    assert b"Run the same command again to continue" in said
    assert b"Traceback" not in said


def test_results_come_as_they_are_done_and_errors_reach_the_caller():
    def work(item: int) -> int:
        if item == 7:
            raise ValueError("seven")
        return item * item

    assert sorted(each_in_threads(work, range(7), 3, lambda: None)) == [(n, n * n) for n in range(7)]
    assert list(each_in_threads(work, [], 3, lambda: None)) == []
    begun = []
    with pytest.raises(ValueError, match="seven"):
        list(each_in_threads(lambda n: begun.append(n) or work(n), range(7, 1000), 1, lambda: None))
    assert begun == [7]


def test_what_the_look_raises_ends_the_wait(monkeypatch):
    monkeypatch.setattr(ahead, "PATIENCE_SECONDS", 0.1)
    release = threading.Event()

    def look() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(each_in_threads(lambda _: release.wait(LIMIT_SECONDS), [1], 1, look))
    release.set()


def test_a_pool_of_daemons_keeps_the_order_and_leaves_out_what_has_not_begun():
    pool = DaemonPool(2, "test")
    futures = [pool.submit(lambda n: n + 1, n) for n in range(20)]
    assert [future.result() for future in futures] == list(range(1, 21))
    failed = pool.submit(lambda n: 1 // n, 0)
    assert isinstance(failed.exception(), ZeroDivisionError)
    pool.close()
    assert pool.submit(lambda n: n, 1).done() is False  # nobody takes it any more
