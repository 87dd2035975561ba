"""Worker processes from Dask: on this machine, as jobs of SLURM, or of a scheduler that runs already."""

from __future__ import annotations

import itertools
import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Any

from medsoft.errors import InputError, RunError, check_range
from medsoft.slides.folder import SlidesFolder

if TYPE_CHECKING:
    from distributed import Client, Security

SLIDES_AT_ONCE = 2
"""Slides in one worker process: while one is encoded, the next is opened and read."""

CONNECT_SECONDS = 30

STATUS_PAGE = "127.0.0.1:0"
"""Dask's scheduler always has one; of medsoft's, only this machine sees it, at any free port."""

TIDY_SECONDS = 12
"""A little longer than a file must lie untouched to be known as left behind."""


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


class Cluster:
    """The worker processes, started when they are first needed, and stopped when the block ends, however it ends.

    What travels between processes is encrypted, and others are refused, where medsoft starts the scheduler. On this
    machine the processes meet at 127.0.0.1, and nothing listens elsewhere.

    Attributes:
        workers: which.

    Args:
        workers: as the attribute.
        folder: of the results; what lost workers leave half-written there is removed.
    """

    def __init__(self, workers: Workers, folder: SlidesFolder) -> None:
        self.workers = workers
        self._folder = folder
        self._client: Client | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        started = self._client is not None
        self._stack.close()
        if started:
            self._tidy()

    def _tidy(self) -> None:
        """Remove what lost workers left half-written; waits until it is known to be theirs."""
        until = time.monotonic() + TIDY_SECONDS
        while self._folder.tidy() and time.monotonic() < until:
            time.sleep(0.5)

    @property
    def client(self) -> Client:
        """Of Dask.

        Raises:
            InputError: no scheduler answers, or SLURM does not take the jobs.
        """
        if self._client is None:
            try:
                self._client = self._connect()
            except BaseException:
                self._stack.close()
                raise
        return self._client

    def _connect(self) -> Client:
        from distributed import Client

        self._stack.enter_context(_stopped_by_sigterm())
        if not self.workers.is_remote:
            start = _local if self.workers.scheduler == "local" else _slurm
            return self._stack.enter_context(Client(self._stack.enter_context(start(self.workers, self._folder.path))))
        try:
            return self._stack.enter_context(Client(self.workers.scheduler, timeout=CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            raise InputError(f"--scheduler {self.workers.scheduler}: {' '.join(str(error).split())}") from None


@contextmanager
def _local(workers: Workers, out: Path) -> Iterator[Any]:
    import dask
    from distributed import LocalCluster

    del out
    # A slide that has killed two processes is tried alone; no need to let it kill more.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=workers.jobs,
            threads_per_worker=SLIDES_AT_ONCE,
            host="127.0.0.1",
            dashboard_address=STATUS_PAGE,
            security=True,
            memory_limit=None,
        ) as cluster,
    ):
        try:
            yield cluster
        finally:  # that a process whose work is done does not end by itself in 4 s is no news
            logging.getLogger("distributed.nanny").setLevel(logging.ERROR)


@contextmanager
def _slurm(workers: Workers, out: Path) -> Iterator[Any]:
    from dask_jobqueue import SLURMCluster

    settings = workers.settings
    logs = Path(os.path.abspath(settings.logs or out / "slurm"))  # noqa: PTH100 (links stay: nodes know them)
    if shlex.quote(str(logs)) != str(logs):
        raise InputError(f"{logs}: jobs cannot have blanks or the like in this name: choose another --cluster.logs")
    if shutil.which("sbatch") is None:
        raise InputError("--scheduler slurm: there is no sbatch here; start this where jobs are submitted")
    logs.mkdir(parents=True, exist_ok=True)
    with _keys(logs) as security:
        try:
            cluster = SLURMCluster(
                cores=SLIDES_AT_ONCE,
                job_cpu=settings.cores,
                processes=1,
                memory=settings.memory,
                walltime=settings.walltime,
                queue=settings.queue,
                account=settings.account,
                job_extra_directives=settings.directives,
                job_script_prologue=settings.prologue,
                python=settings.python,
                interface=settings.interface,
                log_directory=str(logs),
                job_name="medsoft",
                # SLURM itself holds a job to its memory; Dask would pause a worker well below.
                worker_extra_args=["--memory-limit", "0"],
                protocol="tls://",
                security=security,
                scheduler_options={"dashboard": False, "dashboard_address": STATUS_PAGE},
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(f"--scheduler slurm: {' '.join(str(error).split())}") from None
        with cluster:
            _test(cluster.job_script())
            # As many jobs as are asked for, always: one that is lost is submitted again.
            cluster.adapt(minimum_jobs=workers.jobs, maximum_jobs=workers.jobs)
            print(f"Jobs of SLURM are submitted, {workers.jobs} at once; what they say: {logs}", flush=True)
            yield cluster


def _test(script: str) -> None:
    """Let SLURM look at a job: later Dask would submit one that is refused again and again.

    Raises:
        InputError: it would not take it.
    """
    with NamedTemporaryFile("w", prefix="medsoft-", suffix=".sh") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"--scheduler slurm: SLURM does not take the jobs: {' '.join(done.stderr.split())}")


@contextmanager
def _keys(folder: Path) -> Iterator[Security]:
    """Keys for this run alone, in files that only this user can read; jobs find them by name."""
    from distributed import Security

    made = Security.temporary().get_tls_config_for_role("worker")
    with TemporaryDirectory(prefix="keys-", dir=folder) as place:
        files = {name: str(Path(place, name)) for name in ("ca_file", "cert", "key")}
        for name, file in files.items():
            Path(file).write_text(made[name])
        roles = itertools.product(("scheduler", "worker", "client"), ("cert", "key"))
        of_roles = {f"tls_{role}_{name}": files[name] for role, name in roles}
        yield Security(require_encryption=True, tls_ca_file=files["ca_file"], **of_roles)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that workers are stopped and half-written files removed.

    Where the progress of the slides sees to that already, it goes on doing so.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lost_scheduler() -> RunError:
    """What is to be said where the scheduler is gone."""
    return RunError(
        "the connection to the cluster's scheduler is lost; what was finished is kept. Start the same command again "
        "to go on"
    )
