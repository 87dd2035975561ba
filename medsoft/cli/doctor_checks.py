"""Checks of ``doctor --deep``: whether what is installed works on this machine."""

from __future__ import annotations

import importlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

TESTED = Path(__file__).parents[1] / "constraints.txt"
LEAST_MEMORY_GIB, LEAST_DISK_GIB, LEAST_SHARED_GIB = 4.0, 10.0, 1.0
LOSSY = 12
"""Grey values by which a lossy codec may miss on a smooth picture."""

PILLOW: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {"compression": "tiff_lzw"},
    "JPEG": {"quality": 95},
    "JPEG2000": {},
    "WEBP": {"lossless": True},
}
"""Formats that Pillow writes and reads, with options that lose nothing where that is possible."""


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        about: of what.
        state: ``warn`` does not keep medsoft from working.
        text: in words.
    """

    about: str
    state: Literal["ok", "warn", "FAIL"]
    text: str


def examine() -> Iterator[Finding]:
    """All findings; a check that breaks is one."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        versions, memory, disk, codecs, slides, feature_files, devices, mechanisms, weights,
    )  # fmt: skip
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # whatever is broken must not hide what else is
            yield Finding(check.__name__.replace("_", " "), "FAIL", f"{type(error).__name__}: {_line(error)}")


def versions() -> Iterator[Finding]:
    """Direct dependencies against the versions that were tested together, and the range that is allowed."""
    from packaging.requirements import Requirement

    tested = dict(line.split("==") for line in TESTED.read_text().splitlines() if "==" in line)
    known = {_plain(name): version for name, version in tested.items()}
    other = []
    for text in metadata.requires("medsoft") or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            here = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield Finding("versions", "FAIL", f"{need.name} is not installed")
            continue
        if not need.specifier.contains(here, prereleases=True):
            yield Finding("versions", "FAIL", f"{need.name} {here} is outside of {need.specifier}")
        elif here.partition("+")[0] != known.get(_plain(need.name), here):
            other.append(f"{need.name} {here} ({known[_plain(need.name)]})")
    if other:
        yield Finding("versions", "warn", "not those that were tested together: " + ", ".join(other))
    else:
        yield Finding("versions", "ok", "those that were tested together")


def memory() -> Iterator[Finding]:
    """What is free, what a container allows, and what processes share (loaders of data need it)."""
    from medsoft.system.memory import available_memory

    yield _at_least("memory", available_memory(), LEAST_MEMORY_GIB, "can be had")
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm").free
        yield _at_least("shared memory", shared, LEAST_SHARED_GIB, "in /dev/shm, which data.num_workers above 0 need")


def disk() -> Iterator[Finding]:
    """Space here and for temporary files, and whether files can be written."""
    for about, folder in (("disk here", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        yield _at_least(about, shutil.disk_usage(folder).free, LEAST_DISK_GIB, f"free in {folder}")
        try:
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                file.write(b"medsoft")
                os.fsync(file.fileno())
        except OSError as error:
            yield Finding(about, "warn", f"{folder} cannot be written: {error.strerror}")


def codecs() -> Iterator[Finding]:
    """Pictures in every format, written and read again; DICOM's codecs by name."""
    from PIL import Image

    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    picture = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 128, np.uint8)], -1)
    broken = []
    for name, options in PILLOW.items():
        file = io.BytesIO()
        try:
            Image.fromarray(picture).save(file, name, **options)
            found = np.asarray(Image.open(file)).astype(int)
            good = np.abs(found - picture).max() <= (LOSSY if name == "JPEG" else 0)
        except (OSError, KeyError, ValueError):
            good = False
        broken += [] if good else [name]
    simplejpeg, imagecodecs = (importlib.import_module(name) for name in ("simplejpeg", "imagecodecs"))
    others: dict[str, Callable[[], Any]] = {
        "simplejpeg": lambda: simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(picture, quality=95)),
        "imagecodecs JPEG 2000": lambda: imagecodecs.jpeg2k_decode(imagecodecs.jpeg2k_encode(picture, level=0)),
        "imagecodecs deflate": lambda: np.frombuffer(
            imagecodecs.zlib_decode(imagecodecs.zlib_encode(picture.tobytes())), np.uint8
        ).reshape(picture.shape),
    }
    for name, code in others.items():
        try:
            good = np.abs(code().astype(int) - picture).max() <= LOSSY
        except Exception:  # a codec that is not built in raises its own
            good = False
        broken += [] if good else [name]
    yield _all_good("codecs", broken, "PNG, TIFF, JPEG, JPEG 2000, WebP, deflate")
    yield from _dicom()


