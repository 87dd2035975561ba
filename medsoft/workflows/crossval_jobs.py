"""Folds at the same time, each in a process of its own, which a stop reaches and which share the machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

from medsoft.errors import RunError
from medsoft.runs.crossval_folder import CrossvalFolder, PlannedFold
from medsoft.system.child_processes import child_environment, python_module
from medsoft.system.cores import usable_cores
from medsoft.system.signals import on_signals
from medsoft.training.predict import show_path

POLL_SECONDS = 0.2


def run_in_processes(folder: CrossvalFolder, folds: Sequence[PlannedFold], jobs: int, trusted: bool) -> int:
    """Run folds, ``jobs`` of them at a time; what each says goes to ``logs/``.

    Ctrl-C and SIGTERM are handed on, so that every fold saves its state.

    Returns:
        0; 3 where inputs were left out; 130 or 143 after a stop.

    Raises:
        RunError: folds failed; the others were finished first.
    """
    waiting = list(folds)
    running: dict[int, tuple[PlannedFold, subprocess.Popen[bytes]]] = {}
    free = list(range(min(jobs, len(waiting))))
    failed: list[PlannedFold] = []
    stopped: list[int] = []  # signals that asked for a stop
    worst = 0

    def stop(number: int) -> None:
        stopped.append(number)
        for _, process in running.values():
            process.send_signal(number)

    try:
        with on_signals((signal.SIGINT, signal.SIGTERM), stop):
            while running or (waiting and not stopped):
                while free and waiting and not stopped:
                    slot, fold = free.pop(0), waiting.pop(0)
                    print(f"Fold {fold.number}: begins, log {show_path(folder.log(fold.number))}", flush=True)
                    running[slot] = (fold, _start(folder, fold, slot, jobs, trusted))
                    if stopped:  # the signal came while the process was being started
                        running[slot][1].send_signal(stopped[0])
                time.sleep(POLL_SECONDS)
                for slot, (fold, process) in list(running.items()):
                    if (code := process.poll()) is None:
                        continue
                    del running[slot]
                    free.append(slot)
                    worst = max(worst, code if code == 3 else 0)
                    if code not in (0, 3) and not stopped:
                        failed.append(fold)
                    print(f"Fold {fold.number}: {_said(code)}", flush=True)
    finally:
        for _, process in running.values():
            process.terminate()
    if stopped:
        print(f"Stopped. Go on with: medsoft crossval --resume {show_path(folder.path)}", file=sys.stderr)
        return 128 + stopped[0]
    if failed:
        logs = ", ".join(show_path(folder.log(fold.number)) for fold in failed)
        names = ", ".join(str(fold.number) for fold in failed)
        raise RunError(f"fold {names} did not finish; the others are kept. Look at {logs}")
    return worst


def _start(folder: CrossvalFolder, fold: PlannedFold, slot: int, jobs: int, trusted: bool) -> subprocess.Popen[bytes]:
    log = folder.log(fold.number)
    log.parent.mkdir(parents=True, exist_ok=True)
    words = ["crossval", "--resume", str(folder.path), "--fold", str(fold.number), *(["--trust"] if trusted else [])]
    with log.open("ab") as file:
        # A session of its own: the terminal's Ctrl-C would reach it twice, and the second stops at once.
        return subprocess.Popen(
            python_module("medsoft", *words),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(slot, jobs),
            start_new_session=True,
        )


def _environment(slot: int, jobs: int) -> dict[str, str]:
    """Each process gets its share of the processors, and one of the GPUs in turn where there are several."""
    environment = child_environment()
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)))
    count = torch.cuda.device_count()
    if count > 1:
        visible = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[slot % len(visible)]
    return environment


def _said(code: int) -> str:
    if code in (0, 3):
        return "has finished" + (", some inputs were left out" if code == 3 else "")
    return f"ended early (exit code {code})"
