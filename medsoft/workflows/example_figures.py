"""Pictures of right and wrong answers for the report, with what the image's parts add to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.special import logit
from torch import Tensor

from medsoft.evaluation.attribution import NO_MAP, is_noise, spread_of
from medsoft.evaluation.detection.pictures import write_box_pictures
from medsoft.evaluation.examples import Example, pick_examples, reported_part, write_examples
from medsoft.evaluation.metrics.targets import probabilities
from medsoft.evaluation.segmentation.contours import write_contours
from medsoft.inference.attribution.images import can_be_taken_apart, image_contributions, of_a_map
from medsoft.inference.attribution.tokens import answer_target, explains_tokens, token_map
from medsoft.inference.attribution.trust import Mapped, trust_in_maps
from medsoft.inference.attribution.volumes import is_explainable
from medsoft.inference.detection.read import boxes_of
from medsoft.inference.images.mask_pictures import masks_of
from medsoft.storage.files import replacing
from medsoft.task import Task
from medsoft.training.predict import Data

LONGEST_SIDE_PX = 256
OPACITY = 0.75
COLOURS = "RdBu_r"  # of Matplotlib
SMALLEST = 1e-12
Pixels = npt.NDArray[np.uint8]

WITH_MAPS = (
    "On the right of each image: what its patches add to the log-odds of the answer through the last attention layer, "
    "red for, blue against, strongest at the largest contribution. Patches hold what they gathered from others in "
    "earlier layers: a contribution belongs to a place and its surroundings, and does not prove why. What belongs to "
    "no patch adds to the answer too, so that contributions can be against a confident one."
)
OF_MAPS = (
    "On the right of each image: what the places of the network's last map add to the log-odds of the answer (class "
    "activation mapping), red for, blue against, strongest at the largest contribution. A place holds what the network "
    "saw in a wide surrounding: a contribution does not prove why. The bias belongs to no place."
)
WITHOUT_MAPS = (
    "Maps of contributions are drawn of medsoft's vision transformers and pyramids that read a class token, and of "
    "networks that average their last map, as convolutional ones do; this model is another."
)
OF_TOKENS = (
    "On the right of each image: what its tokens add to the logit of the answer, red for, blue against, strongest at "
    "the largest contribution. A token holds what the encoder saw around its place, and what it gathered from others "
    "where there is attention between them: a contribution belongs to a place and its surroundings, and does not prove "
    "why. What belongs to no token adds to the answer too."
)
NO_PLACES = "no map: the model reads a vector that is no mean of tokens with places"
OF_VOLUMES = (
    "Four slices of each volume. Maps of contributions are written by medsoft predict --maps, as NIfTI and pictures."
)


def write_run_examples(folder: Path, frame: pd.DataFrame, data: Data, model: Any, n: int) -> Path | None:
    """Draw ``n`` right and ``n`` wrong answers about the part that is reported: test, else val, else the first one.

    Args:
        folder: made anew.
        frame: the predictions.
        data: has the images, and tensors for the model.
        model: in evaluation mode.
        n: of each kind.

    Returns:
        ``examples.json``; None where there is nothing to draw.
    """
    if data.task.has_masks:
        return write_contours(folder, frame, data.task, masks_of(data, folder.parent), n)
    if data.task.has_boxes:
        return write_box_pictures(folder, frame, data.task, boxes_of(data, folder.parent), n)
    if not data.task.has_classes:
        return None
    known = frame[data.task.known(frame)]
    if not len(known):
        return None
    picked = pick_examples(reported_part(known), data.task, n)
    of_tokens = explains_tokens(model)
    maps = can_be_taken_apart(model) or of_tokens
    rows = []
    mapped: list[Mapped] = []
    for number, example in enumerate(picked):
        pixels = data.thumbnail(example.id)
        if pixels is None or pixels.ndim != 3:
            continue
        image, map_ = f"{number:02d}.jpg", None
        _save(_rgb(pixels), folder / image)
        if maps:
            contributions = (_of_tokens if of_tokens else _contributions)(model, data, example, pixels.shape[:2])
            if contributions is None:
                example = replace(example, note=NO_PLACES)
            elif is_noise(contributions, _spread(known, data.task, example)):
                example = replace(example, note=NO_MAP)
            else:
                map_ = f"{number:02d}_contributions.jpg"
                _save(overlay(_rgb(pixels), contributions), folder / map_)
                if not of_tokens:
                    mapped.append(Mapped(_sample(data, example), *_answer(example, data.task), contributions))
        rows.append((example, image, map_))
    with_maps = OF_TOKENS if of_tokens else OF_MAPS if of_a_map(model) else WITH_MAPS
    about = with_maps if maps else OF_VOLUMES if is_explainable(model) else WITHOUT_MAPS
    if maps and not any(map_ for _, _, map_ in rows):
        about = ""  # each example says why it has none
    if (trust := trust_in_maps(model, mapped)) is not None:
        about += f" {trust}"
    return write_examples(folder, rows, about) if rows else None


def _of_tokens(model: Any, data: Any, example: Example, shape: tuple[int, int]) -> npt.NDArray[np.float64] | None:
    file = data.file_of(example.id)
    if file is None:
        return None
    index, positive = _answer(example, data.task)
    target = answer_target(model, data.task.classes[index], positive)
    return token_map(model, Path(file), target, shape, data.pooled)


def _contributions(model: Any, data: Data, example: Example, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    index, positive = _answer(example, data.task)
    return image_contributions(model, _sample(data, example), index, positive)


def _sample(data: Data, example: Example) -> dict[str, Tensor]:
    dataset: Any = data.split_dataloader(example.split).dataset
    row = int(np.flatnonzero(data.part(example.split).frame["id"] == example.id)[0])
    found: dict[str, Tensor] = dataset[row]
    return found


def _spread(frame: pd.DataFrame, task: Task, example: Example) -> float:
    """Spread of the log-odds of an answer over the run's predictions."""
    p_N = probabilities(frame, task)[:, _answer(example, task)[0]]
    return spread_of(logit(p_N.clip(SMALLEST, 1 - SMALLEST)))


def _answer(example: Example, task: Task) -> tuple[int, bool]:
    """Which output is asked, and whether for it or against it."""
    if example.label:
        return task.classes.index(example.label), example.predicted == "yes"
    return task.classes.index(example.predicted), True


def overlay(pixels_HWC: Pixels, contributions: npt.NDArray[np.float64]) -> Pixels:
    """Contributions over an image in grey: red for, blue against, the more opaque the larger.

    Args:
        pixels_HWC: (H, W, 3).
        contributions: (rows, columns) of the patch grid, which covers the image from its upper left corner.
    """
    from matplotlib import colormaps

    height, width = pixels_HWC.shape[:2]
    limit = float(np.abs(contributions).max()) or 1.0
    relative = np.asarray(
        Image.fromarray((contributions / limit).astype(np.float32)).resize((width, height), Image.Resampling.NEAREST)
    )
    colours = colormaps[COLOURS](0.5 + relative / 2)[..., :3] * 255
    grey = np.asarray(Image.fromarray(pixels_HWC).convert("L"), dtype=np.float64)[..., None]
    opacity = OPACITY * np.abs(relative)[..., None]
    mixed: Pixels = np.round(opacity * colours + (1 - opacity) * grey).astype(np.uint8)
    return mixed


def _rgb(pixels: Pixels) -> Pixels:
    """(H, W, 1) and (H, W, 3) alike as (H, W, 3)."""
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[..., :3])


def _save(pixels: Pixels, path: Path) -> None:
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    with replacing(path) as temporary:
        image.save(temporary, format="JPEG", quality=85)
