"""Files of our own that were cut short, altered or exchanged: one sentence and exit 2, in every reader."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from medsoft.classifiers.load import load_classifier
from medsoft.classifiers.slide import load_slide_classifier
from medsoft.errors import InputError
from medsoft.evaluation.locked import LOCKED, read_locked
from medsoft.evaluation.report.run import read_run
from medsoft.evaluation.tables.read import read_parts
from medsoft.runs.bundle import WEIGHTS, Bundle, sums_of
from medsoft.runs.checkpoint_io import AtomicCheckpointIO
from medsoft.runs.checkpoint_paths import ABOUT, PLAN, SUMS
from medsoft.runs.crossval_folder import CrossvalFolder
from medsoft.storage.weights_folder import WeightsFolder
from medsoft.task import Task
from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.images import TINY, write_images

pytestmark = pytest.mark.long

CHOICES: list[Any] = [None, True, -1, 0, 1.5, "", "word", [], [1], {}, {"a": 1}]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run on images with its bundle, a run on bags, and the plan of a cross-validation."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("made")
    table = write_images(folder / "set", 24)
    labels = [f"--data.table={table}", "--data.classes=[dark, light]", *TINY]
    assert main(["fit", *labels, "--trainer.max_epochs=1", "--report=true", f"--out={folder / 'run'}"]) == 0
    assert main(["export", str(folder / "run"), "--out", str(folder / "bundle")]) == 0
    slides = write_slides(folder / "bags", n=24)
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}", f"--out={folder / 'slides'}"]
    assert main(["fit", *TINY_BAGS, *where, "--trainer.max_epochs=1", "--report=false"]) == 0
    assert (folder / "bundle" / LOCKED).is_file()
    return folder


@pytest.fixture
def own(tmp_path, made) -> Path:
    """All of it, to spoil."""
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


def altered(values: Any) -> Iterator[Any]:
    """The values with each of them, at any depth, exchanged for one of another kind, or left out."""
    places: list[tuple[Any, ...]] = []

    def walk(value: Any, place: tuple[Any, ...]) -> None:
        inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
        for key, inner in inside:
            places.append((*place, key))
            walk(inner, (*place, key))

    walk(values, ())
    for number, place in enumerate(places):
        for choice in [*CHOICES[number % 4 :: 4], "gone"]:
            changed = copy.deepcopy(values)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            if choice == "gone":
                del holder[place[-1]]
            else:
                holder[place[-1]] = choice
            yield changed


def refused_or_read(read: Callable[[], object]) -> bool:
    """Whether it was refused; whatever else is raised fails the test."""
    said = []
    try:
        read()
    except InputError as error:
        said.append(str(error))
    assert "\n" not in "".join(said)
    return bool(said)


def spoil(file: Path, read: Callable[[], object]) -> None:
    """Not a file, empty, cut short, other bytes."""
    good = file.read_bytes()
    for bad in (b"", good[: len(good) // 2], b"\x00\xff\xfe" * 100, b"[]", b"null", b"{"):
        file.write_bytes(bad)
        assert refused_or_read(read), bad
    file.unlink()
    file.mkdir()
    assert refused_or_read(read)
    file.rmdir()
    file.write_bytes(good)
    read()


def readers(own: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Each kind of JSON file of ours, and who reads it."""
    locked, task = own / "run" / "evaluation" / "locked.json", Task.of("binary", ("dark", "light"))
    weights = own / "weights" / "weights.json"
    weights.parent.mkdir()
    about = {"file": "a.bin", "sha256": "ab" * 32, "bytes": 3, "licence": "", "source": "", "recipe": ""}
    weights.write_text(json.dumps({"format": 1, "weights": {"a": about}}))
    plan = own / "cv" / PLAN
    plan.parent.mkdir()
    fold = {"number": 0, "repeat": 0, "name": "0", "seed": 0, "n": {"train": 3}, "sha256": "ab" * 32}
    plan.write_text(json.dumps({"format": 1, "design": {}, "config": {}, "folds": [fold]}))
    return {
        "locked": (locked, lambda: read_locked(locked, task)),
        "weights": (weights, lambda: WeightsFolder(weights.parent)),
        "plan": (plan, lambda: CrossvalFolder.existing(plan.parent).folds),
        "facts": (own / "run" / "facts.json", lambda: read_run(own / "run").unit),
        "versions": (own / "run" / "versions.json", lambda: read_run(own / "run")),
    }


