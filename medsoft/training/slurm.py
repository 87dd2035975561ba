"""Requeues a preempted SLURM job, which later continues."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from medsoft.system.signals import Stopped, on_signals


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

    SIGTERM asks for nothing: it also comes when the user cancels a job, and where SLURM requeues by itself.

    Returns:
        What to tell the user; "" where nothing was asked.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if signal_number != signal.SIGUSR1 or job is None:
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
