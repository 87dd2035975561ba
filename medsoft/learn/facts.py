"""``facts.json``: what a run knows in numbers, for its report: rows, patients and classes, the model, the training."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer

from medsoft.data.table import SampleTable
from medsoft.data.table_module import TableDataModule
from medsoft.evaluation.epochs import best_epoch
from medsoft.evaluation.metrics import write_metrics
from medsoft.learn.run_folder import RunFolder


def write_facts(
    run: RunFolder,
    data: TableDataModule[Any],
    model: LightningModule,
    trainer: Trainer,
    monitor: str | None,
    model_of: RunFolder | None = None,
    members: int = 1,
) -> None:
    """Write ``facts.json``.

    Args:
        run: its folder.
        data: with loaded parts.
        model: the network that predicted.
        trainer: of the run.
        monitor: the logged metric that chose the checkpoint; None where nothing was trained.
        model_of: the run that trained the model, where that is another one.
        members: models whose mean the predictions are.
    """
    samples = data.samples
    parts = {split: data.part(split) for split in data.loaded_splits}
    about_data = {
        "table": Path(samples.source).name,
        "unit": data.unit,
        "note": data.note,
        "rows": len(samples) + len(samples.dropped),
        "patients": _patients(samples),
        "splits": {split: _part(part) for split, part in parts.items()},
    }
    network = {
        **getattr(model, "facts", dict)(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }
    network |= {"members": members} if members > 1 else {}
    training = _training_of(model_of)
    if monitor is not None:
        training = {"monitor": monitor.removeprefix("val_"), "device": _device(trainer), **_epochs(run, monitor)}
    facts = {"format": 1, "data": about_data, "model": {k: v for k, v in network.items() if _plain(v)}}
    write_metrics(facts | {"training": training}, run.facts)


def _training_of(run: RunFolder | None) -> dict[str, Any]:
    """What another run says of its training; nothing where an older one does not."""
    if run is None or not run.facts.is_file():
        return {}
    training = json.loads(run.facts.read_text(encoding="utf-8")).get("training")
    return training if isinstance(training, dict) else {}


def _part(part: SampleTable) -> dict[str, Any]:
    classes: dict[str, int] = {}
    if part.task is not None and part.task.kind == "multilabel":
        classes = {name: int((part.frame[f"target_{name}"] == 1).sum()) for name in part.task.classes}
    elif part.task is not None:
        classes = {name: int((part.frame["target"] == name).sum()) for name in part.task.classes}
    return {"rows": len(part), "patients": _patients(part), "classes": classes}


def _patients(samples: SampleTable) -> int | None:
    """None where they are not named."""
    names = samples.frame["patient"]
    return int(names[names != ""].nunique()) or None


def _epochs(run: RunFolder, monitor: str) -> dict[str, Any]:
    """How many epochs there were, and which had the best value."""
    log = pd.read_csv(run.metrics_table).set_index("epoch")
    best = best_epoch(log, monitor)
    if best is None:
        return {"epochs": len(log)}
    return {"epochs": len(log), "best_epoch": best, "best_value": float(log[monitor].loc[best])}


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{platform.processor() or platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) or value is None
