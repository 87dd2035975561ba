"""Slides of an object store: the same tiles, features and predictions as of files, fetched as seldom as can be."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medsoft.evaluation.tables.predictions import read_predictions
from medsoft.slides.find import find_slides
from medsoft.slides.source import SlideInput
from medsoft.slides.tiling.tiling_file import read_tiling
from medsoft.storage import remote
from tests.builders.object_store import put, record_fetches, remove
from tests.builders.slides import ENCODER, TILES, write_checkpoint, write_slide

BUCKET = "bucket-of-test-remote-slides"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two slides, here and in a store; the folder in which they are encoded; and a checkpoint for them."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("made")
    (folder / "slides").mkdir()
    for seed, name in enumerate("ab"):
        write_slide(folder / "slides" / f"{name}.tif", seed)
        put(f"{BUCKET}/x/{name}.tif", (folder / "slides" / f"{name}.tif").read_bytes())
    words = ["slides", "encode", folder / "slides", *ENCODER, *TILES, "--out", folder / "work"]
    assert main([str(word) for word in words]) == 0
    write_checkpoint(folder / "abmil.ckpt", folder / "work" / "features" / "a.h5")
    yield folder
    remove(BUCKET)


@pytest.fixture
def fetches(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setenv(remote.FOLDER, str(tmp_path / "fetched"))
    return record_fetches(monkeypatch)


def write_table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["path,patient", *rows]) + "\n")
    return path


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_predictions_are_those_of_the_files_and_each_is_fetched_once(medsoft, made, fetches, tmp_path):
    tail = ["--checkpoint", made / "abmil.ckpt", "--out"]
    code, _, err = medsoft("slides", "predict", made / "slides", "--heatmap", "false", *tail, tmp_path / "here")
    assert code == 0, err
    table = write_table(tmp_path / "slides.csv", f"memory://{BUCKET}/x/a.tif,A", f"memory://{BUCKET}/x/b.tif,B")
    code, _, err = medsoft("slides", "predict", table, *tail, tmp_path / "out")
    assert code == 0, err
    frames = [read_predictions(tmp_path / out / "predictions.csv")[0] for out in ("here", "out")]
    assert frames[0]["p_tumour"].tolist() == frames[1]["p_tumour"].tolist()
    assert (tmp_path / "out" / "heatmaps" / "a.tif").is_file()
    assert rows(tmp_path / "out" / "slides.csv")["a"]["path"] == f"memory://{BUCKET}/x/a.tif"
    assert sorted(fetches) == ["a.tif", "b.tif"]


def test_what_is_encoded_is_recognised_without_fetching_it(medsoft, made, fetches, tmp_path):
    words = ["slides", "encode", f"memory://{BUCKET}/x/*.tif", *ENCODER, *TILES, "--out", tmp_path / "out"]
    assert medsoft(*words)[0] == 0
    assert sorted(fetches) == ["a.tif", "b.tif"]
    code, said, _ = medsoft(*words)
    assert code == 0
    assert "2 kept from earlier runs" in said
    assert len(fetches) == 2
    one, other = (read_tiling(folder / "tiles" / "a.h5") for folder in (made / "work", tmp_path / "out"))
    assert (one.quick_hash, one.slide) == (other.quick_hash, other.slide), "the content is what counts, not the place"


def test_what_cannot_be_fetched_is_listed_and_the_rest_goes_on(medsoft, made, fetches, tmp_path):
    table = write_table(tmp_path / "slides.csv", "x/a.tif,A", "none.tif,B", "nosuch://b/c.tif,C", "x/d.mrxs,D")
    code, _, _ = medsoft(
        "slides",
        "tile",
        table,
        "--root",
        f"memory://{BUCKET}",
        *TILES,
        "--out",
        tmp_path / "out",
        "--save-tiles",
        "png",
    )
    assert code == 3
    errors = {id: row["reason"] for id, row in rows(tmp_path / "out" / "errors.csv").items()}
    assert errors.keys() == {"none", "c", "d"}
    assert errors["none"] == "cannot be fetched: there is no such object, or its server cannot be reached"
    assert "nosuch:// has no driver here" in errors["c"]
    assert "several files" in errors["d"]
    assert rows(tmp_path / "out" / "slides.csv")["a"]["status"] == "tiled"
    assert list((tmp_path / "out" / "tile_images" / "a").glob("*.png"))
    assert fetches == ["a.tif"]


def test_a_file_address_is_the_file_itself(medsoft, made, fetches, tmp_path):
    place = (made / "slides" / "a.tif").as_uri()
    table = write_table(tmp_path / "slides.csv", f"{place},A")
    for word in (place, table):
        (found,) = find_slides(SlideInput([str(word)]))
        assert (found.path, found.url) == (made / "slides" / "a.tif", "")
    code, _, err = medsoft("slides", "tile", place, *TILES, "--out", tmp_path / "out")
    assert code == 0, err
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["s3://bucket/folder/"], "s3://bucket/folder/: is no name of a slide: name files, a pattern"),
        ([f"memory://{BUCKET}/*.svs"], "matches no slide"),
        (["nosuch://bucket/*.svs"], "nosuch://bucket/*.svs: nosuch:// has no driver here"),
        (["s3://bucket/a.h5"], "feature files are read from this machine"),
        (["sftp://me:secret@host/a.svs"], "user or a password"),
        (["file://host/a.svs"], "three slashes"),
        (["memory://b/a.svs", "--save-tiles", "table"], "take --save-tiles png, jpeg or hdf5"),
    ],
)
def test_what_cannot_be_slides_is_refused_before_work(medsoft, tmp_path, words, message):
    code, _, err = medsoft("slides", "tile", *words, *TILES, "--out", tmp_path / "out")
    assert code == 2
    assert message in err
    assert "secret" not in err
    assert not (tmp_path / "out").exists()


def test_rows_of_a_mixed_table_keep_their_numbers(medsoft, tmp_path):
    table = write_table(tmp_path / "slides.csv", "memory://b/a.tif,A", "missing.tif,B", "memory://b/a.tif,A")
    code, _, err = medsoft("slides", "tile", table, *TILES, "--out", tmp_path / "out")
    assert code == 2
    assert "row 2" in err
    assert "row 3" in err
    assert "the same file as row 1" in err


def test_signatures_of_an_address_are_not_written_down():
    (found,) = find_slides(SlideInput(["https://x.org/a.svs?sig=SECRET"]))
    assert found.file == "https://x.org/a.svs?sig=SECRET"
    assert (found.id, found.place) == ("a", "https://x.org/a.svs")


def test_slides_of_this_machine_need_no_fsspec(made, tmp_path):
    code = (
        "import sys\nfor name in ('fsspec', 's3fs', 'gcsfs'): sys.modules[name] = None\n"
        "from medsoft.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = ["slides", "tile", made / "slides", *TILES, "--out", tmp_path / "out"]
    run = subprocess.run([sys.executable, "-c", code, *map(str, words)], env=os.environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    run = subprocess.run(
        [sys.executable, "-c", code, "slides", "tile", "s3://b/a.svs", *map(str, words[3:])],
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 3
    assert "s3:// needs fsspec: pip install 'medsoft[remote]'" in run.stdout + run.stderr
