"""Slides on a real SLURM: on one machine, over Dask workers of a job, over jobs; stopped, killed, dying at once."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from tests.builders.waiting import LIMIT_SECONDS, wait_until
from tests.cluster.slurm.real import ENDED, SCRIPTS, Job, Slurm

HOW = ["--encoder=resnet10t", "--encoder-init=random", "--slide-mpp=1", "--mpp=1", "--tile=64"]

CLUSTER = ["--cluster.interface=lo", "--cluster.cores=1", "--cluster.memory=2GB", "--cluster.walltime=00:20:00"]


@pytest.fixture(scope="session")
def slides(tmp_path_factory, slurm) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    words = ["data", "phantom", "slides", "--out", folder / "made", "--n", "8", "--size", "1024"]
    assert slurm.call("medsoft", *words, cwd=folder).returncode == 0
    return folder / "made" / "slides"


@pytest.fixture(scope="session")
def expected(tmp_path_factory, slurm, slides) -> Path:
    """What one process writes."""
    folder = tmp_path_factory.mktemp("one")
    done = slurm.call("medsoft", "slides", "encode", slides, *HOW, "--out", folder / "work", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "work"


def check(work: Path, expected: Path) -> None:
    """All slides are there, once, and as one process encodes them."""
    mine, theirs = (sorted(path.name for path in (out / "features").iterdir()) for out in (work, expected))
    assert mine == theirs
    for name in mine:
        with h5py.File(work / "features" / name) as a, h5py.File(expected / "features" / name) as b:
            np.testing.assert_array_equal(a["coords"][()], b["coords"][()])
            np.testing.assert_allclose(a["features"][()], b["features"][()], rtol=2e-3, atol=2e-4)
    assert len((work / "slides.csv").read_text().splitlines()) == len(mine) + 1
    assert list(work.rglob(".*")) == []


def quiet(log: str) -> None:
    """No traceback, and no word about what was killed or given up."""
    noise = ("Traceback", "Killed", "Batched Comm Closed", "UserWarning", "Async instruction")
    assert not [word for word in noise if word in log], log


def submit(slurm: Slurm, folder: Path, script: str, *words: object, options: tuple[str, ...] = ()) -> Job:
    return slurm.submit(folder, *options, SCRIPTS / script, *words, *HOW, "--out", "work")


def workers(job: Job) -> list[psutil.Process]:
    """Worker processes of Dask that a job has started under srun."""
    found = []
    for process in job.processes():
        with suppress(psutil.Error):
            parent = process.parent()
            if "spawn_main" in " ".join(process.cmdline()) and parent and "dask_worker" in " ".join(parent.cmdline()):
                found.append(process)
    return found


def test_one_machine_makes_room_and_goes_on(slurm, slides, expected, tmp_path):
    job = submit(slurm, tmp_path, "slides.sbatch", "encode", slides, "--jobs=2")
    job.begun(": encoded")
    assert job.signal("USR1")
    assert job.wait() == "COMPLETED", job.log()
    assert job.restarts == 1
    quiet(job.log())
    check(tmp_path / "work", expected)


def test_a_stop_before_the_work_has_begun_is_one_line(slurm, slides, expected, tmp_path):
    job = submit(slurm, tmp_path, "slides.sbatch", "encode", slides, "--jobs=2")
    wait_until(lambda: job.signal("USR1"))
    wait_until(lambda: "asking for another run" in job.log() or job.state in ENDED)
    first = job.log()
    assert job.wait() == "COMPLETED", job.log()
    assert job.restarts == 1
    assert len(first.splitlines()) < 8, first
    quiet(job.log())
    check(tmp_path / "work", expected)


def test_dask_workers_in_one_job_end_without_a_word(slurm, slides, expected, tmp_path):
    job = submit(slurm, tmp_path, "slides_dask.sbatch", "encode", slides, options=("--ntasks=2",))
    heard: set[str] = set()
    while job.state not in ENDED:
        heard |= pages_heard(job)
    assert job.wait() == "COMPLETED", job.log()
    quiet(job.log())
    assert heard <= {"127.0.0.1"}, "pages of Dask over HTTP"
    check(tmp_path / "work", expected)
    assert not list(tmp_path.glob(".dask-*")), "keys"


def pages_heard(job: Job) -> set[str]:
    """Addresses at which Dask of a job answers HTTP requests with a page."""
    found = set()
    for process in job.processes():
        with suppress(psutil.Error, OSError):
            words = process.cmdline() or ["srun"]  # which would take a request for one of its own
            if "python" in Path(words[0]).name and "distributed.cli" in " ".join(words):
                listening = [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
                # A page has a plug of its own; what Dask speaks with its workers is encrypted and answers no request.
                found |= {one.laddr.ip for one in listening if answers(one.laddr.port)}
    return found


def answers(port: int) -> bool:
    import urllib.error
    import urllib.request

    try:
        for page in ("health", "metrics", "info/main/workers.html"):
            with suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=LIMIT_SECONDS)
                raise AssertionError(f"anybody can read {page} at port {port}")
    except (OSError, ValueError):
        return False
    except Exception as error:
        if type(error).__module__ == "http.client":
            return False
        raise
    return True


def test_a_worker_of_the_job_that_is_killed_is_replaced(slurm, slides, expected, tmp_path):
    job = submit(slurm, tmp_path, "slides_dask.sbatch", "encode", slides, options=("--ntasks=2",))
    wait_until(lambda: workers(job) or job.state in ENDED)
    os.kill(workers(job)[0].pid, signal.SIGKILL)
    assert job.wait() == "COMPLETED", job.log()
    check(tmp_path / "work", expected)


def test_dask_workers_that_end_at_once_end_the_job_with_one_line(slurm, slides, tmp_path):
    """srun is refused: more processors a task than a node has."""
    job = slurm.submit(
        tmp_path, "--ntasks=2", SCRIPTS / "slides_dask.sbatch", "encode", slides, *HOW, "--out", "work",
        SRUN_CPUS_PER_TASK="4000",
    )  # fmt: skip
    assert job.wait() == "FAILED", job.log()
    assert "The workers or the scheduler have ended before the work was done" in job.log()
    assert "Traceback" not in job.log()
    assert len(job.log().splitlines()) < 10, job.log()
    assert not list(tmp_path.glob(".dask-*")), "keys"


def test_an_error_of_the_call_ends_a_job_of_dask_workers_with_one_line(slurm, tmp_path):
    job = submit(slurm, tmp_path, "slides_dask.sbatch", "encode", tmp_path / "nowhere", options=("--ntasks=2",))
    assert job.wait() == "FAILED", job.log()
    quiet(job.log())
    assert job.log().count("medsoft: error: ") == 1, job.log()
    assert len(job.log().splitlines()) < 4, job.log()
    assert not list(tmp_path.glob(".dask-*")), "keys"


def test_a_job_of_dask_workers_makes_room_and_goes_on(slurm, slides, expected, tmp_path):
    job = submit(slurm, tmp_path, "slides_dask.sbatch", "encode", slides, options=("--ntasks=2",))
    job.begun(": encoded")
    slurm.call("scancel", "--batch", "--signal=USR1", job.number)
    assert job.wait() == "COMPLETED", job.log()
    assert job.restarts == 1, job.log()
    quiet(job.log())
    check(tmp_path / "work", expected)


def begin(slurm: Slurm, folder: Path, slides: Path, *words: str):
    given = ["slides", "encode", slides, *HOW, "--out", "work", "--scheduler=slurm", *CLUSTER, *words]
    return slurm.popen("medsoft", *given, cwd=folder)


def test_jobs_that_are_submitted_are_replaced_when_they_are_killed(slurm, slides, expected, tmp_path):
    before = set(slurm.jobs())
    process = begin(slurm, tmp_path, slides, "--jobs=2")
    wait_until(lambda: list((tmp_path / "work" / "features").glob("*.h5")), process)
    victim = min(set(slurm.jobs()) - before, key=int)
    slurm.call("scancel", "--signal=KILL", "--full", victim)
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, err
    assert "Traceback" not in out + err
    check(tmp_path / "work", expected)
    wait_until(lambda: not set(slurm.jobs()) - before)
    for log in (tmp_path / "work" / "slurm").iterdir():
        assert "Traceback" not in log.read_text(errors="replace"), log.read_text(errors="replace")


def test_jobs_that_die_at_once_end_the_run_with_their_last_line(slurm, slides, tmp_path):
    process = begin(slurm, tmp_path, slides, "--jobs=2", "--cluster.python=/nowhere/python")
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 1, err
    assert "jobs in a row ended before they began to work, and none works" in err
    assert "/nowhere/python: No such file or directory" in err
    assert "Traceback" not in err


def test_a_wrong_partition_is_said_before_anything_is_submitted(slurm, slides, tmp_path):
    before = set(slurm.jobs())
    process = begin(slurm, tmp_path, slides, "--jobs=2", "--cluster.queue=nowhere")
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 2
    assert "SLURM does not take the jobs" in err
    assert "invalid partition" in err
    assert err.count("\n") == 1
    assert set(slurm.jobs()) == before
