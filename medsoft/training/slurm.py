"""Jobs of SLURM: the processes that srun has started, and a preempted job that is requeued and later continues."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from medsoft.errors import InputError
from medsoft.system.signals import SIGUSR1, Stopped, on_signals


def tasks_of_srun() -> int:
    """Processes that srun has started for one command, this one among them; 1 without srun.

    A job's script and the shell of salloc have no step of their own, whatever number of tasks the job has.
    """
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) if "SLURM_STEP_ID" in os.environ else 1


def further_rank_of_srun() -> bool:
    """Whether srun has started this process beside a first one, which speaks for it."""
    return tasks_of_srun() > 1 and os.environ.get("SLURM_PROCID", "0") != "0"


def check_srun(devices: int, nodes: int) -> None:
    """Check that srun has started as many processes as are to train together.

    A single one may start the others of its machine itself.

    Args:
        devices: processes per machine.
        nodes: machines.

    Raises:
        InputError: it has started others; says how many on how many machines.
    """
    tasks, machines = tasks_of_srun(), int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    if tasks == 1 and (nodes == 1 or "SLURM_JOB_ID" not in os.environ):
        return
    advice = (
        f"start medsoft with srun --nodes={nodes} --ntasks-per-node={devices}, or change --trainer.devices and "
        "--trainer.num_nodes"
    )
    if (tasks, machines) != (devices * nodes, nodes):
        raise InputError(
            f"srun has started {tasks} process(es) on {machines} machine(s), and {devices} on each of {nodes} are to "
            f"work together (--trainer.devices, --trainer.num_nodes): {advice}"
        )


@contextmanager
def stopped_by_sigusr1() -> Iterator[None]:
    """In a job of SLURM, let SIGUSR1 end the block with ``Stopped``; the training itself takes it over meanwhile.

    ``#SBATCH --signal=USR1@300`` has it sent five minutes ahead of the job's end.
    """
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return

    def stop(number: int) -> None:
        raise Stopped(number)

    with on_signals([signal.SIGUSR1], stop):
        yield


def requeue(signal_number: int) -> str:
    """Ask SLURM to run this job again, where the signal was SIGUSR1 and this is a job of it.

    SIGTERM asks for nothing: it also comes when the user cancels a job, and where SLURM requeues by itself. Of the
    processes that srun has started the first asks.

    Returns:
        What to tell the user; "" where nothing was asked.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or signal_number != SIGUSR1 or further_rank_of_srun():
        return ""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    except FileNotFoundError:  # as in a container
        return f"There is no scontrol here: exit code 138 asks the job's script to requeue job {job}."
    except OSError as error:
        return f"Job {job} could not be requeued: {error}"
    if done.returncode:
        return f"Job {job} could not be requeued: {' '.join(done.stderr.split())}"
    return f"Job {job} is requeued."
