"""Files of object stores become files of this machine: once, whole, within a bound, and only while they are needed."""

import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from medsoft.errors import InputError
from medsoft.storage import disk, remote
from medsoft.storage.hashing import PIECE_BYTES, quick_hash
from medsoft.storage.remote import (
    FetchedFiles,
    as_path,
    check_address,
    find_remote,
    is_remote,
    local_file,
    quick_hash_of_place,
    shown,
    without_file_scheme,
)
from tests.builders.object_store import put, record_fetches, remove


@pytest.fixture
def store(tmp_path):
    """Puts an object into a folder of its own, and gives its address."""
    yield lambda name, content: put(f"{tmp_path.name}/{name}", content)
    remove(tmp_path.name)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(remote.FOLDER, str(tmp_path / "fetched"))
    return tmp_path / "fetched"


def fetched(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*/*") if file.name != remote.IN_USE}


def test_a_file_is_fetched_once_and_again_when_it_has_changed(store, folder, monkeypatch):
    fetches = record_fetches(monkeypatch)
    url = store("a.svs", b"first")
    for _ in range(2):
        with local_file(url) as path:
            assert path.name == "a.svs"
            assert path.read_bytes() == b"first"
    assert len(fetches) == 1
    store("a.svs", b"other")  # of the same size
    with local_file(url) as path:
        assert path.read_bytes() == b"other"
    assert len(fetches) == 2


def test_threads_that_want_the_same_file_fetch_it_once(store, folder, monkeypatch):
    fetches, url, found = record_fetches(monkeypatch), store("a.svs", b"x" * 1000), []

    def read():
        with local_file(url) as path:
            found.append(path.read_bytes())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"x" * 1000] * 4
    assert len(fetches) == 1


def test_the_folder_keeps_its_bound_and_what_is_in_use(store, tmp_path):
    files = FetchedFiles(tmp_path / "fetched", most=250)
    urls = [store(f"{name}.svs", name.encode() * 100) for name in "abcd"]
    with files.lend(urls[0]) as held:
        for index, url in enumerate(urls[1:], start=1):
            with files.lend(url):
                os.utime(files.path, None)
            assert held.is_file(), "it is in use"
            assert len(fetched(files.path)) == 2, index
    assert fetched(files.path) == {"a.svs", "d.svs"}
    with pytest.raises(
        OSError, match=r"more than the folder of fetched slides may hold: .* \(MEDSOFT_SLIDE_CACHE_GB\)"
    ):
        files.lend(store("big.svs", b"x" * 251)).__enter__()
    assert fetched(files.path) == {"a.svs", "d.svs"}, "nothing goes for what cannot come"


def test_what_another_process_has_in_use_stays(store, folder):
    url = store("a.svs", b"x")
    with local_file(url) as path:
        code = (
            "import sys\nfrom pathlib import Path\nfrom medsoft.storage.remote import FetchedFiles\n"
            "FetchedFiles(Path(sys.argv[1]), 10).clear()"
        )
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
        assert path.is_file()
    FetchedFiles(folder, 10).clear()
    assert not folder.exists()


def test_other_files_of_the_folder_are_nobody_elses(store, folder):
    folder.mkdir()
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("x")
    with local_file(store("a.svs", b"x")):
        pass
    FetchedFiles(folder, 10).clear()
    assert [path.name for path in folder.iterdir()] == ["mine"]
    assert (folder / "mine" / "thesis.txt").is_file()


def test_space_is_asked_for_before_anything_is_fetched(store, folder, monkeypatch):
    fetches = record_fetches(monkeypatch)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=remote.SPARE_BYTES + 3))
    url = store("a.svs", b"1234")
    with pytest.raises(OSError, match="name a folder on another disk with MEDSOFT_SLIDE_CACHE"):
        local_file(url).__enter__()
    assert not fetches
    assert not list(folder.iterdir())


def test_a_file_that_comes_short_or_changes_meanwhile_is_no_file(store, folder, monkeypatch):
    url = store("a.svs", b"1234")
    short = lambda self, name, path, **_: Path(path).write_bytes(b"12")  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", short)
        with pytest.raises(OSError, match="only 2 of its 4 bytes came"):
            local_file(url).__enter__()
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", lambda *_, **__: store("a.svs", b"12345"))
        with pytest.raises(OSError, match="was replaced in its store while it was fetched"):
            local_file(url).__enter__()
    assert not list(folder.iterdir()), "nothing half-written remains"


def test_without_a_folder_files_end_with_the_process(tmp_path):
    code = (
        "import fsspec\nfrom medsoft.storage.remote import local_file\n"
        "fsspec.filesystem('memory').pipe('/b/a.svs', b'x')\n"
        "with local_file('memory://b/a.svs') as path:\n    print(path, oct(path.parents[1].stat().st_mode))\n"
        "print(path.is_file())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in (remote.FOLDER, remote.MOST)}
    environment["TMPDIR"] = str(tmp_path)
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    first, kept = run.stdout.splitlines()
    assert first.startswith(str(tmp_path))
    assert first.endswith("0o40700"), "others read no slide"
    assert kept == "True", "it may be needed again"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 10, PIECE_BYTES + 3, 2 * PIECE_BYTES + 5])
def test_the_hash_of_an_address_is_that_of_the_file(store, tmp_path, folder, size):
    content = os.urandom(size)
    (tmp_path / "a.svs").write_bytes(content)
    url = store("a.svs", content)
    assert quick_hash_of_place(url) == quick_hash(tmp_path / "a.svs") == quick_hash_of_place(tmp_path / "a.svs")
    assert not folder.exists(), "it was not fetched for that"


def test_a_server_that_gives_no_parts_gives_the_same_hash(store, tmp_path, folder, monkeypatch):
    content = os.urandom(PIECE_BYTES + 3)
    (tmp_path / "a.svs").write_bytes(content)
    url = store("a.svs", content)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: content)
    assert quick_hash_of_place(url) == quick_hash(tmp_path / "a.svs")
    assert fetched(folder) == {"a.svs"}


class NoCredentialsError(Exception):
    """As botocore calls it."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            NoCredentialsError("Unable to locate credentials"),
            "check the credentials that the driver of memory:// finds",
        ),
        (PermissionError("Forbidden"), r"its store refuses it \(PermissionError\)"),
        (
            TimeoutError("no answer from https://x.org/a?sig=SECRET"),
            r"does not give it \(TimeoutError: no answer from …",
        ),
    ],
)
def test_why_a_store_gives_nothing_is_said_without_the_address(store, folder, monkeypatch, error, words):
    url = store("Doe_Jane.svs", b"x")

    def info(self, path, **_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "info", info)
        with pytest.raises(OSError, match=words) as found:
            local_file(url).__enter__()
    assert "SECRET" not in found.value.strerror
    assert "Doe" not in found.value.strerror


def test_no_object_no_driver_and_no_fsspec(store, folder, monkeypatch):
    with pytest.raises(OSError, match="no such object"):
        local_file(store("a.svs", b"x") + "x").__enter__()
    with pytest.raises(OSError, match=r"nosuch:// has no driver here .*medsoft\[remote\]"):
        local_file("nosuch://b/a.svs").__enter__()
    with pytest.raises(OSError, match="is a folder of its store"):
        local_file(store("a.svs", b"x").rpartition("/")[0]).__enter__()
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(OSError, match=r"s3:// needs fsspec: pip install 'medsoft\[remote\]'"):
        local_file("s3://b/a.svs").__enter__()


def test_a_wrong_bound_is_an_input_error(store, folder, monkeypatch):
    monkeypatch.setenv(remote.MOST, "-3")
    with pytest.raises(InputError, match="MEDSOFT_SLIDE_CACHE_GB=-3: must be a number above 0"):
        local_file(store("a.svs", b"x")).__enter__()


def test_addresses_and_paths_are_told_apart():
    assert is_remote("s3://b/a.svs")
    assert is_remote("https://x.org/a.svs?sig=1")
    assert not any(map(is_remote, ("/data/a.svs", "C:\\a.svs", "file:///data/a.svs", "b/s3:/a.svs", "a.svs")))
    assert without_file_scheme("file:///data/a%20b.svs") == "/data/a b.svs"
    with pytest.raises(InputError, match="three slashes"):
        without_file_scheme("file://data/a.svs")
    assert shown("https://x.org/a.svs?sig=SECRET") == "https://x.org/a.svs"
    assert as_path("s3://bucket/x/a.svs") == Path("/s3/bucket/x/a.svs")
    with pytest.raises(InputError, match="user or a password") as found:
        check_address("sftp://me:secret@host/a.svs")
    assert "secret" not in str(found.value)


def test_patterns_ask_the_store(store):
    urls = [store(name, b"x") for name in ("b.svs", "a.svs", "a.txt")]
    found = find_remote(urls[0].replace("b.svs", "*.svs"))
    assert [as_path(url) for url in found] == [as_path(urls[1]), as_path(urls[0])]
