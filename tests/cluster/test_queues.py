"""Jobs of PBS, LSF and SGE: the scripts that are written for them, and what their commands answer."""

import logging
from pathlib import Path

import pytest

from medsoft.cluster.jobs import cluster_jobs
from medsoft.cluster.options import JOB_SCHEDULERS, ClusterSettings
from medsoft.cluster.queues import QUEUES
from medsoft.cluster.worker_log import dask_setup
from medsoft.errors import InputError
from tests.builders.waiting import wait_until
from tests.cluster.slurm.real import SCRIPTS, Job, Slurm, missing

SETTINGS = {"cores": 8, "memory": "32GB", "walltime": "04:30:00", "queue": "long", "account": "lab", "interface": "lo"}


def test_every_scheduler_is_known():
    assert tuple(QUEUES) == JOB_SCHEDULERS


def command(folder: Path, name: str, text: str) -> None:
    file = folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("scheduler", "changes", "lines"),
    [
        (
            "pbs",
            {},
            ["#PBS -N medsoft", "#PBS -q long", "#PBS -A lab", "#PBS -l select=1:ncpus=8:mem=30518mb",
             "#PBS -l walltime=04:30:00"],
        ),
        (
            "pbs",
            {"resources": "select=1:ncpus=8:ngpus=1:mem=32GB", "directives": ["-W group_list=lab"]},
            ["#PBS -l select=1:ncpus=8:ngpus=1:mem=32GB", "#PBS -W group_list=lab"],
        ),
        (
            "lsf",
            {"directives": ['-gpu "num=1"']},
            ["#BSUB -J medsoft", "#BSUB -q long", '#BSUB -P "lab"', "#BSUB -n 8", '#BSUB -R "span[hosts=1]"',
             "#BSUB -W 04:30", '#BSUB -gpu "num=1"'],
        ),
        (
            "sge",
            {"resources": "h_vmem=4G,gpu=1", "directives": ["-pe smp 8"]},
            ["#$ -N medsoft", "#$ -q long", "#$ -P lab", "#$ -l h_vmem=4G,gpu=1", "#$ -l h_rt=04:30:00",
             "#$ -pe smp 8"],
        ),
    ],
)  # fmt: skip
def test_the_script_of_a_job_asks_for_what_was_asked_for(tmp_path, monkeypatch, scheduler, changes, lines):
    """Submitted by a stub, which keeps the script: no worker comes."""
    submit = QUEUES[scheduler].submit
    keep = f'cp "$1" {tmp_path}/job.sh' if scheduler != "lsf" else f"cat >{tmp_path}/job.sh"
    words = {"pbs": "77.server", "lsf": "Job <77> is submitted.", "sge": 'Your job 77 ("medsoft") has been submitted'}
    command(tmp_path, submit, f"{keep}\necho '{words[scheduler]}'")
    for cancel in ("qdel", "bkill"):
        command(tmp_path, cancel, f'echo "$@" >>{tmp_path}/cancelled')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    settings = ClusterSettings(**(SETTINGS | {"prologue": ["module load apptainer"]} | changes))
    with cluster_jobs(scheduler, settings, 1, 2, "127.0.0.1:0", tmp_path) as (cluster, _):
        script = cluster.job_script()
        cluster.sync(cluster._correct_state)
    for line in lines:
        assert line in script.splitlines(), script
    assert "module load apptainer" in script
    assert "export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'" in script
    assert "--nthreads 2" in script
    assert "--tls-key" in script
    assert str(tmp_path / scheduler) in script, "logs"


@pytest.mark.parametrize("scheduler", ["pbs", "lsf", "sge"])
def test_a_scheduler_whose_commands_are_not_here_is_one_message(tmp_path, monkeypatch, scheduler):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(InputError, match=f"--scheduler {scheduler}: there is no {QUEUES[scheduler].submit} here"),
        cluster_jobs(scheduler, ClusterSettings(), 1, 2, "127.0.0.1:0", tmp_path),
    ):
        pass


