"""Attribution maps of a run's volumes: as NIfTI in the space of the volume as read, and as figures."""

from __future__ import annotations

import csv
import re
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medsoft.classifiers.base import TableClassifier
from medsoft.classifiers.objectives import logit_scale
from medsoft.data.datasets.volume_module import VolumeDataModule
from medsoft.data.volumes.transforms.geometry import located, oriented, spacing_of
from medsoft.errors import InputError, check_range
from medsoft.evaluation.abstention import unfamiliar
from medsoft.evaluation.attribution import NO_MAP, is_noise, spread_of
from medsoft.inference.attribution.resample import into_space, write_nifti
from medsoft.inference.attribution.target import MapQuantity
from medsoft.inference.attribution.volume_figure import write_montage
from medsoft.inference.attribution.volumes import check_explainable, volume_contributions
from medsoft.storage.files import replacing
from medsoft.task import Task
from medsoft.task_types import LogitTarget


@dataclass(frozen=True)
class MapRow:
    """A row of ``maps.csv``.

    Attributes:
        id: of the sample.
        split: that it is in.
        logit_target: whose logit.
        logit: of the question; of a regression the prediction, in the unit of the targets.
        contributions: sum of all cells' contributions, in the same unit; the rest belongs to no place.
        cell_mm: size of a cell.
        nifti: name of the map's file; "" where there is no map.
        picture: name of the picture; likewise.
        note: why there is no map.
    """

    id: str
    split: str
    logit_target: str
    logit: float
    contributions: float
    cell_mm: str
    nifti: str
    picture: str
    note: str = ""


def check_maps(n: int, data: object, model: TableClassifier) -> None:
    """Check before work starts that maps can be made.

    Raises:
        InputError: the data are no volumes, the model's logits cannot be taken apart by place, or the answer is a
            mean over several views.
    """
    check_range("maps", n, 0)
    if n == 0:
        return
    if not isinstance(data, VolumeDataModule):
        raise InputError("--maps is for volumes; of slides, medsoft slides heatmap draws maps")
    if model.views:
        raise InputError(
            f"--maps with --tta {len(model.views)}: maps are of the volume as it is, the answer is a mean over views: "
            "leave one of the two out"
        )
    check_explainable(model)


def write_maps(
    folder: Path, frame: pd.DataFrame, data: VolumeDataModule, model: TableClassifier, n: int, column: str = ""
) -> None:
    """Write the maps of the first ``n`` samples of each split, and their table.

    Args:
        folder: for ``maps.csv``, and ``<id>.nii.gz`` and ``<id>.png`` of each sample; not of rounding noise.
        frame: the predictions.
        data: with the splits of ``frame`` loaded.
        model: one that ``check_maps`` accepts.
        n: samples a split.
        column: of a regression's targets, for the words.
    """
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    places = {key: row for row, key in enumerate(zip(frame["split"], frame["id"], strict=True))}
    rows = []
    for split in data.loaded_splits:
        part = data.part(split)
        for index, id in enumerate(part.frame["id"].head(n)):
            if (split, id) in places:
                sample = _Sample(split, index, id, frame, places[(split, id)])
                rows.append(_write_map(folder, sample, data, model, column))
    with replacing(folder / "maps.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([field.name for field in fields(MapRow)])
        table.writerows(astuple(row) for row in rows)
    without = sum(bool(row.note) for row in rows)
    print(f"Maps: {len(rows) - without} in {folder}" + (f"; {without} of {len(rows)}: {NO_MAP}" if without else ""))


@dataclass(frozen=True)
class _Sample:
    """Which one: its place in its part, and in the predictions."""

    split: str
    index: int
    id: str
    frame: pd.DataFrame
    row: int


def _spread(frame: pd.DataFrame, task: Task, logit_target: LogitTarget, unit: float) -> float:
    """Of the question's answers over the run's predictions: a regression's numbers, else log-odds."""
    return spread_of(task.explained_values(frame, logit_target), unit)


def _write_map(folder: Path, sample: _Sample, data: VolumeDataModule, model: TableClassifier, column: str) -> MapRow:
    split, id, task = sample.split, sample.id, data.task
    logit_target = task.default_logit_target(sample.frame[task.p_columns].iloc[sample.row].to_numpy(np.float64))
    quantity = MapQuantity.about(logit_target, logit_scale(model.objective, logit_target), column)
    dataset = data.dataset(split)
    prepared = dataset.prepared(sample.index)
    device = next(model.parameters()).device
    covariates = None
    if dataset.covariates is not None:
        covariates = torch.from_numpy(dataset.covariates[[sample.index]]).to(device)
    found = volume_contributions(model, prepared.image[None].to(device), covariates, logit_target)
    scale = np.linalg.norm(prepared.affine.numpy()[:3, :3], axis=0)
    cell_mm = " x ".join(f"{side * length:.3g}" for side, length in zip(found.cell, scale, strict=True))
    in_unit, value = found.contributions * quantity.unit, quantity.value(found.logit)
    cells = float(in_unit.sum())
    about = (id, split, logit_target.name, round(value, 6), round(cells, 6), cell_mm)
    if is_noise(in_unit, _spread(sample.frame, task, logit_target, quantity.unit)):
        return MapRow(*about, "", "", NO_MAP)
    read = data.reader.read(next(filter(None, dataset.rows[sample.index].paths)))
    size = data.transforms.size
    placed = into_space(in_unit, found.cell, size, prepared.affine.numpy(), read.affine, read.shape)
    name = f"{split}_{id}" if split else id
    name = re.sub(r"[^\w.-]+", "_", name)
    write_nifti(placed, read.affine, folder / f"{name}.nii.gz")
    drawn, contributions = (oriented(located(array[None], read.affine), "RAS") for array in (read.array[0], placed))
    mm = spacing_of(drawn)
    far = unfamiliar(sample.frame.iloc[[sample.row]])[0]
    facts = (
        f"{quantity.word} {value:.2f}: cells {cells:+.2f}, all else {value - cells:+.2f}; patient's right on the left"
    )
    facts = " · ".join(filter(None, (facts, far)))
    title = f"{id}: what each cell adds to the {quantity.name}"
    picture = folder / f"{name}.png"
    mm_ = (mm[0], mm[1])
    write_montage(
        np.asarray(drawn[0]), np.asarray(contributions[0]), mm_, quantity.name, title, facts, data.note, picture
    )
    return MapRow(*about, f"{name}.nii.gz", picture.name)
