"""Tells where images of a test part were shown to the backbone before, in its pretraining without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsoft.data.datasets.base import TableDataModule
from medsoft.encoders.pretrained import seen_in_pretraining
from medsoft.encoders.start import Start
from medsoft.storage.weights_folder import weights_for


def notes_on_seen(model: Any, data: TableDataModule[Any]) -> list[str]:
    """A warning where test images were seen in the pretraining of the weights that a training begins with.

    Images are compared by their pixels, so that copies under other names are found too.

    Args:
        model: the classifier; one that can begin with weights keeps where they come from as ``start``.
        data: with its parts loaded.

    Raises:
        InputError: the record of the pretraining is damaged.
    """
    weights = _weights_of(model)
    seen = seen_in_pretraining(weights) if weights is not None else {}
    if not seen or "test" not in data.loaded_splits:
        return []
    ids = data.part("test").frame["id"]
    again = sum(data.contents.get(id) in seen for id in ids)
    if not again:
        return []
    return [
        f"WARNING: {again} of {len(ids)} test images were seen in the pretraining of {weights}: what the test part "
        "says may be too good. Pretrain without them (medsoft pretrain --splits-from this run's split.csv)"
    ]


def _weights_of(model: Any) -> Path | None:
    """The file that a backbone's weights come from; None where they come with a package, or there are none."""
    start: Start | None = getattr(model, "start", None)
    if start is None or start.file is not None:
        return None if start is None else start.file
    if start.recipe is None or start.recipe.weights:  # of an installed package
        return None
    return weights_for(start.recipe.name, None)
