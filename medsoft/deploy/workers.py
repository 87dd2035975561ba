"""Which processes work on a cohort of slides, as the options of the verbs say; light, as each verb imports it."""

from __future__ import annotations

from dataclasses import dataclass, field

from medsoft.errors import InputError, check_range


@dataclass(frozen=True)
class ClusterSettings:
    """What each job of --scheduler slurm asks for.

    Attributes:
        cores: Processors of a job.
        memory: Memory of a job, such as 32GB.
        walltime: Longest time of a job, as HH:MM:SS; a job that ends is replaced, and its slides are done again.
        queue: Partition.
        account: Account that the jobs are charged to.
        directives: Further options of sbatch, such as '[--gres=gpu:1]'.
        prologue: Lines of shell that a job begins with, such as '[module load apptainer]'.
        python: Command that runs Python in a job, such as 'apptainer exec medsoft.sif python'; this one by default.
        interface: Network interface between this machine and the jobs, such as ib0.
        logs: Folder for the jobs' output, which all machines see; slurm/ in --out by default.

    Raises:
        InputError: a number is out of its range.
    """

    cores: int = 4
    memory: str = "16GB"
    walltime: str = "08:00:00"
    queue: str | None = None
    account: str | None = None
    directives: list[str] = field(default_factory=list)
    prologue: list[str] = field(default_factory=list)
    python: str | None = None
    interface: str | None = None
    logs: str | None = None

    def __post_init__(self) -> None:
        check_range("cluster.cores", self.cores, 1)


@dataclass(frozen=True)
class Workers:
    """Which processes do the work.

    Attributes:
        scheduler: ``local``, ``slurm``, or the address of a Dask scheduler.
        jobs: number of processes or jobs; None where the scheduler has its own.
        settings: of SLURM's jobs.

    Raises:
        InputError: they do not fit each other.
    """

    scheduler: str
    jobs: int | None
    settings: ClusterSettings

    def __post_init__(self) -> None:
        check_range("jobs", 1 if self.jobs is None else self.jobs, 1)
        if self.scheduler not in ("local", "slurm") and not self.is_remote:
            raise InputError(f"--scheduler {self.scheduler}: local, slurm, or an address such as tcp://node:8786")
        if self.scheduler == "slurm" and self.jobs is None:
            raise InputError("--scheduler slurm: say how many jobs may run at once with --jobs")
        if self.is_remote and self.jobs is not None:
            raise InputError(f"--scheduler {self.scheduler} has workers of its own: leave out --jobs")
        if self.scheduler != "slurm" and self.settings != ClusterSettings():
            raise InputError(f"--cluster options are for --scheduler slurm, not {self.scheduler}")

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
