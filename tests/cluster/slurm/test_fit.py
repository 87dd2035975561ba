"""Trainings on a real SLURM: stopped at random moments, cancelled, at their time limit, over nodes, by hand."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.builders.images import TINY, without_progress, write_images
from tests.builders.waiting import wait_until
from tests.cluster.slurm.real import ENDED, SCRIPTS, Job, Slurm

STOPS = int(os.environ.get("MEDSOFT_TEST_STOPS", "20"))

EPOCHS = 8

NOISE = ("Traceback", "DataLoader worker", "Killed", "Bus error", "core dumped")


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 120, per_patient=2)


def words(images: Path, *further: str) -> list[str]:
    """Long enough that most random moments fall into the training; samples come from a process of their own."""
    given = [f"--data.table={images}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    return [
        *given,
        "--data.num_workers=1",
        "--data.batch_size=4",
        f"--trainer.max_epochs={EPOCHS}",
        "--report=false",
        *further,
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")["state_dict"]


def submit(slurm: Slurm, folder: Path, images: Path, tasks: int, *further: str, options: tuple[str, ...] = ()) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    script = SCRIPTS / "fit.sbatch"
    return slurm.submit(folder, f"--ntasks-per-node={tasks}", *options, script, "run", *words(images, *further))


def check_log(job: Job) -> None:
    log = job.log()
    assert not [word for word in NOISE if word in log], log


@pytest.fixture(scope="session", params=[1, 2])
def undisturbed(request, tmp_path_factory, slurm, images) -> tuple[int, Path, float]:
    """The number of tasks, the folder of a run of as many, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    begin = time.monotonic()
    job = submit(slurm, folder, images, request.param)
    assert job.wait() == "COMPLETED", job.log()
    check_log(job)
    return request.param, folder / "run", time.monotonic() - begin


@pytest.mark.parametrize("number", range(STOPS))
def test_a_stop_at_a_random_moment_loses_nothing(number, undisturbed, slurm, images, tmp_path, record_property):
    """Every second one at any moment of the job, of which most is its start; the others in the training."""
    tasks, expected, seconds = undisturbed
    draw = random.Random(1000 * tasks + number)
    job = submit(slurm, tmp_path, images, tasks)
    if number % 2:
        epoch, moment = draw.randint(1, EPOCHS - 1), draw.random()
        job.begun(f"epoch {epoch}/{EPOCHS}")
        record_property("stopped", f"{moment:.1f} s after the end of epoch {epoch}")
    else:
        moment = draw.random() * seconds * 0.95
        record_property("stopped", f"after {moment:.1f} s of {seconds:.1f} s")
    until_then = threading.Timer(moment, lambda: None)
    until_then.start()
    wait_until(lambda: not until_then.is_alive() or job.state in ENDED)
    stops: list[bool] = []
    # Before srun has begun there is nothing that it could reach: soon again.
    wait_until(lambda: job.state in ENDED or (job.signal("USR1") and not stops.append(True)))
    stopped, said = bool(stops), job.log()
    record_property("before", (said.strip().splitlines() or [""])[-1])
    assert job.wait() == "COMPLETED", job.log()
    check_log(job)
    if stopped and "Results: " not in said:
        assert job.restarts == 1, job.log()
    record_property("restarts", job.restarts)
    theirs = weights(expected)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(tmp_path / "run").items())
    for name in ("predictions.csv",):
        assert (tmp_path / "run" / name).read_bytes() == (expected / name).read_bytes()
    assert not list(tmp_path.glob(".medsoft-*"))


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_cancelled_job_keeps_its_state_and_is_not_requeued(tasks, slurm, images, tmp_path):
    job = submit(slurm, tmp_path, images, tasks, "--trainer.max_epochs=200")
    job.begun("epoch 2/200")
    job.cancel()
    assert job.wait() == "CANCELLED"
    assert job.restarts == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert "Traceback" not in job.log()  # SLURM itself says what it has killed


