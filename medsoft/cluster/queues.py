"""The clusters that jobs can be submitted to: what each calls its commands and options.

``dask_jobqueue`` writes the jobs' scripts. What it does not know is here: which jobs the cluster still knows, and where
their output is.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsoft.cluster.options import ClusterSettings

ASK_SECONDS = 60
"""How long a cluster may take to say which jobs it has."""


@dataclass(frozen=True)
class Queue:
    """A kind of cluster.

    Attributes:
        name: as its users write it.
        dask: class in ``dask_jobqueue``.
        submit: its command that takes jobs.
        listing: its command that lists this user's jobs, with {user} and {name} in it; a line each, which begins with
            the job's number.
        nothing: what that command says where it ends with an error because there are no jobs.
        output: patterns of the files with a job's output, with {name} and {job} in them; what is most telling first.
        account: what ``dask_jobqueue`` calls the account.
        test: command that says whether a script would be taken; None where there is none.
    """

    name: str
    dask: str
    submit: str
    listing: str
    output: tuple[str, ...]
    nothing: str = ""
    account: str = "account"
    test: tuple[str, ...] | None = None

    def cluster(self) -> Any:
        """The class of Dask's cluster."""
        import dask_jobqueue

        return getattr(dask_jobqueue, self.dask)

    def options(self, settings: ClusterSettings) -> dict[str, Any]:
        """What the class takes under names of its own."""
        return {self.account: settings.account, "walltime": settings.walltime, **self._requests(settings)}

    def _requests(self, settings: ClusterSettings) -> dict[str, Any]:
        return {"job_cpu": settings.cores}

    def known(self, name: str) -> set[str] | None:
        """Numbers of this user's jobs, in whatever state; None where the cluster does not answer.

        Args:
            name: of the jobs; where the cluster can be asked for no name, all of the user's jobs.
        """
        words = [word.format(user=os.getuid(), name=name) for word in self.listing.split()]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=ASK_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode and not (self.nothing and self.nothing in done.stderr):
            return None
        return set(re.findall(r"^\s*(\d+)", done.stdout, flags=re.MULTILINE))

    def logs(self, folder: Path, name: str, job: str) -> list[Path]:
        """Files that a job has written.

        Args:
            folder: of the logs.
            name: of the jobs.
            job: its number.
        """
        return [file for pattern in self.output for file in sorted(folder.glob(pattern.format(name=name, job=job)))]


class Pbs(Queue):
    """PBS Professional and OpenPBS."""

    def _requests(self, settings: ClusterSettings) -> dict[str, Any]:
        from dask.utils import parse_bytes

        memory = math.ceil(parse_bytes(settings.memory) / 2**20)
        return {"resource_spec": settings.resources or f"select=1:ncpus={settings.cores}:mem={memory}mb"}


class Lsf(Queue):
    """IBM's, which knows no seconds in time limits."""

    def _requests(self, settings: ClusterSettings) -> dict[str, Any]:
        limit = settings.walltime
        return {
            "ncpus": settings.cores,
            "walltime": limit.rpartition(":")[0] if limit.count(":") == 2 else limit,
        }


class Sge(Queue):
    """Grid Engine and its heirs, where each site has its own names for processors and memory."""

    def _requests(self, settings: ClusterSettings) -> dict[str, Any]:
        return {"resource_spec": settings.resources}


QUEUES: dict[str, Queue] = {
    "slurm": Queue(
        "SLURM", "SLURMCluster", "sbatch", "squeue --noheader --format=%i --user={user} --name={name}",
        output=("{name}-{job}.err", "{name}-{job}.out"), test=("sbatch", "--test-only"),
    ),
    "pbs": Pbs("PBS", "PBSCluster", "qsub", "qstat", output=("{name}.e{job}", "{job}.*.ER")),
    "lsf": Lsf(
        "LSF", "LSFCluster", "bsub", "bjobs -noheader -o jobid", output=("*-{job}.err", "*-{job}.out"),
        nothing="No unfinished job found", account="project",
    ),
    "sge": Sge(
        "SGE", "SGECluster", "qsub", "qstat", output=("{name}.o{job}",), account="project",
    ),
}  # fmt: skip
"""By the value of ``--scheduler``."""
