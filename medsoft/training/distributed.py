"""Training on several processes: the rank of this one, synchronisation, and results gathered from all.

Lightning starts the processes, or the cluster does (srun, torchrun). Each reads the same table and makes the same
split; the first alone writes files and speaks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from medsoft.errors import InputError
from medsoft.runs.run_folder import RunFolder
from medsoft.system.signals import Stopped
from medsoft.training.slurm import check_srun, further_rank_of_srun, tasks_of_srun

RUN = "MEDSOFT_RUN"
"""Environment variable in which the first process tells those that it starts the folder of the run."""

DECIDING = ("accelerator", "strategy", "devices", "num_nodes", "plugins")


@dataclass(frozen=True)
class Processes:
    """This process among those of a training.

    Attributes:
        rank: from 0.
        number: of processes.
        started_outside: they were all started by somebody else, such as srun.
    """

    rank: int = 0
    number: int = 1
    started_outside: bool = False

    @classmethod
    def of(cls, options: dict[str, Any]) -> Processes:
        """As Lightning sees it.

        Args:
            options: of the Trainer.

        Raises:
            InputError: options that Lightning refuses, processes that share the work in another way than DDP, or as
                many as srun has not started. Of several, the first says so.
        """
        asked = {name: options[name] for name in DECIDING}
        if further_rank_of_srun() and not TorchElasticEnvironment.detect():
            try:
                return cls._of(asked)
            except InputError:
                raise SystemExit(2) from None
        return cls._of(asked)

    @classmethod
    def _of(cls, asked: dict[str, Any]) -> Processes:
        if tasks_of_srun() > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ and not TorchElasticEnvironment.detect():
            raise InputError("srun was told a number of tasks alone (-n, --ntasks): give it --ntasks-per-node instead")
        try:
            trainer = Trainer(**with_slurm(asked), logger=False, enable_checkpointing=False, enable_model_summary=False)
            strategy: Any = trainer.strategy
            if not TorchElasticEnvironment.detect():
                check_srun(trainer.num_devices, trainer.num_nodes)
            if isinstance(strategy, DDPStrategy):
                environment: Any = strategy.cluster_environment
                environment.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
        except (ValueError, RuntimeError, TypeError, MisconfigurationException) as error:
            raise InputError(f"trainer: {error}") from None
        if trainer.world_size == 1:
            return cls()
        if not isinstance(strategy, DDPStrategy) or not isinstance(strategy.launcher, _SubprocessScriptLauncher | None):
            raise InputError("trainer.strategy: several processes train with ddp, which auto chooses too")
        outside = bool(environment.creates_processes_externally) and RUN not in os.environ
        return cls(trainer.global_rank, trainer.world_size, outside)

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def choose_run(self, out: str | None, name: str) -> RunFolder:
        """As ``RunFolder.choose``, the same for all processes.

        Raises:
            InputError: the folder holds something already, or nobody can tell all processes its name.
        """
        if self.number == 1:
            return RunFolder.choose(out, name)
        if self.started_outside and out is None:
            raise InputError("--out is missing: several processes were started, which cannot choose a folder together")
        if self.is_first:
            run = RunFolder.choose(out, name)
            os.environ[RUN] = str(run.path.absolute())
            return run
        return RunFolder(Path(os.environ.get(RUN) or str(out)))

    def hush(self) -> None:
        """Let nobody but the first process write on standard output, from here to its end."""
        if not self.is_first:
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (stays open)


@contextmanager
def finish_together(trainer: Trainer) -> Iterator[None]:
    """Where the first process fails, let those that it has started not wait for it."""
    try:
        yield
    except Stopped:  # all stop at the same step
        raise
    except BaseException:
        if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
            trainer.strategy.launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))
        raise


def with_slurm(options: dict[str, Any]) -> dict[str, Any]:
    """Trainer options with the environment that tells each process which one it is.

    Lightning looks at variables that a job of SLURM has without srun too, and would wait for processes that nobody
    starts. With srun it would answer SLURM's signals itself, with a checkpoint that does not resume exactly.
    """
    plugins = as_list(options["plugins"])
    if any(isinstance(plugin, ClusterEnvironment) for plugin in plugins) or TorchElasticEnvironment.detect():
        return {**options, "plugins": plugins}
    if tasks_of_srun() > 1:
        return {**options, "plugins": [*plugins, SLURMEnvironment(auto_requeue=False)]}
    return {**options, "plugins": [*plugins, LightningEnvironment()]}


def as_list(value: Any) -> list[Any]:
    """None as nothing, one thing as a list of it."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
