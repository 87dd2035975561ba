"""Nothing needs a network or the repository: whole runs of the installed wheel in a process whose sockets refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.images import TINY
from tests.builders.slides import write_slide
from tests.builders.waiting import LIMIT_SECONDS

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


def without_network(installed: Path, log: Path, lines: list[list[object]]) -> subprocess.CompletedProcess[str]:
    words = json.dumps([[str(word) for word in line] for line in lines])
    command = [sys.executable, "-m", "tests.builders.without_network", str(log), words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{installed}:{ROOT}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def test_the_guard_guards(tmp_path):
    code = (
        "import pathlib, sys, urllib.request; from tests.builders.without_network import block; "
        "block(pathlib.Path(sys.argv[1])); urllib.request.urlopen('http://127.0.0.1:9')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "look up 127.0.0.1" in (tmp_path / "log").read_text()


def test_everything_runs_without_a_network_and_without_the_repository(installed, tmp_path):
    table = tmp_path / "eyes" / "labels.csv"
    data = [f"--data.table={table}", "--data.label=label", "--data.num_workers=1", *TINY]
    bags = write_slides(tmp_path / "bags")
    features = tmp_path / "bags" / "features"
    (tmp_path / "scans").mkdir()
    write_slide(tmp_path / "scans" / "a.tif", 0)
    encoder = ["--encoder", "test_efficientnet", "--encoder-init", "random", "--device", "cpu", "--tile", 32]
    done = without_network(
        installed,
        tmp_path / "log",
        [
            ["data", "phantom", "fundus", "--out", table.parent, "--n", 12],
            [
                *("fit", "--config", "fundus", *data, "--data.positive=lesions", "--data.patient=patient"),
                *("--trainer.max_epochs=1", f"--out={tmp_path / 'run'}"),
            ],
            ["predict", f"--checkpoint={tmp_path / 'run'}", *data, f"--out={tmp_path / 'predicted'}"],
            ["export", tmp_path / "run", "--out", tmp_path / "bundle", "--licence", "CC0-1.0"],
            ["predict", f"--bundle={tmp_path / 'bundle'}", *data[:2], f"--out={tmp_path / 'of_bundle'}"],
            ["evaluate", tmp_path / "predicted" / "predictions.csv", "--out", tmp_path / "evaluation"],
            ["slides", "tile", tmp_path / "scans", "--mpp", 1, "--tile", 32, "--out", tmp_path / "work"],
            ["slides", "encode", tmp_path / "scans", *encoder, "--mpp", 1, "--out", tmp_path / "work"],
            [
                *("fit", *TINY_BAGS, f"--data.table={bags}", f"--data.features={features}"),
                *("--trainer.max_epochs=1", f"--out={tmp_path / 'slides'}"),
            ],
            [
                "slides",
                "predict",
                *sorted(features.iterdir())[:4],
                "--checkpoint",
                tmp_path / "slides",
                "--out",
                tmp_path / "answers",
            ],
        ],
    )
    attempts = (tmp_path / "log").read_text() if (tmp_path / "log").is_file() else ""
    assert attempts == "", attempts
    assert done.stdout.startswith(f"{installed / 'medsoft'}\n")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert (tmp_path / "predicted" / "predictions.csv").is_file()
    assert (tmp_path / "of_bundle" / "predictions.csv").is_file()
    assert (tmp_path / "answers" / "predictions.csv").is_file()
