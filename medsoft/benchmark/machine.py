"""Records the versions, machine and settings of a measurement."""

from __future__ import annotations

import os
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from medsoft import __version__
from medsoft.system.cores import usable_cores
from medsoft.system.memory import total_memory


def machine() -> dict[str, Any]:
    """Versions and hardware, and how busy the machine was: load averages over 1, 5 and 15 minutes."""
    cores = usable_cores()
    found: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "medsoft": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": round(total_memory() / 2**30, 1),
        "mkl": torch.backends.mkl.is_available(),  # type: ignore[no-untyped-call]
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def machine_line(found: dict[str, Any]) -> str:
    """The machine in one line, for the foot of a picture."""
    gpu = f"{found['gpu']} · " if "gpu" in found else ""
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    return (
        f"{gpu}{found['cpu']}, {threads} · PyTorch {found['torch']} · medsoft {found['medsoft']} · {found['date'][:10]}"
    )


def _cpu_name() -> str:
    """As Linux knows it; elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
