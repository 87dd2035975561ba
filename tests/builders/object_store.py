"""An object store in memory: fsspec's, which is the whole process's."""

from __future__ import annotations

from collections.abc import Callable

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem


def put(name: str, content: bytes) -> str:
    """Put an object into the store; gives its address."""
    fsspec.filesystem("memory").pipe(f"/{name}", content)
    return f"memory://{name}"


def remove(folder: str) -> None:
    """Remove all objects of a folder."""
    if fsspec.filesystem("memory").exists(f"/{folder}"):
        fsspec.filesystem("memory").rm(f"/{folder}", recursive=True)


def record_fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that are fetched from now on, in their order."""
    fetched: list[str] = []
    get: Callable[..., object] = MemoryFileSystem.get_file

    def recorded(self: MemoryFileSystem, name: str, *args: object, **options: object) -> object:
        fetched.append(name.rpartition("/")[2])
        return get(self, name, *args, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", recorded)
    return fetched
