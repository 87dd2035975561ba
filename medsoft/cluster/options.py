"""Options for where the work on slides runs; light to import, because each verb imports them."""

from __future__ import annotations

from dataclasses import dataclass, field

from medsoft.errors import InputError, check_range
from medsoft.parsing.options import Settings
from medsoft.slides.tiling.settings import Precision


@dataclass(frozen=True)
class ClusterSettings:
    """What each job of --scheduler slurm asks for.

    Attributes:
        cores: Processors per job.
        memory: Memory per job, such as 32GB.
        walltime: Time limit of a job, as HH:MM:SS; a job that ends early is replaced, and its unfinished slides start
            again.
        queue: Partition that the jobs are submitted to.
        account: Account that the jobs are charged to.
        directives: Further options for sbatch, such as '[--gres=gpu:1]'.
        prologue: Shell commands that each job starts with, such as '[module load apptainer]'.
        python: Command that runs Python in a job, such as 'apptainer exec medsoft.sif python'; the current Python by
            default.
        interface: Network interface between this machine and the jobs, such as ib0.
        logs: Folder for the jobs' output, visible to all machines; slurm/ in --out by default.

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
class Workers(Settings):
    """Where the work runs: in this process, in several processes on this machine, or on a cluster.

    Attributes:
        scheduler: Where the work runs; local is this machine, slurm submits jobs, tcp://HOST:PORT is a running Dask
            scheduler.
        jobs: Number of processes among which the slides are divided, or with slurm the number of jobs at a time; by
            default this process does all the work.
        cluster: What SLURM jobs request.
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
        if self.scheduler not in ("local", "slurm") and not self.is_remote:
            raise InputError(f"--scheduler {self.scheduler}: local, slurm, or an address such as tcp://node:8786")
        if self.scheduler == "slurm" and self.jobs is None:
            raise InputError("--scheduler slurm: say how many jobs may run at once with --jobs")
        if self.is_remote and self.jobs is not None:
            raise InputError(f"--scheduler {self.scheduler} has workers of its own: leave out --jobs")
        if self.scheduler != "slurm" and self.cluster != ClusterSettings():
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

    @property
    def device_here(self) -> str:
        """Where this process computes: where others do the work it only has to learn what the model is."""
        return self.device if self.scheduler == "local" else "cpu"

    def precision_here(self, precision: Precision) -> Precision:
        """Of the encoder in this process, likewise: what GPUs elsewhere compute in need not be possible here."""
        return precision if self.scheduler == "local" else "auto"
