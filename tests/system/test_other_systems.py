"""macOS and Windows lack modules and functions of Linux: none is needed when a module is imported, and locks hold.

medsoft was not run there.
"""

import ast
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import medsoft
from medsoft.errors import InputError
from medsoft.storage import lock as locks
from medsoft.storage.files import hold_folder, release_folders
from medsoft.system import child_processes
from medsoft.system.cores import usable_cores

ROOT = Path(medsoft.__file__).parent
OF_LINUX = {"fcntl", "resource", "pwd", "grp", "termios", "pty"}
FUNCTIONS = {"os.sched_getaffinity", "os.getuid", "os.killpg", "os.setsid", "os.fork", "os.sysconf", "signal.SIGKILL"}
FUNCTIONS |= {"signal.SIGUSR1", "signal.SIGHUP", "signal.sigwaitinfo", "signal.pthread_sigmask"}
KNOWN = {
    "os.getuid in cluster/queues.py",
    "signal.SIGUSR1 in training/slurm.py",
    "os.sched_getaffinity in system/cores.py",
}
KNOWN |= {"signal.sigwaitinfo in system/signals.py", "signal.pthread_sigmask in system/signals.py"}
KNOWN |= {"signal.SIGUSR1 in system/signals.py"}
"""Behind a question whether it is there, or in what belongs to SLURM."""


def of_linux(source: str, name: str = "a.py") -> set[str]:
    """What a module takes from Linux without asking: imports outside try, and functions."""
    found = set()
    tree = ast.parse(source)
    guarded = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in guarded:
            found |= {alias.name for alias in node.names} & OF_LINUX
        elif isinstance(node, ast.Attribute):
            found |= {f"{ast.unparse(node)} in {name}"} if ast.unparse(node) in FUNCTIONS else set()
    return found


def test_no_module_takes_for_granted_what_linux_alone_has():
    files = sorted(ROOT.rglob("*.py"))
    found = {one for file in files for one in of_linux(file.read_text(), file.relative_to(ROOT).as_posix())}
    assert found - KNOWN == set()
    assert of_linux("import fcntl\nx = os.getuid()") == {"fcntl", "os.getuid in a.py"}
    assert of_linux("try:\n    import fcntl\nexcept ImportError:\n    pass") == set()


def test_a_command_runs_without_what_linux_alone_has(tmp_path):
    program = (
        "import os, signal, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(OF_LINUX)}))\n"
        "del os.sched_getaffinity, signal.SIGUSR1, signal.sigwaitinfo, signal.pthread_sigmask\n"
        "from medsoft.cli.main import main\n"
        "sys.exit(main(['data', 'phantom', 'fundus', '--n=3', '--out=eyes']))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "eyes" / "labels.csv").is_file()


@pytest.fixture
def windows(monkeypatch):
    """The locks of Windows; gives the bytes that are locked, each with its file."""
    locked: list[tuple[int, int]] = []

    def locking(descriptor: int, mode: int, length: int) -> None:
        place = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        if place in locked:
            raise PermissionError(13, "Permission denied")
        locked.append(place)

    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0)
    return locked


def test_locks_of_windows(windows, tmp_path):
    file = tmp_path / "file"
    file.write_text("content")
    with file.open("r+") as first, file.open("r+") as second:
        first.seek(3)
        locks.lock(first.fileno())
        assert os.lseek(first.fileno(), 0, os.SEEK_CUR) == 3
        assert windows[0][1] > len("content"), "others go on reading"
        with pytest.raises(BlockingIOError):
            locks.lock(second.fileno())
        taken = windows.pop()
        locks.lock(second.fileno(), wait=True)
        assert windows == [taken]


def test_cores_and_children_of_other_systems(monkeypatch):
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
    monkeypatch.setattr(child_processes.sys, "platform", "darwin")
    assert child_processes.fork_children() == "spawn"


def test_another_process_in_a_folder_is_told(windows, tmp_path):
    hold_folder(tmp_path / "run")
    try:
        held = windows[0]
    finally:
        release_folders()
    (tmp_path / "run" / ".medsoft.lock").touch()
    windows.clear()
    windows.append(((tmp_path / "run" / ".medsoft.lock").stat().st_ino, held[1]))
    with pytest.raises(InputError, match="another run of medsoft is at work"):
        hold_folder(tmp_path / "run")
