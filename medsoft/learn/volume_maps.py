"""Maps of shares of a run's volumes: as NIfTI in the space of the volume as read, and as pictures."""

from __future__ import annotations

import csv
import re
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medsoft.data.volumes.geometry import located, oriented, spacing_of
from medsoft.data.volumes.module import VolumeDataModule
from medsoft.data.volumes.share_map import into_space, write_nifti
from medsoft.errors import InputError, check_range
from medsoft.files import replacing
from medsoft.learn.question import default_question
from medsoft.learn.table_classifier import TableClassifier
from medsoft.learn.volume_picture import write_montage
from medsoft.learn.volume_shares import check_explainable, volume_shares


@dataclass(frozen=True)
class MapRow:
    """A row of ``maps.csv``.

    Attributes:
        id: of the sample.
        split: that it is in.
        question: whose logit.
        logit: of the question.
        shares: sum of all cells' shares; the rest of the logit belongs to no place.
        cell_mm: size of a cell.
        nifti: name of the map's file.
        picture: name of the picture.
    """

    id: str
    split: str
    question: str
    logit: float
    shares: float
    cell_mm: str
    nifti: str
    picture: str


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


def write_maps(folder: Path, frame: pd.DataFrame, data: VolumeDataModule, model: TableClassifier, n: int) -> None:
    """Write the maps of the first ``n`` samples of each split, and their table.

    Args:
        folder: for ``maps.csv``, and ``<id>.nii.gz`` and ``<id>.png`` of each sample.
        frame: the predictions.
        data: with the splits of ``frame`` loaded.
        model: one that ``check_maps`` accepts.
        n: samples a split.
    """
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    answers = frame.set_index(["split", "id"])[data.task.p_columns]
    rows = []
    for split in data.loaded_splits:
        part = data.part(split)
        for index, id in enumerate(part.frame["id"].head(n)):
            if (split, id) in answers.index:
                rows.append(_write_map(folder, split, index, id, answers.loc[(split, id)].to_numpy(float), data, model))
    with replacing(folder / "maps.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([field.name for field in fields(MapRow)])
        table.writerows(astuple(row) for row in rows)
    print(f"Maps: {len(rows)} in {folder}")


def _write_map(
    folder: Path, split: str, index: int, id: str, p_C: np.ndarray, data: VolumeDataModule, model: TableClassifier
) -> MapRow:
    question = default_question(data.task, p_C)
    dataset = data.dataset(split)
    prepared = dataset.prepared(index)
    device = next(model.parameters()).device
    covariates = None
    if dataset.covariates is not None:
        covariates = torch.from_numpy(dataset.covariates[index : index + 1]).to(device)
    found = volume_shares(model, prepared.image[None].to(device), covariates, question)
    read = data.reader.read(next(filter(None, dataset.rows[index].paths)))
    size = data.transforms.size
    placed = into_space(found.shares, found.cell, size, prepared.affine.numpy(), read.affine, read.shape)
    name = f"{split}_{id}" if split else id
    name = re.sub(r"[^\w.-]+", "_", name)
    write_nifti(placed, read.affine, folder / f"{name}.nii.gz")
    drawn, shares = (oriented(located(array[None], read.affine), "RAS") for array in (read.array[0], placed))
    mm = spacing_of(drawn)
    cells = float(found.shares.sum())
    facts = (
        f"logit {found.logit:.2f}: cells {cells:+.2f}, all else {found.logit - cells:+.2f}; patient's right on the left"
    )
    title = f"{id}: what each cell adds to the logit of {question.name}"
    picture = folder / f"{name}.png"
    write_montage(np.asarray(drawn[0]), np.asarray(shares[0]), (mm[0], mm[1]), title, facts, data.note, picture)
    scale = np.linalg.norm(prepared.affine.numpy()[:3, :3], axis=0)
    cell_mm = " x ".join(f"{side * length:.3g}" for side, length in zip(found.cell, scale, strict=True))
    total = round(float(found.shares.sum()), 6)
    return MapRow(id, split, question.name, round(found.logit, 6), total, cell_mm, f"{name}.nii.gz", picture.name)