def test_ahead_of_its_time_limit_a_job_makes_room_and_goes_on(slurm, images, tmp_path):
    """The limit's own signal: SLURM looks every few seconds, and a minute is the shortest limit."""
    job = submit(
        slurm, tmp_path, images, 2, "--trainer.max_epochs=100000", options=("--time=1", "--signal=USR1@45")
    )  # fmt: skip
    wait_until(lambda: job.restarts or job.state in ENDED)
    assert job.restarts == 1, job.log()
    assert "asking for another run" in job.log()
    job.cancel()
    job.wait()
    check_log(job)


def test_two_nodes_with_a_process_each_learn_what_two_processes_of_one_do(slurm, images, tmp_path, undisturbed):
    tasks, expected, _ = undisturbed
    if tasks == 1:
        pytest.skip("compared with two processes of one node")
    job = submit(slurm, tmp_path, images, 1, options=("--nodes=2",))
    assert job.wait() == "COMPLETED", job.log()
    assert job.facts()["NumNodes"] == "2"
    check_log(job)
    theirs = weights(expected)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(tmp_path / "run").items())


def test_a_partition_that_is_not_there_is_said_by_sbatch(slurm, tmp_path):
    done = slurm.call("sbatch", "--partition=nowhere", SCRIPTS / "fit.sbatch", "run", cwd=tmp_path)
    assert done.returncode != 0
    assert "invalid partition" in done.stderr


ONE_LINE = re.compile(r"(srun: .*\n)*medsoft: error: .*\n(srun: .*\n)*")


@pytest.mark.parametrize(
    ("started", "devices", "said"),
    [
        (["--ntasks-per-node=2"], 1, "srun has started 2 process(es) on 1 machine(s)"),
        (["-n", "2"], 2, "give it --ntasks-per-node instead"),
        (["--nodes=2", "--ntasks-per-node=1"], 2, "srun has started 2 process(es) on 2 machine(s)"),
    ],
)
def test_srun_with_other_tasks_than_processes_is_refused_in_one_line(slurm, images, tmp_path, started, devices, said):
    options = words(images, "--out=run", f"--trainer.devices={devices}")
    done = slurm.call("srun", *started, "medsoft", "fit", *options, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert ONE_LINE.fullmatch(without_progress(done.stderr)), done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("devices", [1, 2])
def test_in_the_shell_of_salloc_medsoft_starts_its_processes(slurm, images, tmp_path, devices):
    options = words(images, "--out=run", f"--trainer.devices={devices}", "--trainer.max_epochs=1")
    done = slurm.call("salloc", f"--ntasks-per-node={devices}", "medsoft", "fit", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line for line in without_progress(done.stderr).splitlines() if not line.startswith("salloc: ")] == []
    assert (tmp_path / "run" / "predictions.csv").is_file()


def test_a_job_without_srun_does_not_wait_for_others(slurm, images, tmp_path):
    script = tmp_path / "own.sh"
    options = " ".join(f"'{word}'" for word in words(images, "--out=run", "--trainer.max_epochs=1"))
    script.write_text(f"#!/bin/bash\n#SBATCH --ntasks-per-node=2\n#SBATCH --output=own-%j.out\nmedsoft fit {options}\n")
    job = slurm.submit(tmp_path, script)
    assert job.wait() == "COMPLETED", job.log()
    check_log(job)


def test_a_script_of_ones_own_without_a_container_is_requeued_by_medsoft(slurm, images, tmp_path, undisturbed):
    """As the guide says: srun, and --resume where there is a state."""
    tasks, expected, _ = undisturbed
    script = tmp_path / "own.sh"
    options = " ".join(f"'{word}'" for word in words(images, f"--trainer.devices={tasks}"))
    script.write_text(
        f"#!/bin/bash\n#SBATCH --requeue\n#SBATCH --ntasks-per-node={tasks}\n#SBATCH --output=own-%j.out\n"
        "#SBATCH --open-mode=append\n"
        "if [ -f run/checkpoints/last.ckpt ]; then srun medsoft fit --resume run\n"
        f"else srun medsoft fit --out run {options}; fi\n"
    )
    job = slurm.submit(tmp_path, script)
    job.begun(f"epoch 1/{EPOCHS}")
    assert job.signal("USR1")
    assert job.wait() == "COMPLETED", job.log()
    assert job.restarts == 1
    check_log(job)
    theirs = weights(expected)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(tmp_path / "run").items())
