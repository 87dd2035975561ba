"""What the parts of samples add to an answer, for every kind of model that can be taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medsoft.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the parts of a sample add to an answer.

    Attributes:
        id: of the sample.
        answer: the class, label or number that is explained.
        contributions: of an image (rows, columns) of the grid of patches, in nats of log-odds, over the image as the
            model sees it; of a bag (N,), what each tile adds to the logit of the answer, or its attention where the
            answer is no sum over tiles.
        coords: of a bag (N, 2), the tiles' places in µm, or in pixels where no resolution is known; None of an image,
            and where the file has none.
    """

    id: str
    answer: str
    contributions: np.ndarray
    coords: np.ndarray | None = None


def explain(model: Any, data: Any, answer: str | None) -> list[Explanation]:
    """Explain every sample of the loaded parts.

    Args:
        model: in evaluation mode.
        data: its data module.
        answer: a class or label; None for the predicted one.

    Raises:
        InputError: the answer is none of the model's, or it cannot be taken apart.
    """
    from medsoft.inference.attribution.images import can_be_taken_apart

    task = data.task
    if answer is not None and answer not in task.classes:
        raise InputError(f"answer {answer!r}: the model knows {', '.join(task.classes) or 'numbers only'}")
    if can_be_taken_apart(model):
        return _of_images(model, data, answer)
    if getattr(model, "aggregator", None) is not None:
        return _of_bags(model, data, answer)
    raise InputError(
        f"{type(model).__name__}: places have contributions in medsoft's vision transformers and in networks "
        "that average their last map, and tiles in its slide classifiers; volumes have medsoft predict --maps"
    )


def _of_images(model: Any, data: Any, answer: str | None) -> list[Explanation]:
    import torch

    from medsoft.inference.attribution.images import image_contributions

    found = []
    for split in data.loaded_splits:
        dataset = data.split_dataloader(split).dataset
        for row, id in enumerate(data.part(split).frame["id"]):
            sample = dataset[row]
            index = None if answer is None else data.task.classes.index(answer)
            if index is None:
                batch = {name: sample[name][None] for name in ("image", "covariates") if name in sample}
                with torch.no_grad():
                    p_C = model.objective.probabilities(
                        model.logits(data.transfer_batch_to_device(batch, model.device, 0))
                    )
                index = int(p_C[0].argmax())
            contributions = image_contributions(model, sample, index)
            found.append(Explanation(id, data.task.classes[index], contributions))
    return found


def _of_bags(model: Any, data: Any, answer: str | None) -> list[Explanation]:
    from medsoft.data.features.open import open_bag
    from medsoft.inference.attribution.bags import attention_of_bags, explain_bag
    from medsoft.inference.attribution.tokens import answer_target

    aggregator = model.aggregator
    if not (aggregator.adds_up or aggregator.gives_attention):
        raise InputError("this aggregator has neither contributions nor attention of tiles")
    found = []
    for split in data.loaded_splits:
        for id in data.part(split).frame["id"]:
            file = data.file_of(id)
            if file is None:
                raise InputError(f"{id}: has several files of features; name one of them")
            with open_bag(file) as bag:
                if answer is not None:
                    target = answer_target(model, answer, positive=True)
                else:
                    target = data.task.default_logit_target(_answers(model, bag))
                explained = explain_bag(aggregator, bag, target) if aggregator.adds_up else None
                explained = explained or attention_of_bags(aggregator, [bag], target)
                places = bag.places
                coords = None if places is None else places[bag.good_N]
            found.append(Explanation(id, answer or target.name, explained.contributions_N, coords))
    return found


def _answers(model: Any, bag: Any) -> Any:
    """Probabilities (C,), or the number (1,), of a bag."""
    from functools import partial

    from medsoft.data.datasets.bag_dataset import pieces_of_all
    from medsoft.models.aggregators import read_logits

    logits_1K = read_logits(model.aggregator, partial(pieces_of_all, [bag]))
    return model.objective.probabilities(logits_1K)[0].double().cpu().numpy()
