"""Options for where the work on slides runs; light to import, because each verb imports them."""

from __future__ import annotations

from dataclasses import dataclass, field

from medsoft.errors import InputError, check_range
from medsoft.parsing.options import Settings
from medsoft.slides.tiling.settings import Precision

JOB_SCHEDULERS = ("slurm", "pbs", "lsf", "sge")
"""Clusters that jobs are submitted to; ``medsoft.cluster.queues`` knows each."""


@dataclass(frozen=True)
class ClusterSettings:
    """What each job of --scheduler slurm, pbs, lsf or sge asks for.

    Attributes:
        cores: Processors per job.
        memory: Memory per job, such as 32GB.
        walltime: Time limit of a job, as HH:MM:SS; a job that ends early is replaced, and its unfinished slides start
            again.
        queue: Partition or queue that the jobs are submitted to.
        account: Account or project that the jobs are charged to.
        resources: Request in the words of PBS, in place of cores and memory, such as
            select=1:ncpus=8:ngpus=1:mem=32GB; or of SGE, such as h_vmem=16G, which is told of no memory otherwise.
        directives: Further options for sbatch, qsub or bsub, such as '[--gres=gpu:1]'; SGE is told of processors by
            one alone, such as '[-pe smp 4]'.
        prologue: Shell commands that each job starts with, such as '[module load apptainer]'.
        python: Command that runs Python in a job, such as 'apptainer exec medsoft.sif python'; the current Python by
            default.
        interface: Network interface between this machine and the jobs, such as ib0.
        logs: Folder for the jobs' output, visible to all machines; by default one in --out with the scheduler's name.

    Raises:
        InputError: a number is out of its range.
    """

    cores: int = 4
    memory: str = "16GB"
    walltime: str = "08:00:00"
    queue: str | None = None
    account: str | None = None
    resources: str | None = None
    directives: list[str] = field(default_factory=list)
    prologue: list[str] = field(default_factory=list)
    python: str | None = None
    interface: str | None = None
    logs: str | None = None

    def __post_init__(self) -> None:
        check_range("cluster.cores", self.cores, 1)


@dataclass(frozen=True)
class Workers(Settings):
    """Where the work runs: in this process, in several processes on this machine, or on a cluster.

    Attributes:
        scheduler: Where the work runs; local is this machine, slurm, pbs, lsf and sge submit jobs, tcp://HOST:PORT is a
            running Dask scheduler.
        jobs: Number of processes among which the slides are divided, or the number of jobs at a time on a cluster; by
            default this process does all the work.
        cluster: What jobs of a cluster request.
        device: Device to compute on, such as auto, cpu, cuda or cuda:1.

    Raises:
        InputError: they do not fit each other.
    """

    scheduler: str = "local"
    jobs: int | None = None
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    device: str = "auto"

    def __post_init__(self) -> None:
        check_range("jobs", 1 if self.jobs is None else self.jobs, 1)
        if self.scheduler not in ("local", *JOB_SCHEDULERS) and not self.is_remote:
            known = ", ".join(("local", *JOB_SCHEDULERS))
            raise InputError(f"--scheduler {self.scheduler}: {known}, or an address such as tcp://node:8786")
        if self.submits_jobs and self.jobs is None:
            raise InputError(f"--scheduler {self.scheduler}: say how many jobs may run at once with --jobs")
        if self.is_remote and self.jobs is not None:
            raise InputError(f"--scheduler {self.scheduler} has workers of its own: leave out --jobs")
        if not self.submits_jobs and self.cluster != ClusterSettings():
            raise InputError(f"--cluster options are for --scheduler {', '.join(JOB_SCHEDULERS)}, not {self.scheduler}")
        if self.cluster.resources is not None and self.scheduler not in ("pbs", "sge"):
            raise InputError(f"--cluster.resources is for pbs and sge: tell {self.scheduler} by --cluster.directives")

    @property
    def submits_jobs(self) -> bool:
        """Whether processes come as jobs of a cluster."""
        return self.scheduler in JOB_SCHEDULERS

    @property
    def is_this_process(self) -> bool:
        """Whether no other process is needed."""
        return self.scheduler == "local" and self.jobs in (None, 1)

    @property
    def is_remote(self) -> bool:
        """Whether a scheduler runs already."""
        return self.scheduler.startswith(("tcp://", "tls://"))

    @property
    def on_one_machine(self) -> int:
        """Processes that share a machine's processors and GPUs."""
        return self.jobs or 1 if self.scheduler == "local" else 1

    @property
    def device_here(self) -> str:
        """Where this process computes: where others do the work it only has to learn what the model is."""
        return self.device if self.scheduler == "local" else "cpu"

    def precision_here(self, precision: Precision) -> Precision:
        """Of the encoder in this process, likewise: what GPUs elsewhere compute in need not be possible here."""
        return "auto" if precision == "16" and self.scheduler != "local" else precision
