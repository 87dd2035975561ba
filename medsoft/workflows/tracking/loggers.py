"""A training in MLflow or Weights & Biases, through Lightning's loggers; both write files here and use no network.

A server is used where the tool's own environment variable names one: ``MLFLOW_TRACKING_URI``, or ``WANDB_MODE=online``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from medsoft.errors import InputError
from medsoft.storage.files import holding, replacing
from medsoft.storage.own_files import read_json_object, value_of

REMEMBERED = "tracking.json"
"""In the folder of what is tracked: where it is tracked, so that a resumed run and the runs below it find it."""
LEVELS_ABOVE = 6
"""Folders between a training and what it is a part of: ``outer/fold-0/candidates/vit/learning_curve/0.5/fold-0``."""
FAILED = "failed"
SUCCESS = "success"


@dataclass(frozen=True)
class Tracked:
    """A folder whose run a tracker knows.

    Attributes:
        folder: of the training, the cross-validation or the call of auto.
        experiment: under which the run stands.
        run: its id.
    """

    folder: Path
    experiment: str
    run: str


class MlflowLog(MLFlowLogger):
    """Lightning's logger for MLflow: files in ``mlruns/`` where no server is named.

    Args:
        experiment: under which the run stands.
        name: of the run.
        parent: id of the run that it is a part of; None for one that stands alone.
        run_id: of a run that goes on; None for a new one.

    Raises:
        InputError: the store cannot be opened, or does not have the run.
    """

    def __init__(self, experiment: str, name: str, parent: str | None = None, run_id: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # MLflow advises a database, which takes the whole of it; its light package reads and writes files.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        place = os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").resolve().as_uri()
        tags = {"mlflow.parentRunId": parent} if parent else None
        self.tool, self.experiment_called, self.warned = "mlflow", experiment, False
        try:
            super().__init__(experiment, name, tracking_uri=place, tags=tags, run_id=run_id)
            self.id = str(self.run_id)
        except Exception as error:  # of the store, whatever kind it is
            raise InputError(f"--logger mlflow: {place} cannot be used: {_first_line(error)}") from None

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Log parameters; MLflow keeps those that a run that goes on has had as they were."""
        with going_on(self):
            known = self.experiment.get_run(self.id).data.params
            super().log_hyperparams({name: value for name, value in params.items() if name not in known})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of a step; a store that fails ends no training."""
        with going_on(self):
            super().log_metrics(metrics, step)

    def finalize(self, status: str = SUCCESS) -> None:
        """Close the run; a store that fails ends no training."""
        with going_on(self):
            super().finalize(status)

    def put(self, metrics: Mapping[str, float], folder: Path) -> None:
        """Log the last metrics and the files of a folder."""
        with going_on(self):
            self.log_metrics(metrics)
            self.experiment.log_artifacts(self.id, str(folder))

    def close(self, status: str) -> None:
        """End the run."""
        self.finalize("FAILED" if status == FAILED else "FINISHED")


class WandbLog(WandbLogger):
    """Lightning's logger for Weights & Biases, offline: ``wandb sync`` sends what it wrote, where the user wants that.

    What the tool would collect by itself is switched off: the terminal, the command line, the code, the machine.

    Args:
        experiment: the project.
        name: of the run.
        parent: id of the run that it is a part of, which names their group; None for one that stands alone.
        run_id: of a run that goes on; None for a new one.

    Raises:
        InputError: it cannot be begun.
    """

    def __init__(self, experiment: str, name: str, parent: str | None = None, run_id: str | None = None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which is read when it is imported
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        mode = os.environ.get("WANDB_MODE", "offline")
        self.id = run_id or secrets.token_hex(4)
        self.tool, self.experiment_called, self.warned = "wandb", experiment, False
        try:
            quiet = wandb.Settings(
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
            )
            how: dict[str, Any] = {"mode": mode, "settings": quiet, "group": parent or self.id}
            how["resume"] = "allow" if mode == "online" else None
            folder = os.environ.get("WANDB_DIR", ".")
            super().__init__(name=name, project=experiment, id=self.id, save_dir=folder, **how)
        except Exception as error:  # of the tool, whatever kind it is
            raise InputError(f"--logger wandb: cannot be used: {_first_line(error)}") from None

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Log parameters."""
        with going_on(self):
            super().log_hyperparams(dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of a step; a tool that fails ends no training."""
        with going_on(self):
            super().log_metrics(metrics, step)

    def put(self, metrics: Mapping[str, float], folder: Path) -> None:
        """Log the last metrics, and put the files of a folder where ``wandb sync`` finds them."""
        with going_on(self):
            self.experiment.summary.update(dict(metrics))
            shutil.copytree(folder, self.experiment.dir, dirs_exist_ok=True)

    def close(self, status: str) -> None:
        """End the run."""
        with going_on(self):
            if self._experiment is not None:
                self._experiment.finish(exit_code=int(status == FAILED))
                self._experiment = None


Log = MlflowLog | WandbLog

TRACKERS: dict[str, tuple[str, type[MlflowLog] | type[WandbLog]]] = {
    "mlflow": ("mlflow", MlflowLog),
    "wandb": ("wandb", WandbLog),
}
"""By the word of ``--logger``: the module that must be installed, and the class."""


def require_tracker(logger: str) -> None:
    """Check that the tool of ``--logger`` is installed.

    Raises:
        InputError: it is not; says how to get it.
    """
    if logger in TRACKERS and importlib.util.find_spec(TRACKERS[logger][0]) is None:
        raise InputError(f"--logger {logger}: {logger} is not installed: pip install 'medsoft[loggers]'")


def open_log(logger: str, experiment: str, folder: Path) -> Log | None:
    """Begin the run of a folder in the tool of ``--logger``, or go on with it.

    Args:
        logger: the word.
        experiment: under which it stands.
        folder: of the training, the cross-validation or the call of auto. Where a folder above it is tracked by the
            same tool, its run becomes a part of that one.

    Returns:
        None where the word names no such tool.

    Raises:
        InputError: the tool is not installed, or cannot be used.
    """
    require_tracker(logger)
    if logger not in TRACKERS:
        return None
    above, before = parent_of(folder, logger), remembered(folder, logger)
    run_id = None if before is None else before.run
    if above is None:
        return TRACKERS[logger][1](experiment, folder.resolve().name, None, run_id)
    return TRACKERS[logger][1](above.experiment, str(folder.resolve().relative_to(above.folder)), above.run, run_id)


def begin_parent(logger: str, experiment: str, folder: Path) -> None:
    """Begin the run that those of the folders below become parts of, unless that was done before.

    Args:
        logger: the word of ``--logger``.
        experiment: under which it stands.
        folder: of the cross-validation or the call of auto; it is there already.

    Raises:
        InputError: the tool is not installed, or cannot be used.
    """
    if logger not in TRACKERS:
        return
    with holding(folder, wait=True):  # folds may be jobs of a cluster that begin at once
        if remembered(folder, logger) is None and (log := open_log(logger, experiment, folder)) is not None:
            remember(folder, logger, log)


def remember(folder: Path, logger: str, log: Log) -> None:
    """Write down in a folder which run it is."""
    with replacing(folder / REMEMBERED) as temporary:
        about = {"logger": logger, "experiment": log.experiment_called, "run": log.id}
        temporary.write_text(json.dumps(about) + "\n", encoding="utf-8")


def remembered(folder: Path, logger: str) -> Tracked | None:
    """The run of a folder; None where there is none of this tool."""
    file = folder / REMEMBERED
    if not file.is_file():
        return None
    found = read_json_object(file)
    if found.get("logger") != logger:
        return None
    return Tracked(folder, value_of(found, "experiment", str, file), value_of(found, "run", str, file))


def parent_of(folder: Path, logger: str) -> Tracked | None:
    """The run of the nearest tracked folder above; None where there is none."""
    found = (remembered(above, logger) for above in folder.resolve().parents[:LEVELS_ABOVE])
    return next((one for one in found if one is not None), None)


@contextmanager
def going_on(log: Any) -> Iterator[None]:
    """Say once that a tool fails, and go on: the run's own folder has everything."""
    try:
        yield
    except Exception as error:  # of the tool, whatever kind it is
        if not log.warned:
            said = f"WARNING: --logger {log.tool} fails, and the run goes on without it: {_first_line(error)}"
            print(said, file=sys.stderr, flush=True)
        log.warned = True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
