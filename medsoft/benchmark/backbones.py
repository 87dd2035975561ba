"""``medsoft benchmark backbones``: time and memory of whole models as the image or the volume grows."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import timm
import yaml

import medsoft.models  # noqa: F401  registers the backbones with timm
from medsoft.benchmark.measure import Contender, Forecast, measure
from medsoft.benchmark.options import choices, conditions_from, cpu_threads, numbers
from medsoft.benchmark.report import Report
from medsoft.errors import InputError, check_range

OF_IMAGES = "vit_softmax_tiny_patch16_224,vit_seqnorm_tiny_patch16_224"
OF_VOLUMES = "vit_softmax_tiny_patch8_224,vit_seqnorm_tiny_patch8_224"


def backbones(
    models: str | None = None,
    sizes: str | None = None,
    volumes: bool = False,
    batch_size: int = 1,
    channels: int | None = None,
    dtype: str = "float32",
    device: str = "auto",
    threads: int = 0,
    rounds: int = 7,
    max_seconds: float = 20.0,
    sample_seconds: float = 0.05,
    compile: bool = False,
    seed: int = 0,
    out: str = "benchmark",
) -> int:
    """Measure time and peak memory of backbones, each once in every round.

    Writes backbones.csv (a row per case), backbones.json (versions, machine, options) and backbones.png.

    Args:
        models: Names of timm models, separated by commas; options follow colons, as in soft_tiny:inverse=newton. If not
            given, the tiny vision transformers with softmax and seqnorm and patches of 16, or of 8 for volumes.
        sizes: Sides of the square images in pixels, or of the cubes in voxels, separated by commas; if not given,
            224,448,896,1792, or 64,96,128 for volumes.
        volumes: Measure cubes (volumes) instead of squares.
        batch_size: Images in a batch.
        channels: Channels of an image; if not given, 3, or 1 for volumes.
        dtype: data type of images and weights: float32, float64, bfloat16 or float16.
        device: device to compute on: auto, cpu or cuda.
        threads: CPU threads; 0 keeps PyTorch's default.
        rounds: Number of rounds, 7 or more; each case is timed once per round.
        max_seconds: Cases whose calls are predicted to take longer, judging by the last smaller size, are skipped.
        sample_seconds: Calls are repeated until a timing lasts at least this many seconds.
        compile: Measure torch.compile as well.
        seed: Seed of weights, images and the order within rounds.
        out: Folder to write the results to.

    Returns:
        0, or 3 where a case failed.

    Raises:
        InputError: an option is out of range or names nothing.
    """
    models = models or (OF_VOLUMES if volumes else OF_IMAGES)
    sizes = sizes or ("64,96,128" if volumes else "224,448,896,1792")
    channels = (1 if volumes else 3) if channels is None else channels
    options = dict(locals())
    chosen = _models(models)
    sides = numbers("--sizes", sizes)
    check_range("--batch_size", batch_size, 1)
    check_range("--channels", channels, 1)
    conditions = conditions_from(device, dtype, rounds, max_seconds, sample_seconds, seed)
    with cpu_threads(threads):
        report = Report("backbones", Path(out), options)
        facts = f"batch {batch_size}, {channels} channels, {dtype}, {conditions.device}"
        forecast = Forecast()
        unit = "voxels" if volumes else "pixels"
        for side in sides:
            shape = (side,) * (3 if volumes else 2)
            contenders = [
                Contender(
                    {"name": text, "model": name}, partial(_create, name, settings, channels, shape), compiled=flag
                )
                for text, (name, settings) in chosen.items()
                for flag in ((False, True) if compile else (False,))
            ]
            size = {"size": side, unit: math.prod(shape), "batch": batch_size, "channels": channels}
            rows = measure(contenders, size, (batch_size, channels, *shape), conditions, forecast)
            report.add(rows, f"{' × '.join(map(str, shape))}, {facts}")
        kind = "a volume" if volumes else "an image"
        report.draw("backbones.png", unit, f"{unit} of {kind}", "Backbones", facts, only={})
    return report.finish()


def _models(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """From ``"a,b:key=value"`` to each model's timm name and options; values are read as YAML.

    Raises:
        InputError: no such model, or an option without a value.
    """
    found = {}
    for word in (word.strip() for word in text.split(",") if word.strip()):
        name, *pairs = word.split(":")
        choices("--models", name, timm.list_models())
        settings = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise InputError(f"--models {word}: {pair!r} is no option; write key=value")
            settings[key] = yaml.safe_load(value)
        found[word] = (name, settings)
    if not found:
        raise InputError("--models is empty: names that timm knows, such as vit_seqnorm_tiny_patch16_224")
    return found


def _create(name: str, settings: dict[str, Any], channels: int, shape: tuple[int, ...]) -> Any:
    of_volumes = {"spatial_dims": 3, "img_size": shape} if len(shape) == 3 and name.startswith("vit_") else {}
    return timm.create_model(name, in_chans=channels, **of_volumes, **settings)
