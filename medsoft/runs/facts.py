"""``facts.json``: the numbers of a run for its report: rows, patients and classes, the model, the training."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer

from medsoft.data.datasets.base import TableDataModule
from medsoft.data.tables.sample_table import SampleTable
from medsoft.evaluation.metrics.epochs import best_epoch
from medsoft.evaluation.metrics.score import write_metrics
from medsoft.evaluation.tables.recorded import FILES, record_of
from medsoft.runs.run_folder import RunFolder
from medsoft.storage.own_files import read_json_object
from medsoft.task_types import KEPT


def write_facts(
    run: RunFolder,
    data: TableDataModule[Any],
    model: LightningModule,
    trainer: Trainer,
    monitor: str | None,
    model_of: RunFolder | None = None,
    members: int = 1,
    out_of_distribution: dict[str, Any] | None = None,
    kept: Sequence[dict[str, Any]] = (),
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
        out_of_distribution: how many samples the model abstains from, and whether the table as a whole is unlike the
            data of the training.
        kept: what each model has kept of its training part for an evaluation.
    """
    samples = data.samples
    parts = {split: data.part(split) for split in data.loaded_splits}
    # Parts that were not asked for stand in the flow of samples too, or its counts would not add up.
    parts |= {split: samples.subset(split) for split in samples.frame["split"].unique() if split not in parts}
    about_data = {
        "table": Path(samples.source).name,
        "unit": data.unit,
        "note": data.note,
        "rows": len(samples) + len(samples.dropped),
        "patients": _patients(samples),
        "splits": {split: part_facts(part) for split, part in parts.items()},
    }
    if seen := getattr(data, "seen", None):
        about_data["seen_before"] = {"train": seen.train, "val": seen.val, "rows": seen.rows, "said": str(seen)}
    if changed := getattr(data, "changed", ""):
        about_data["changed_table"] = changed
    network = {
        **getattr(model, "facts", dict)(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }
    network |= {"members": members} if members > 1 else {}
    training = training_of(model_of)
    if monitor is not None:
        training = {"monitor": monitor.removeprefix("val_"), "device": _device(trainer), **_epochs(run, monitor)}
    if isinstance(features := network.get("features"), dict):
        network["encoder_of_features"] = str(features.get("encoder", ""))
    facts = {"format": 1, "data": about_data, "model": {k: v for k, v in network.items() if _plain(v)}}
    tables = [run.predictions, *(run.pooled_predictions(level) for level in ("exam", "patient"))]
    facts |= {"training": training, FILES: record_of(tables)}
    if out_of_distribution is not None:
        facts["out_of_distribution"] = out_of_distribution
    if any(kept):
        facts[KEPT] = {"": list(kept)}
    write_metrics(facts, run.facts)


def training_of(run: RunFolder | None) -> dict[str, Any]:
    """What another run says of its training; nothing where an older one does not."""
    if run is None or not run.facts.is_file():
        return {}
    training = read_json_object(run.facts).get("training")
    return training if isinstance(training, dict) else {}


def part_facts(part: SampleTable) -> dict[str, Any]:
    """Rows, patients and classes of a part of a table."""
    classes = {} if part.task is None else part.task.tally(part.frame[part.task.known(part.frame)])
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