ANSWERS = {
    "slurm": ("squeue", "12\n13\n"),
    "pbs": (
        "qstat",
        "Job id            Name             User              Time Use S Queue\n"
        "----------------  ---------------- ----------------  -------- - -----\n"
        "12.server         medsoft          ada               00:00:01 R long\n"
        "13.server         medsoft          ada                      0 Q long\n",
    ),
    "lsf": ("bjobs", "12\n13\n"),
    "sge": (
        "qstat",
        "job-ID  prior   name       user         state submit/start at     queue      slots ja-task-ID\n"
        "----------------------------------------------------------------------------------------------\n"
        "     12 0.55500 medsoft    ada          r     12/01/2026 02:00:00 long@n1        8\n"
        "     13 0.00000 medsoft    ada          qw    12/01/2026 02:00:00                8\n",
    ),
}


@pytest.mark.parametrize("scheduler", JOB_SCHEDULERS)
def test_the_jobs_that_a_cluster_knows(tmp_path, monkeypatch, scheduler):
    name, text = ANSWERS[scheduler]
    (tmp_path / "answer").write_text(text)
    command(tmp_path, name, f"cat {tmp_path}/answer")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert QUEUES[scheduler].known("medsoft") == {"12", "13"}
    command(tmp_path, name, "echo cannot reach the server >&2; exit 255")
    assert QUEUES[scheduler].known("medsoft") is None, "no answer is not: no jobs"
    command(tmp_path, name, "")
    assert QUEUES[scheduler].known("medsoft") == set()
    if scheduler == "lsf":
        command(tmp_path, name, "echo No unfinished job found >&2; exit 255")
        assert QUEUES[scheduler].known("medsoft") == set()


@pytest.mark.parametrize(
    ("scheduler", "files"),
    [
        ("slurm", ["medsoft-12.err", "medsoft-12.out"]),
        ("pbs", ["medsoft.e12"]),
        ("pbs", ["12.server.ER"]),
        ("lsf", ["0-12.err", "0-12.out"]),
        ("sge", ["medsoft.o12"]),
    ],
)
def test_where_the_output_of_a_job_is(tmp_path, scheduler, files):
    for name in (*files, "medsoft-121.err", "medsoft.e121", "0-121.err", "medsoft.o121"):
        (tmp_path / name).touch()
    assert [file.name for file in QUEUES[scheduler].logs(tmp_path, "medsoft", "12")] == files


def test_what_dask_says_of_work_that_was_given_up_is_no_news(monkeypatch, caplog):
    loggers = [logging.getLogger(f"distributed.{name}") for name in ("nanny", "worker.state_machine")]
    for logger in loggers:
        monkeypatch.setattr(logger, "filters", [])
        monkeypatch.setattr(logger, "propagate", True)
    dask_setup(None)
    nanny, tasks = loggers
    for error in (EOFError("its pipe is closed"), KeyError("a fault")):
        try:
            raise error
        except (EOFError, KeyError):
            nanny.warning("Worker process died unexpectedly", exc_info=True)
    tasks.warning("Async instruction for a task ended with CancelledError")
    tasks.warning("Async instruction for a task ended with KeyError")
    said = [(record.message, record.exc_info and record.exc_info[0]) for record in caplog.records]
    assert said == [
        ("Worker process died unexpectedly", KeyError),
        ("Async instruction for a task ended with KeyError", None),
    ]


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_real_slurm_takes_the_scripts_and_the_jobs_and_refuses_a_wrong_partition(tmp_path, monkeypatch):
    """A few seconds, where one is installed; scripts/test_cluster has the rest."""
    settings = {"interface": "lo", "cores": 2, "memory": "2GB", "python": "sleep 3600; true"}
    with Slurm(tmp_path / "cluster") as slurm:
        monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
        for script in sorted(SCRIPTS.glob("*.sbatch")):
            done = slurm.call("sbatch", "--test-only", script, "run", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        with cluster_jobs("slurm", ClusterSettings(**settings), 1, 2, "127.0.0.1:0", tmp_path):
            submitted: list[str] = []
            wait_until(lambda: submitted.extend(slurm.jobs()) or submitted)
            facts = Job(slurm, submitted[0], tmp_path).facts()
        assert (facts["JobName"], facts["NumCPUs"]) == ("medsoft", "2")
        wait_until(lambda: not slurm.jobs())  # cancelled; SLURM lists it a little longer
        wrong = ClusterSettings(**settings, queue="nowhere")
        with (
            pytest.raises(InputError, match=r"SLURM does not take the jobs: .*invalid partition"),
            cluster_jobs("slurm", wrong, 1, 2, "127.0.0.1:0", tmp_path),
        ):
            pass
