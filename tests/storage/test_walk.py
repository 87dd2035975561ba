"""One walk over folders, through every way in that takes one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from medsoft.cli.slides.export import find_features
from medsoft.cli.weights.convert import find_images
from medsoft.data.dicom.series import dicom_files, find_dicom
from medsoft.errors import InputError, ReadError, SlideError
from medsoft.slides.find import find_slides
from medsoft.slides.reading.slide import open_slide
from medsoft.slides.source import SlideInput
from medsoft.storage import walk as walk_module
from medsoft.storage.hashing import quick_hash
from medsoft.storage.walk import walk, walk_glob
from tests.builders.dicom import phantom, write_series

FILES = ("scans/a/one.dcm", "scans/b/deep/two.dcm", "elsewhere/three.dcm")
CLUTTER = (
    "scans/a/._one.dcm",
    "scans/a/.DS_Store",
    "scans/b/Thumbs.db",
    "scans/b/desktop.ini",
    "scans/.hidden.dcm",
    "scans/.snapshot/one.dcm",
    "scans/__MACOSX/a/one.dcm",
)
EXPECTED = ("a/one.dcm", "b/deep/two.dcm", "linked/three.dcm")
PASSED = {
    "AppleDouble (._*)": 1,
    ".DS_Store": 1,
    "Thumbs.db": 1,
    "desktop.ini": 1,
    "hidden file": 1,
    "hidden folder": 1,
    "__MACOSX": 1,
    "FIFO, socket or device": 1,
    # a loop, a second link to a folder, a link to a real folder, and a link to a file
    "reached again by a link": 4,
}


@pytest.fixture
def tree(tmp_path) -> Path:
    """A folder with all that a hospital's share has in it; every file passes for a slide and for DICOM."""
    for name in (*FILES, *CLUTTER):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" + name.encode())
    scans = tmp_path / "scans"
    os.mkfifo(scans / "pipe.dcm")
    for link, target in {
        "linked": "../elsewhere",
        "linked_again": "../elsewhere",
        "a_real_folder": "b",  # sorts before what it leads to
        "b/deep/loop": "../..",
        "again.dcm": "a/one.dcm",
    }.items():
        (scans / link).symlink_to(target)
    return scans


def test_every_way_in_finds_the_same_files_and_says_what_it_passed_over(tree, capsys):
    expected = [tree / name for name in EXPECTED]
    walked = walk(tree)
    assert walked.files == expected
    assert walked.passed == PASSED
    assert walked.problems == []
    line = walk_module.passed_in_words(walked.passed)
    assert "Passed over: 12 (" in line
    assert "4 reached again by a link" in line

    assert find_dicom(tree).files == expected
    assert find_dicom(tree).passed == PASSED
    assert dicom_files(tree) == expected
    for words in ([str(tree)], [f"{tree}/**/*.dcm"], [f"{tree}/**"]):
        assert sorted(one.path for one in find_slides(SlideInput(words))) == expected, words
        assert line in capsys.readouterr().out
    (tree / "a/notes.txt").write_text("not a slide, and not DICOM")
    assert find_dicom(tree).passed == {**PASSED, "of another kind": 1}
    find_slides(SlideInput([str(tree)]))
    assert "1 of another kind" in capsys.readouterr().out
    for suffix, find in ((".h5", lambda: find_features([str(tree)])), (".png", lambda: find_images(tree, "path", 9))):
        for path in (*walked.files, tree / "a/._one.dcm"):
            shutil.copy(path, path.with_suffix(suffix))
        assert sorted(str(path) for path in find()) == sorted(str(path.with_suffix(suffix)) for path in expected)
        assert "of another kind" in capsys.readouterr().out