@pytest.mark.parametrize("name", ["locked", "weights", "plan", "facts", "versions"])
def test_json_files_in_any_state_are_read_or_refused(own, name):
    file, read = readers(own)[name]
    spoil(file, read)
    good = json.loads(file.read_text())
    refused = 0
    for bad in altered(good):
        file.write_text(json.dumps(bad))
        refused += refused_or_read(read)
    assert refused or name == "versions"  # of which nothing is needed


def seal(bundle: Path) -> None:
    (bundle / SUMS).write_text(sums_of(bundle))


def test_a_bundle_with_right_sums_and_wrong_contents_is_refused(own):
    bundle = own / "bundle"
    good = json.loads((bundle / ABOUT).read_text())
    needed = {name: good[name] for name in good if name in ("format", "model", "encoder")}
    refused = 0
    for bad in altered(needed):
        (bundle / ABOUT).write_text(json.dumps({**good, **bad} if bad.keys() == needed.keys() else bad))
        seal(bundle)
        refused += refused_or_read(lambda: Bundle(bundle).locked())
    assert refused > 10
    (bundle / ABOUT).write_text(json.dumps(good))
    weights = load_file(bundle / WEIGHTS)
    for bad in ({}, {name: value[..., :1] for name, value in weights.items()}, {"other": torch.ones(2)}):
        save_file({name: value.contiguous() for name, value in bad.items()}, bundle / WEIGHTS)
        seal(bundle)
        assert refused_or_read(lambda: load_classifier(Bundle(bundle)))
    (bundle / WEIGHTS).write_bytes(b"no weights")
    seal(bundle)
    assert refused_or_read(lambda: load_classifier(Bundle(bundle)))