def _dicom() -> Iterator[Finding]:
    from medsoft.data.dicom import codecs as own

    pixels = importlib.import_module("pydicom.pixels.decoders.base")
    uids = importlib.import_module("pydicom.uid")
    own.register()
    names = ("JPEGBaseline8Bit", "JPEGLosslessSV1", "JPEGLSLossless", "JPEG2000Lossless", "JPEG2000", "RLELossless")
    broken = [name for name in names if not pixels.get_decoder(getattr(uids, name)).is_available]
    yield _all_good("codecs of DICOM", broken, ", ".join(names))


def slides() -> Iterator[Finding]:
    """A tiny slide, written, opened as any slide is, and read."""
    from medsoft.data.images.write_pyramid import write_pyramid
    from medsoft.slides.reading.slide import open_slide

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        pixels = np.full((512, 512, 3), 200, np.uint8)
        write_pyramid(path, (512, 512), lambda x, y, w, h: pixels[y : y + h, x : x + w], 0.5, downsamples=(1, 4))
        with open_slide(path, None, "option") as slide:
            tile = slide.read_tile(0, 0, 128, 1.0).astype(int)
    good = tile.shape == (128, 128, 3) and np.abs(tile - 200).max() <= LOSSY
    yield _all_good("whole slides", [] if good else ["a tile of a written slide is not what was written"], "OpenSlide")


def feature_files() -> Iterator[Finding]:
    """HDF5 with checksums, as feature files have it."""
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        with h5py.File(Path(folder) / "x.h5", "w") as file:
            file.create_dataset("x", data=np.arange(1000), chunks=(100,), fletcher32=True)
        with h5py.File(Path(folder) / "x.h5") as file:
            good = bool((file["x"][:] == np.arange(1000)).all())
    yield _all_good("feature files", [] if good else ["HDF5 gives back other numbers"], "HDF5 with checksums")


def devices() -> Iterator[Finding]:
    """A product of matrices on every GPU against the processor's, and their free memory."""
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPU", "ok", "none; everything runs on the processor")
    a = torch.linspace(-1, 1, 256 * 256).view(256, 256)
    for index in range(torch.cuda.device_count()):
        place = f"cuda:{index}"
        found = (a.to(place) @ a.to(place)).cpu()
        good = torch.allclose(found, a @ a, rtol=1e-2, atol=1e-2)  # TF32 may be on
        free, total = torch.cuda.mem_get_info(index)
        text = f"{torch.cuda.get_device_name(index)}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield Finding(place, "ok" if good else "FAIL", text if good else f"{text}; a product of matrices is wrong")


def mechanisms() -> Iterator[Finding]:
    """A forward pass of every attention mechanism, over bags and over images, on every device."""
    import timm
    import torch

    import medsoft.models  # noqa: F401 (registers the backbones)
    from medsoft.layers.attention import ATTENTION, build_attention

    places = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    generator = torch.Generator().manual_seed(0)
    x, image = (torch.randn(shape, generator=generator) for shape in ((2, 100, 32), (2, 3, 32, 32)))
    tiny: dict[str, Any] = {"patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32}
    broken = []
    for name in ATTENTION:
        torch.manual_seed(0)
        bag = build_attention(name, 32, 2).eval()
        backbone = timm.create_model(f"vit_{name}_tiny_patch16_224", num_classes=0, **tiny).eval()
        for what, module, given in (("bags", bag, x), ("images", backbone, image)):
            answers = []
            for place in places:
                with torch.no_grad():
                    answers.append(module.to(place)(given.to(place)).cpu())
                good = bool(answers[-1].isfinite().all()) and torch.allclose(answers[-1], answers[0], atol=1e-2)
                broken += [] if good else [f"{name} over {what} on {place}"]
    yield _all_good("mechanisms", broken, f"{', '.join(ATTENTION)}, over bags and images, on {', '.join(places)}")


def weights() -> Iterator[Finding]:
    """The folder of weights, every file hashed."""
    from medsoft.storage.weights_folder import VARIABLE, WeightsFolder

    if not os.environ.get(VARIABLE):
        yield Finding("weights", "ok", f"no folder of weights is named ({VARIABLE})")
        return
    folder = WeightsFolder(os.environ[VARIABLE])
    problems = [f"{name}: {problem}" for name in folder.listed if (problem := folder.problem(name))]
    yield _all_good("weights", problems, f"{len(folder.listed)} in {folder.path}, as they were added")


def _at_least(about: str, size: int, least: float, text: str) -> Finding:
    short = size < least * 2**30
    return Finding(about, "warn" if short else "ok", f"{size / 2**30:.1f} GiB {text}" + (", which is little" * short))


def _all_good(about: str, broken: list[str], good: str) -> Finding:
    return Finding(about, "FAIL" if broken else "ok", f"not working: {', '.join(broken)}" if broken else good)


def _plain(name: str) -> str:
    """A package's name as all its spellings have in common."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
