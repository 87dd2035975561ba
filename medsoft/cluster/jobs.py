"""Worker processes as jobs of a cluster, submitted by Dask and watched: a job that dies early tells only its log."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import TYPE_CHECKING, Any

from medsoft.cluster.options import ClusterSettings
from medsoft.cluster.pages import CLOSED_PAGES, QUIET_ENDS
from medsoft.cluster.queues import QUEUES
from medsoft.errors import InputError, RunError
from medsoft.system.child_processes import SAFE_PATH, safe_python
from medsoft.system.logging import event

if TYPE_CHECKING:
    from distributed import SchedulerPlugin, Security

LOOK_SECONDS = 10.0
"""Between two questions to the cluster. A job counts as ended when two answers in a row do not name it."""

LONGEST_PAUSE_SECONDS = 600.0

FEW = 3
"""Jobs that end one after the other, before any begins to work, until the run is given up, or slows down."""

NAME = "medsoft"


@contextmanager
def cluster_jobs(
    scheduler: str, settings: ClusterSettings, jobs: int, slides_at_once: int, status_page: str, out: Path
) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Jobs that work for this process, until the block ends.

    Args:
        scheduler: a key of ``QUEUES``.
        settings: what each asks for.
        jobs: how many at once, always: one that is lost is submitted again.
        slides_at_once: threads of a worker.
        status_page: where Dask's page of the scheduler is.
        out: folder of the results, for the jobs' output where ``settings`` does not say another.

    Yields:
        Dask's cluster, and ``EarlyEnds.look``, to be called again and again.

    Raises:
        InputError: the cluster's commands are not here, or it does not take the jobs.
    """
    queue = QUEUES[scheduler]
    logs = Path(os.path.abspath(settings.logs or out / scheduler))  # noqa: PTH100 (links stay: nodes know them)
    if shlex.quote(str(logs)) != str(logs):
        raise InputError(f"{logs}: jobs cannot have blanks or the like in this name: choose another --cluster.logs")
    if shutil.which(queue.submit) is None:
        raise InputError(
            f"--scheduler {scheduler}: there is no {queue.submit} here; start this where jobs are submitted"
        )
    logs.mkdir(parents=True, exist_ok=True)
    with _keys(logs) as security:
        try:
            cluster = queue.cluster()(
                **queue.options(settings),
                cores=slides_at_once,
                processes=1,
                memory=settings.memory,
                queue=settings.queue,
                job_extra_directives=settings.directives,
                job_script_prologue=[f"export {SAFE_PATH}=1", *_exports(), *settings.prologue],
                python=safe_python(settings.python),
                interface=settings.interface,
                log_directory=str(logs),
                job_name=NAME,
                # The cluster itself holds a job to its memory; Dask would pause a worker well below.
                worker_extra_args=["--memory-limit", "0", "--no-dashboard", "--dashboard-address", status_page],
                protocol="tls://",
                security=security,
                scheduler_options={"dashboard": False, "dashboard_address": status_page},
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(f"--scheduler {scheduler}: {' '.join(str(error).split())}") from None
        with cluster:
            if queue.test is not None:
                _test(scheduler, queue.test, cluster.job_script())
            cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
            print(f"Submitting {queue.name} jobs, {jobs} at a time; their output is in {logs}", flush=True)
            ends = EarlyEnds(cluster, jobs, logs, scheduler)
            cluster.scheduler.add_plugin(_arrivals(ends), name="medsoft-arrivals")
            yield cluster, ends.look


def _exports() -> list[str]:
    """``CLOSED_PAGES`` and the quiet end of workers, for the shell of a job."""
    named = {key.replace(".", "__"): value for key, value in (CLOSED_PAGES | QUIET_ENDS).items()}
    return [f"export DASK_{key.upper()}={shlex.quote(str(value))}" for key, value in named.items()]


class EarlyEnds:
    """Notices jobs that end before their worker has come, which Dask takes for jobs that still wait in the queue.

    Args:
        cluster: of dask-jobqueue.
        jobs: how many are wanted.
        logs: where their output is.
        scheduler: a key of ``QUEUES``.
    """

    def __init__(self, cluster: Any, jobs: int, logs: Path, scheduler: str = "slurm") -> None:
        self._cluster, self._jobs, self._logs, self._scheduler = cluster, jobs, logs, scheduler
        self._came: set[str] = set()
        self._missed: set[str] = set()
        self._in_a_row = 0
        self._next = 0.0

    def came(self, worker: str) -> None:
        """Note that a worker has begun to work: it may be gone again before the next look.

        Args:
            worker: its name.
        """
        for name, job in list(self._cluster.workers.items()):
            if str(name) == worker and job.job_id:
                self._came.add(job.job_id)
                self._in_a_row = 0

    def look(self) -> None:
        """Say which jobs ended early, and submit them again; does nothing if it has just done so.

        Raises:
            RunError: they keep ending, and none works.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_SECONDS
        jobs = {job.job_id: name for name, job in list(self._cluster.workers.items()) if job.job_id}
        here = {str(worker["name"]) for worker in list(self._cluster.scheduler_info["workers"].values())}
        working = {job for job, name in jobs.items() if str(name) in here}
        waiting = jobs.keys() - self._came
        known = QUEUES[self._scheduler].known(NAME) if waiting else None
        if known is None:
            return
        missed, before = waiting - known, self._missed
        self._missed = missed - before
        ended = sorted(missed & before)
        for job in ended:
            self._in_a_row += 1
            event("job ended early", "warning", in_a_row=self._in_a_row)
            print(f"Job {job} ended before it began to work: {self._last_words(job)}", flush=True)
        if not ended:
            return
        if not working and self._in_a_row >= max(FEW, self._jobs):
            raise RunError(
                f"--scheduler {self._scheduler}: {self._in_a_row} jobs in a row ended before they began to work, and "
                f"none works; the last one, {ended[-1]}: {self._last_words(ended[-1])}. Finished work is kept"
            )
        for job in ended:
            self._cluster.workers.pop(jobs[job], None)
        self._cluster.scale(jobs=self._jobs)  # what is missing is submitted
        pause = LOOK_SECONDS * 2.0 ** max(0, self._in_a_row - FEW)  # a node may be broken on which every job dies
        self._next = time.monotonic() + min(LONGEST_PAUSE_SECONDS, pause)

    def _last_words(self, job: str) -> str:
        """The last line that a job has left, and where; not known where the cluster keeps its output elsewhere."""
        for file in QUEUES[self._scheduler].logs(self._logs, NAME, job):
            try:
                lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
            except OSError:
                continue
            said = [line.strip() for line in lines if line.strip()]
            if said:
                return f"{said[-1][:300]} ({file})"
        return f"it left no output in {self._logs}"


def _arrivals(ends: EarlyEnds) -> SchedulerPlugin:
    """Tells ``ends`` of each worker as it comes."""
    from distributed import Scheduler, SchedulerPlugin

    class Arrivals(SchedulerPlugin):  # type: ignore[misc]
        def add_worker(self, scheduler: Scheduler, worker: str) -> None:
            ends.came(str(scheduler.workers[worker].name))

    return Arrivals()


def _test(scheduler: str, test: tuple[str, ...], script: str) -> None:
    """Let the cluster look at a job: later Dask would submit one that is refused again and again.

    Raises:
        InputError: it would not take it.
    """
    with NamedTemporaryFile("w", prefix="medsoft-", suffix=".sh") as file:
        file.write(script)
        file.flush()
        done = subprocess.run([*test, file.name], capture_output=True, text=True)
    if done.returncode:
        name, said = QUEUES[scheduler].name, " ".join(done.stderr.split())
        raise InputError(f"--scheduler {scheduler}: {name} does not take the jobs: {said}")


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