WRONG = {
    "temperature 0": {"recalibration": {"method": "temperature", "temperatures": [0.0], "steps": [], "notes": []}},
    "negative": {"recalibration": {"method": "temperature", "temperatures": [-2.0], "steps": [], "notes": []}},
    "NaN": {"recalibration": {"method": "temperature", "temperatures": [float("nan")], "steps": [], "notes": []}},
    "none": {"recalibration": {"method": "temperature", "temperatures": [], "steps": [], "notes": []}},
    "method": {"recalibration": {"method": "magic", "temperatures": [1.0], "steps": [], "notes": []}},
    "unsorted": {
        "recalibration": {
            "method": "isotonic", "temperatures": [], "steps": [{"x": [0.0, 0.9, 0.4], "y": [0, 0.5, 1]}], "notes": []
        }
    },
    "falling": {
        "recalibration": {
            "method": "isotonic", "temperatures": [], "steps": [{"x": [0.0, 0.4, 0.9], "y": [0, 0.5, 0.1]}], "notes": []
        }
    },
    "outside": {
        "recalibration": {"method": "isotonic", "temperatures": [], "steps": [{"x": [0, 1], "y": [0, 2]}], "notes": []}
    },
    "uneven": {
        "recalibration": {"method": "isotonic", "temperatures": [], "steps": [{"x": [0, 1], "y": [0]}], "notes": []}
    },
    "threshold 3": {"points": [{"class_name": "light", "rule": "youden", "threshold": 3.0}]},
    "threshold -1": {"points": [{"class_name": "light", "rule": "youden", "threshold": -1.0}]},
    "threshold NaN": {"points": [{"class_name": "light", "rule": "youden", "threshold": float("nan")}]},
    "class": {"points": [{"class_name": "blue", "rule": "youden", "threshold": 0.5}]},
    "level": {"level": "ward"},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_locked_is_refused_by_every_verb(own, medsoft, name):
    """Sums are right, so that nothing else tells."""
    for file in (own / "bundle" / LOCKED, own / "run" / "evaluation" / "locked.json"):
        values = json.loads(file.read_text())
        for part in values["chosen"]:
            part.update(WRONG[name])
        file.write_text(json.dumps(values))
    seal(own / "bundle")
    with pytest.raises(InputError, match=r"locked\.json: not a locked\.json"):
        Bundle(own / "bundle").locked()
    words = [f"--predictions={own / 'run' / 'predictions.csv'}", f"--locked={own / 'bundle' / LOCKED}"]
    code, _, err = medsoft("evaluate", *words, f"--out={own / 'e'}")
    assert code == 2
    assert "Traceback" not in err
    assert not (own / "e").exists()


def test_checkpoints_that_were_cut_short_or_altered_are_refused(own):
    for kind, load in (("run", AtomicCheckpointIO().load_checkpoint), ("slides", load_slide_classifier)):
        file = own / kind / "checkpoints" / "best.ckpt"
        spoil(file, lambda load=load, file=file: load(file))
        good = bytearray(file.read_bytes())
        before = AtomicCheckpointIO().load_checkpoint(file)["state_dict"]
        rng = np.random.default_rng(0)
        for at in rng.integers(len(good) // 10, len(good) * 9 // 10, 6):
            bad = bytearray(good)
            bad[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(bad)
            if not refused_or_read(lambda load=load, file=file: load(file)):
                # A byte between the members of the archive, which says nothing.
                after = AtomicCheckpointIO().load_checkpoint(file)["state_dict"]
                assert all(torch.equal(before[key], after[key]) for key in before)
        file.write_bytes(good)
        state = torch.load(file, weights_only=True)
        known = state["medsoft"]
        n = 0
        for bad in altered(known):
            torch.save({**state, "medsoft": bad}, file)
            n += refused_or_read(lambda load=load, file=file: load(file))
        assert n > 10


def test_predictions_cut_short_or_altered_are_recognised_beside_their_run(own, medsoft):
    file = own / "run" / "predictions.csv"
    good = file.read_text()
    rows = good.splitlines(keepends=True)
    shutil.copy(file, own / "mine.csv")
    for bad in ("".join(rows[:-2]), "".join(rows[:1] + rows[2:]), good.replace("dark", "light", 1)):
        file.write_text(bad)
        with pytest.raises(InputError, match="is not as the run wrote it"):
            read_parts([own / "run"])
        for words in (["evaluate", own / "run"], ["compare", file, own / "mine.csv"]):
            code, _, err = medsoft(*words, "--out", own / "out")
            assert code == 2
            assert "is not as the run wrote it" in err
    read_parts([own / "mine.csv"])
    file.write_text(good)
    assert len(read_parts([own / "run"]).frame) == len(rows) - 1


def test_the_file_of_a_split_that_was_altered_stops_its_fold(tmp_path, medsoft):
    table = write_images(tmp_path / "set", 16)
    words = ["crossval", f"--data.table={table}", "--data.classes=[dark, light]", *TINY, f"--out={tmp_path / 'cv'}"]
    code, _, err = medsoft(*words, "--trainer.max_epochs=1", "--folds=2", "--fold=0")
    assert code == 0, err
    split = tmp_path / "cv" / "splits" / "fold-1.csv"
    frame = pd.read_csv(split)
    frame["split"] = frame["split"].to_numpy()[::-1]
    frame.to_csv(split, index=False)
    code, _, err = medsoft("crossval", "--resume", tmp_path / "cv", "--fold", "1")
    assert code == 2
    assert "fold-1.csv: was altered" in err


def test_a_table_of_slides_that_was_altered_is_one_sentence(tmp_path):
    from medsoft.slides.folder import SlidesFolder

    folder = SlidesFolder(tmp_path)
    for bad in (b"", b"\xff\xfe\x00", b"a,b\n1,2\n", b"id,status,tiles\na,encoded,many\n", b'id,status\n"a'):
        folder.slides_csv.write_bytes(bad)
        if bad != b'id,status\n"a':
            assert refused_or_read(folder.slide_statuses)
    folder.slides_csv.unlink()
    folder.slides_csv.mkdir()
    assert refused_or_read(folder.slide_statuses)
