"""``medsoft benchmark backbones``: time and memory of whole models as the image grows."""

from __future__ import annotations

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


def backbones(
    models: str = "vit_softmax_tiny_patch16_224,vit_seqnorm_tiny_patch16_224",
    sizes: str = "224,448,896,1792",
    batch: int = 1,
    channels: int = 3,
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

    Writes backbones.csv (a row a case), backbones.json (versions, machine, options) and backbones.png.

    Args:
        models: Names that timm knows, with commas between; options behind colons, as in soft_tiny:inverse=newton.
        sizes: Sides of the square images in pixels, with commas between.
        batch: Images in a batch.
        channels: Channels of an image.
        dtype: float32, float64, bfloat16 or float16, of images and weights.
        device: auto, cpu or cuda.
        threads: CPU threads; 0 leaves PyTorch's choice.
        rounds: Each case is timed once a round; 7 or more.
        max_seconds: A call that is predicted to take longer, from the last smaller size, is left out.
        sample_seconds: Calls are repeated until a sample lasts as long.
        compile: Measure torch.compile as well.
        seed: Of weights, images and the order within rounds.
        out: Folder of the files.

    Returns:
        0, or 3 where a case failed.

    Raises:
        InputError: an option is out of range or names nothing.
    """
    options = dict(locals())
    contenders = [
        Contender({"name": text, "model": name}, partial(_create, name, settings, channels), compiled=flag)
        for text, (name, settings) in _models(models).items()
        for flag in ((False, True) if compile else (False,))
    ]
    sides = numbers("--sizes", sizes)
    check_range("--batch", batch, 1)
    check_range("--channels", channels, 1)
    conditions = conditions_from(device, dtype, rounds, max_seconds, sample_seconds, seed)
    with cpu_threads(threads):
        report = Report("backbones", Path(out), options)
        facts = f"batch {batch}, {channels} channels, {dtype}, {conditions.device}"
        forecast = Forecast()
        for side in sides:
            size = {"size": side, "pixels": side * side, "batch": batch, "channels": channels}
            rows = measure(contenders, size, (batch, channels, side, side), conditions, forecast)
            report.add(rows, f"{side} × {side}, {facts}")
        report.draw("backbones.png", "pixels", "pixels of an image", "Backbones", facts, only={})
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


def _create(name: str, settings: dict[str, Any], channels: int) -> Any:
    return timm.create_model(name, in_chans=channels, **settings)
