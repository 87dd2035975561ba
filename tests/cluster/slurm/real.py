"""A real SLURM of two nodes on this machine: its daemons, and the jobs that are given to it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.builders.waiting import LIMIT_SECONDS, wait_until

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "docker" / "slurm"

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}

LOGS = {".out", ".err", ".log", ".jsonl", ".said"}

# Requeued jobs wait until credentials expire, 121 s by default. Nodes say that they have more than this machine has, so
# that the job scripts run as they are.
CONFIGURATION = """
ClusterName=medsoft
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
MpiDefault=none
KillWait=10
MinJobAge=7200
OverTimeLimit=0
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=400000 Gres=gpu:8
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 RealMemory=400000 Gres=gpu:8
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE
"""

# In a container there is neither scontrol nor srun: only what the image has is on the path.
APPTAINER = """#!/bin/bash
[ "$1" = exec ] || exit 2
while [ "$1" != "$MEDSOFT_IMAGE" ]; do shift; done
shift
export PATH="{python}:{inside}"
exec "$@"
"""


def missing() -> str | None:
    """Why there can be no SLURM here; None where there can."""
    absent = [name for name in ("slurmctld", "slurmd", "sbatch", "srun") if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)}: not installed (apt-get install slurmctld slurmd slurm-client)"
    return "SLURM's daemons are started by root alone" if os.geteuid() else None


def free_ports(number: int) -> list[int]:
    plugs = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [plug.getsockname()[1] for plug in plugs]
    for plug in plugs:
        plug.close()
    return ports


class Slurm:
    """The cluster, for as long as the block runs.

    Attributes:
        folder: of its state and logs.
        environment: of processes that speak with it; medsoft of this repository is on the path.

    Args:
        folder: as the attribute; made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        python = Path(sys.executable).parent
        bin, inside = folder / "bin", folder / "inside"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{bin}:{python}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",  # n1 and n2 are names that nobody resolves
            "MEDSOFT_IMAGE": "/images/medsoft.sif",
            "MEDSOFT_SLURM": str(SCRIPTS),
        }
        for made in (bin, inside, folder / "state"):
            made.mkdir(parents=True)
        for name in ("bash", "sh", "ls", "cat", "uname"):
            if found := shutil.which(name):
                (inside / name).symlink_to(found)
        (bin / "apptainer").write_text(APPTAINER.format(python=python, inside=inside))
        (bin / "apptainer").chmod(0o755)
        host = socket.gethostname().partition(".")[0]
        settings = CONFIGURATION.format(host=host, ports=free_ports(3), folder=folder)
        (folder / "slurm.conf").write_text(settings)
        gpus = [folder / f"gpu{i}" for i in range(8)]
        for gpu in gpus:
            gpu.touch()
        (folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={folder}/gpu[0-7]\n")

    def __enter__(self) -> Slurm:
        for words in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
            said = (self.folder / f"{words[-1]}.said").open("wb")
            self._daemons.append(subprocess.Popen(words, env=self.environment, stdout=said, stderr=said))
        try:
            wait_until(lambda: self.call("sinfo", "--noheader", "--states=idle", "--format=%D").stdout.strip() == "2")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(AssertionError):
            self.call("scancel", "--user=root")
            wait_until(lambda: not self.call("squeue", "--noheader").stdout.strip())
        self._end()

    def _end(self) -> None:
        for daemon in self._daemons:
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def call(self, *words: object, cwd: Path | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command of SLURM, or one that calls it, to its end, which is without a traceback."""
        done = subprocess.run(
            [str(word) for word in words],
            env={**self.environment, **settings},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done

    def popen(self, *words: object, cwd: Path, **settings: str) -> subprocess.Popen[str]:
        """Begin such a command."""
        return subprocess.Popen(
            [str(word) for word in words],
            env={**self.environment, **settings},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, folder: Path, *words: object, **settings: str) -> Job:
        """Submit a job from a folder, where its output goes.

        Args:
            folder: the current one.
            words: those of sbatch, the script among them.
            settings: further environment variables.
        """
        done = self.call("sbatch", "--parsable", *words, cwd=folder, **settings)
        assert done.returncode == 0, done.stderr
        return Job(self, done.stdout.strip(), folder)

    def jobs(self) -> list[str]:
        """Numbers of all jobs that wait or run."""
        return self.call("squeue", "--noheader", "--format=%i").stdout.split()


class Job:
    """A job.

    Attributes:
        number: of SLURM.
        folder: from where it was submitted.
    """

    def __init__(self, slurm: Slurm, number: str, folder: Path) -> None:
        self.number, self.folder = number, folder
        self._slurm = slurm

    def facts(self) -> dict[str, str]:
        """What SLURM says of it; of an array, of its first task."""
        time.sleep(0.2)  # each question is a process, and tests ask until the answer is another
        said = self._slurm.call("scontrol", "--oneliner", "show", "job", self.number).stdout.partition("\n")[0]
        return dict(re.findall(r"(\w+)=(\S*)", said))

    @property
    def state(self) -> str:
        """Such as RUNNING."""
        return self.facts().get("JobState", "")

    @property
    def restarts(self) -> int:
        """How often it was requeued."""
        return int(self.facts().get("Restarts", 0))

    def signal(self, name: str) -> bool:
        """Send all its tasks a signal, as SLURM does ahead of the time limit; whether there were any.

        A job of which srun has begun no step yet has none, and scancel says nothing of it.
        """
        steps = self._slurm.call(
            "squeue", "--noheader", "--steps", f"--jobs={self.number}", "--format=%i"
        ).stdout.split()
        if not any(step.partition(".")[2].isdigit() for step in steps):
            time.sleep(0.2)
            return False
        return self._slurm.call("scancel", f"--signal={name}", self.number).returncode == 0 and self.state == "RUNNING"

    def processes(self) -> list[psutil.Process]:
        """Those that it runs here; other jobs, and other clusters of this machine, have their own."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                its = process.environ()
                if (
                    its.get("SLURM_JOB_ID") == self.number
                    and its.get("SLURM_CONF") == self._slurm.environment["SLURM_CONF"]
                ):
                    found.append(process)
        return found

    def cancel(self) -> None:
        """As a user does."""
        self._slurm.call("scancel", self.number)

    def wait(self) -> str:
        """Wait for its end, requeues and all; gives the state."""
        wait_until(lambda: self.state in ENDED)
        return self.state

    def log(self) -> str:
        """What it has written, all its starts."""
        files = sorted(self.folder.glob(f"*-{self.number}*.out"))
        return "".join(file.read_text(errors="replace") for file in files)

    def begun(self, text: str) -> None:
        """Wait until it has written something."""
        wait_until(lambda: text in self.log() or self.state in ENDED)
        assert text in self.log(), self.log()


def tracebacks(folder: Path) -> dict[str, str]:
    """Logs below a folder with a traceback in them, of jobs, of workers and of medsoft; gives what surrounds it.

    Args:
        folder: of a test.
    """
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix in LOGS and file.is_file():
            text = file.read_text(errors="replace")
            if (at := text.find("Traceback")) >= 0:
                found[str(file)] = text[max(0, at - 1000) : at + 4000]
    return found


def skip_without_slurm() -> None:
    """Skip the test where SLURM cannot be started."""
    if (why := missing()) is not None:
        pytest.skip(why)
