"""Inputs that cannot be read, of every kind, in every place where a verb takes one: exit 2 or 3, never 1 or a trace."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.bags import TINY_BAGS, write_slides
from tests.builders.images import TINY, write_images


def missing(path: Path) -> None:
    pass


def directory(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


def broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def fifo(path: Path) -> None:
    os.mkfifo(path)


INPUTS = [missing, directory, empty, garbage, broken_link, fifo]

# Where the input X is taken; R is a run on images, S one on bags, T and P a good table and good predictions.
PLACES = {
    "fit table": ["fit", "--data.table=X.csv", "--data.classes=[dark, light]", *TINY],
    "fit parquet": ["fit", "--data.table=X.parquet", "--data.classes=[dark, light]", *TINY],
    "fit npz": ["fit", "--data.table=X.npz", "--data.classes=[dark, light]", *TINY],
    "fit config": ["fit", "--config=X.yaml", "--data.table=T"],
    "fit split": ["fit", "--data.table=T", "--data.splits_from=X.csv", "--data.classes=[dark, light]", *TINY],
    "fit resume": ["fit", "--resume=X"],
    "fit weights": ["fit", "--data.table=T", "--model.pretrained=X.pt", "--data.classes=[dark, light]", *TINY],
    "fit features": ["fit", *TINY_BAGS, "--data.table=B", "--data.features=X"],
    "fit clinical": ["fit", *TINY_BAGS, "--data.table=B", "--data.features=F", "--data.clinical=X.csv"],
    "crossval table": ["crossval", "--data.table=X.csv", "--folds=2", "--data.classes=[dark, light]", *TINY],
    "crossval resume": ["crossval", "--resume=X"],
    "test checkpoint": ["test", "--checkpoint=X.ckpt", "--config=R/config.yaml"],
    "test run": ["test", "--checkpoint=X"],
    "predict table": ["predict", "--checkpoint=R", "--data.table=X.csv"],
    "predict bundle": ["predict", "--bundle=X", "--data.table=T"],
    "check": ["data", "check", "X.csv", "--label=label"],
    "split": ["data", "split", "X.csv", "--label=label", "--out=o.csv"],
    "index": ["data", "index", "X", "--out=o.csv"],
    "evaluate": ["evaluate", "X.csv", "--out=o"],
    "evaluate table": ["evaluate", "P", "--table=X.csv", "--out=o"],
    "evaluate locked": ["evaluate", "P", "--locked=X.json", "--out=o"],
    "evaluate card": ["evaluate", "P", "--card=X.yaml", "--out=o", "--draws=20"],
    "evaluate run": ["evaluate", "P", "--run=X", "--out=o"],
    "compare": ["compare", "P", "X.csv", "--out=o"],
    "export": ["export", "X", "--out=o"],
    "tile": ["slides", "tile", "X.svs", "--out=o"],
    "tile table": ["slides", "tile", "X.csv", "--out=o"],
    "encode": ["slides", "encode", "X.svs", "--encoder=resnet18", "--encoder-init=random", "--mpp=0.5", "--out=o"],
    "encode weights": ["slides", "encode", "X.svs", "--encoder=uni", "--weights=X.pt", "--out=o"],
    "slides predict": ["slides", "predict", "X.h5", "--checkpoint=S", "--out=o"],
    "slides predict checkpoint": ["slides", "predict", "F", "--checkpoint=X.ckpt", "--out=o"],
    "slides heatmap": ["slides", "heatmap", "X.h5", "--checkpoint=S", "--out=o"],
    "slides export": ["slides", "export", "X.h5", "--out=o"],
    "weights add": ["weights", "add", "X.pt", "--name=a", "--licence=x", "--source=y", "--folder=o"],
    "weights list": ["weights", "list", "--folder=X"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("made")
    table = write_images(folder / "T", 24)
    words = [f"--data.table={table}", "--data.classes=[dark, light]", *TINY, "--trainer.max_epochs=1", "--report=false"]
    assert main(["fit", *words, f"--out={folder / 'R'}"]) == 0
    slides = write_slides(folder / "B", n=24)
    where = [f"--data.table={slides}", f"--data.features={slides.parent / 'features'}", "--report=false"]
    assert main(["fit", *TINY_BAGS, *where, "--trainer.max_epochs=1", f"--out={folder / 'S'}"]) == 0
    shutil.copy(folder / "R" / "predictions.csv", folder / "P.csv")
    return folder


@pytest.fixture
def call(made, tmp_path, medsoft) -> Callable[[list[str]], tuple[int, str, str]]:
    good = {"T": "T/labels.csv", "B": "B/slides.csv", "F": "B/features", "P": "P.csv", "R": "R", "S": "S"}

    def run(words: list[str]) -> tuple[int, str, str]:
        put = []
        for word in words:
            name, equals, value = word.rpartition("=")
            first, slash, rest = value.partition("/")
            put.append(name + equals + (f"{made / good[first]}{slash}{rest}" if first in good else value))
        return medsoft(*put)

    return run


@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_read_ends_as_documented(tmp_path, call, place):
    words = PLACES[place]
    name = next(word for word in words if word.rpartition("=")[2].startswith("X")).rpartition("=")[2]
    for number, make in enumerate(INPUTS):
        inside = tmp_path / str(number)
        inside.mkdir()
        make(inside / name)
        here = [word.replace(name, str(inside / name)) if word.endswith(name) else word for word in words]
        here = [word.replace("--out=o", f"--out={inside / 'o'}") for word in here]
        here += (
            ["--trainer.max_epochs=1", "--report=false"]
            if here[0] in ("fit", "crossval") and "--resume" not in " ".join(here)
            else []
        )
        code, out, err = call(here)
        what = (place, make.__name__, code, out[-300:], err[-300:])
        assert code in (2, 3) or (place, make.__name__) in HARMLESS, what
        assert "Traceback" not in err, what


HARMLESS = {("weights list", "missing"), ("weights list", "directory"), ("weights list", "broken_link")}
HARMLESS |= {("weights add", "garbage")}  # any bytes are a file; what is in it is found where it is loaded
"""An empty folder of weights is one; a path that is not there becomes one when weights are added."""


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_file_that_may_not_be_read_is_an_input_that_is_wrong(tmp_path, medsoft, monkeypatch, number):
    """As root there is none: the system's answer is put in its mouth."""
    table = tmp_path / "t.csv"
    table.write_text("path,label\n")
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    def refuse(*words: object) -> None:
        raise OSError(number, os.strerror(number), str(table))

    monkeypatch.setattr("medsoft.parsing.parser.run", refuse)
    code, _, err = medsoft("data", "check", table)
    assert code == 2
    assert f"{table}: cannot be read: {os.strerror(number)}" in err