def test_a_folder_that_cannot_be_opened_is_said_by_every_way_in(tree, medsoft, monkeypatch, tmp_path):
    scandir = os.scandir

    def refuse(place):
        if Path(place).name == "deep":  # as root may open everything, no mode would do
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(walk_module.os, "scandir", refuse)
    for words in ([str(tree)], [f"{tree}/**/*.dcm"]):
        with pytest.raises(InputError, match=r"deep: cannot be opened: Permission denied"):
            find_slides(SlideInput(words))
    with pytest.raises(ReadError, match=r"holds b/deep, which cannot be opened: Permission denied"):
        dicom_files(tree)
    code, _, _ = medsoft("data", "index", tree, "--out", tmp_path / "t.csv", "--salt", tmp_path / "salt")
    assert code == 3
    assert "b/deep,walk,cannot be opened: Permission denied" in (tmp_path / "t.errors.csv").read_text()


def test_a_link_that_leads_nowhere_is_said_by_every_way_in(tree, medsoft, tmp_path):
    (tree / "gone.dcm").symlink_to("nobody.dcm")
    (tree / "circle.dcm").symlink_to("circle.dcm")
    assert walk(tree).broken == [tree / "circle.dcm", tree / "gone.dcm"]
    found = find_slides(SlideInput([str(tree)]))
    assert {"gone", "circle"} <= {one.id for one in found}  # opening them fails, and is listed
    code, _, _ = medsoft("slides", "tile", f"{tree}/*.dcm", "--mpp", 1, "--tile", 64, "--out", tmp_path / "out")
    assert code == 3
    errors = (tmp_path / "out/errors.csv").read_text()
    assert "No such file or directory" in errors
    assert "Too many levels of symbolic links" in errors
    with pytest.raises(ReadError, match="leads nowhere"):
        dicom_files(tree)
    code, _, _ = medsoft("data", "index", tree, "--out", tmp_path / "t.csv", "--salt", tmp_path / "salt")
    assert code == 3
    assert "gone.dcm,walk,is a link that leads nowhere" in (tmp_path / "t.errors.csv").read_text()


def test_a_slide_named_twice_by_words_and_links_is_one_slide(tree, capsys):
    found = find_slides(SlideInput([str(tree / "again.dcm"), str(tree / "a/one.dcm"), str(tree / "a")]))
    assert [one.path for one in found] == [tree / "again.dcm"]
    assert "2 reached again by a link" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/*.dcm", ["a/one.dcm", "linked/three.dcm", "linked_again/three.dcm"]),
        ("b/**/*.dcm", ["b/deep/two.dcm"]),
        ("**/de*", ["b/deep/two.dcm"]),
        ("**/o*.dcm", ["a/one.dcm"]),
        ("**/*.svs", []),
        ("l*", ["linked/three.dcm"]),
    ],
)
def test_patterns_name_files_and_folders(tree, pattern, expected):
    if pattern == "b/**/*.dcm":
        (tree / "b/deep/loop").unlink()  # it leads out of the folder that is meant
    assert walk_glob(f"{tree}/{pattern}")[0].files == [tree / name for name in expected]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["fifo", "device"])
def test_what_would_be_read_for_ever_is_refused_at_once(tmp_path, make):
    path = tmp_path / "slide.svs"
    make(path)
    with pytest.raises(InputError, match=r"is a (FIFO|device), not a file"):
        find_slides(SlideInput([str(path)]))
    with pytest.raises(SlideError, match=r"is a (FIFO|device), not a file"):
        open_slide(path)
    with pytest.raises(OSError, match=r"is a (FIFO|device), not a file"):
        quick_hash(path)
    with pytest.raises(ReadError, match=r"is a (FIFO|device), not a file"):
        dicom_files(path)


def test_checking_volumes_counts_what_lies_beside_the_slices(medsoft, tmp_path):
    for number in range(2):
        folder = tmp_path / f"series{number}"
        write_series(folder, phantom())
        (folder / "._0.dcm").write_bytes(b"\0\5\x16\7")
        (folder / "notes.txt").write_text("seen by a reader")
    (tmp_path / "t.csv").write_text("path,label\nseries0,a\nseries1,b\n")
    code, out, err = medsoft("data", "check", tmp_path / "t.csv", "--positive", "b")
    assert code in (0, 2), err  # the two hold equal voxels, which other checks may refuse
    assert "Passed over: 4 (2 AppleDouble (._*), 2 of another kind)" in out
