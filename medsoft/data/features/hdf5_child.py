"""A program that opens an HDF5 file in a process of its own, which may crash without harm.

Damaged structure can keep the HDF5 library in an endless loop, or crash it. Here that costs a process of its own with
a limit of CPU time and memory. A path in JSON comes on each line of standard input; a line goes back when all was
touched, whatever was found. See ``medsoft.data.features.hdf5_guard``. It imports nothing of medsoft, to start quickly.
"""

import json
import sys
from contextlib import suppress
from itertools import islice
from math import prod
from pathlib import Path
from types import ModuleType

import h5py

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows: a crash costs this process alone there too, an endless loop is not ended
    resource = None

BYTES_A_SECOND = 32 * 2**20
"""CPU time for a file: a second, and one more for so many bytes. Sound files take a thousandth of it."""
MEMORY_BYTES = 8 * 2**30
SMALL_BYTES = 2 * 2**20
LARGEST_BLOCK = 64 * 2**20
MOST_NAMES = 1000


def touch(path: str) -> None:
    """Open a file, and what is in its uppermost group and in the groups in it; errors are for those who read it."""
    with suppress(Exception), h5py.File(path, "r", locking=False) as file:
        _attributes(file)
        _members(file, groups=True)


def _members(group: h5py.Group, groups: bool) -> None:
    for name in islice(group, MOST_NAMES):
        with suppress(Exception):
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                continue
            found = group[name]
            _attributes(found)
            if isinstance(found, h5py.Dataset):
                _dataset(found)
            elif groups:
                _members(found, groups=False)


def _attributes(found: h5py.HLObject) -> None:
    for name in islice(found.attrs, MOST_NAMES):
        with suppress(Exception):
            found.attrs[name]


def _dataset(found: h5py.Dataset) -> None:
    if found.is_virtual or found.external or not found.size:
        return
    found.id.get_storage_size()
    block = found.nbytes if found.chunks is None else prod(found.chunks) * found.dtype.itemsize
    if found.chunks is not None:
        found.id.get_num_chunks()
    if found.nbytes <= SMALL_BYTES:
        found[()]
    elif block <= LARGEST_BLOCK and found.ndim:
        for row in {0, len(found) // 2, len(found) - 1}:
            found[row]


def _size(path: str) -> int:
    with suppress(OSError):
        return Path(path).stat().st_size
    return 0


def main() -> None:
    """Answer until standard input ends."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        with suppress(ValueError, OSError):  # macOS limits no address space
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    for line in sys.stdin:
        path = json.loads(line)
        _limit_time(_size(path))
        touch(path)
        print("done", flush=True)


def _limit_time(size: int) -> None:
    """Of the processor, from now on, for a file of so many bytes."""
    if resource is None:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime) + 2 + size // BYTES_A_SECOND
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main()
