"""Processes that medsoft starts, or lets a library start: none of them runs a file of the current folder."""

import ast
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import medsoft
from medsoft.errors import InputError
from medsoft.system.child_processes import SAFE_PATH, child_environment, python_module, safe_python

ROOT = Path(medsoft.__file__).parent

STARTS = {
    # Python itself: by medsoft.system.child_processes alone.
    "medsoft.workflows.crossval_jobs": {"subprocess.Popen"},
    "medsoft.data.features.hdf5_guard": {"subprocess.Popen"},
    # Programs that run no Python: git, scontrol, squeue, sbatch.
    "medsoft.runs.run_folder": {"subprocess.run"},
    "medsoft.training.slurm": {"subprocess.run"},
    "medsoft.cluster.jobs": {"subprocess.run", "queue.cluster()"},
    "medsoft.cluster.queues": {"subprocess.run"},
    # Libraries that start Python: after protect_children.
    "medsoft.system.child_processes": {
        "multiprocessing.get_context",
        "multiprocessing.get_context('forkserver').set_forkserver_preload",
    },
    "medsoft.cluster.client": {"LocalCluster"},
    "medsoft.data.phantoms.slides.write": {"get_context", "ProcessPoolExecutor"},
}
"""Every place in medsoft that starts a process. A new one joins here, with a test below."""

STARTING = {
    "LocalCluster",
    "queue.cluster()",
    "ProcessPoolExecutor",
    "get_context",
    "Process",
    "Pool",
    "Popen",
    "system",
}


def starts(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if (
            name.startswith(("subprocess.", "multiprocessing.", "os.exec", "os.spawn", "os.system", "os.popen"))
            or name in STARTING
        ):
            found.add(name)
    return found


def test_every_place_that_starts_a_process_is_known():
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        module = ".".join(file.relative_to(ROOT.parent).with_suffix("").parts)
        if names := starts(file):
            found[module] = names
    assert found == STARTS


@pytest.fixture
def hostile_folder(tmp_path, monkeypatch):
    """The current folder, with files named as modules of Python that every child imports; gives those that ran."""
    monkeypatch.delenv(SAFE_PATH, raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    marks = tmp_path / "marks"
    marks.mkdir()
    for name in ("secrets", "multiprocessing", "argparse", "numpy", "torch", "medsoft_data"):
        (tmp_path / f"{name}.py").write_text(f"open({str(marks / name)!r}, 'w').close()\nraise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    return lambda: sorted(mark.name for mark in marks.iterdir())


def test_the_folder_is_hostile(hostile_folder):
    subprocess.run([sys.executable, "-c", "import secrets"], capture_output=True)
    assert hostile_folder() == ["secrets"]


def test_python_as_a_module_runs_nothing_of_the_current_folder(hostile_folder):
    for command in (python_module("medsoft", "--version"), [sys.executable, "-m", "medsoft", "--version"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"medsoft {medsoft.__version__}\n"), done.stderr
    assert not hostile_folder()


def test_a_process_of_a_fold_runs_nothing_of_the_current_folder(hostile_folder, tmp_path, monkeypatch):
    """The process is real; there is no cross-validation to go on with, which it says in its log."""
    from medsoft.runs.crossval_folder import CrossvalFolder, PlannedFold
    from medsoft.workflows.crossval_jobs import _start

    folder = CrossvalFolder(tmp_path / "cv")
    fold = PlannedFold(0, 0, "0", 0, {}, "")
    assert _start(folder, fold, 0, 1, trusted=False).wait() == 2
    assert "not the folder of a cross-validation" in folder.log(0).read_text()
    assert not hostile_folder()


@pytest.mark.parametrize("trusted", [False, True])
def test_a_process_of_a_fold_is_trusted_as_far_as_its_parent(tmp_path, monkeypatch, trusted):
    from medsoft.runs.crossval_folder import CrossvalFolder, PlannedFold
    from medsoft.workflows import crossval_jobs

    seen = []
    monkeypatch.setattr(crossval_jobs.subprocess, "Popen", lambda command, **more: seen.append((command, more["env"])))
    crossval_jobs._start(CrossvalFolder(tmp_path / "cv"), PlannedFold(0, 0, "0", 0, {}, ""), 0, 1, trusted)
    ((command, environment),) = seen
    assert command[:4] == [sys.executable, "-P", "-m", "medsoft"]
    assert ("--trust" in command) == trusted
    assert environment[SAFE_PATH] == "1"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_multiprocessing_are_protected(hostile_folder, method):
    program = (
        "from concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context\nimport os, sys\n"
        "from medsoft.system.child_processes import protect_children\nprotect_children()\n"
        "if __name__ == '__main__':\n"
        f"    with ProcessPoolExecutor(1, get_context({method!r})) as pool:\n"
        "        print(pool.submit(os.getpid).result() != os.getpid())\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
    assert not hostile_folder()


def test_phantom_slides_are_drawn_by_protected_processes(tmp_path, monkeypatch):
    from medsoft.data.phantoms.slides import write as slides

    monkeypatch.delenv(SAFE_PATH, raising=False)

    def pool(*_: object, **__: object) -> ProcessPoolExecutor:
        assert os.environ[SAFE_PATH] == "1"
        raise KeyboardInterrupt

    monkeypatch.setattr(slides, "ProcessPoolExecutor", pool)
    with pytest.raises(KeyboardInterrupt):
        slides._write(tmp_path, 2, 1024, 1.0, 0, 2)


def test_workers_of_dask_are_protected(monkeypatch):
    import distributed

    from medsoft.cluster.client import Cluster
    from medsoft.cluster.options import ClusterSettings, Workers

    monkeypatch.delenv(SAFE_PATH, raising=False)

    def cluster(**_: object) -> None:
        assert os.environ[SAFE_PATH] == "1"
        raise KeyboardInterrupt

    monkeypatch.setattr(distributed, "LocalCluster", cluster)
    with pytest.raises(KeyboardInterrupt):
        _ = Cluster(Workers("local", 2, ClusterSettings()), folder=None).client


def test_jobs_of_slurm_are_protected(tmp_path, monkeypatch):
    import dask_jobqueue

    from medsoft.cluster import jobs as cluster_jobs
    from medsoft.cluster.options import ClusterSettings

    seen = {}

    def cluster(**options: object) -> None:
        seen.update(options)
        raise ValueError("seen")

    monkeypatch.setattr(dask_jobqueue, "SLURMCluster", cluster)
    monkeypatch.setattr(cluster_jobs.shutil, "which", lambda name: name)
    settings = ClusterSettings(prologue=["module load apptainer"], python="apptainer exec medsoft.sif python")
    with pytest.raises(InputError, match="seen"):
        cluster_jobs.cluster_jobs("slurm", settings, 1, 1, "127.0.0.1:0", tmp_path).__enter__()
    assert seen["python"] == "apptainer exec medsoft.sif python -P"
    assert seen["job_script_prologue"][0] == f"export {SAFE_PATH}=1"
    assert seen["job_script_prologue"][-1] == "module load apptainer"
    assert safe_python(None) == f"{sys.executable} -P"


def test_lightning_hands_its_processes_the_protection(monkeypatch):
    """Its launcher copies the environment; the command line sets it before a verb is imported."""
    from medsoft.cli.main import main

    monkeypatch.delenv(SAFE_PATH, raising=False)
    assert main(["evaluate"]) == 2
    assert os.environ[SAFE_PATH] == "1"
    assert child_environment()[SAFE_PATH] == "1"


def test_scripts_of_clusters_start_python_without_the_current_folder():
    for script in (ROOT.parent / "docker" / "slurm").iterdir():
        for line in script.read_text().splitlines():
            if " python " in f" {line}" and not line.lstrip().startswith("#"):
                assert "python -P " in line, (script.name, line)
