"""A trained classifier from a bundle alone: no table, no trainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from medsoft.errors import InputError
from medsoft.learn.bundle import Bundle
from medsoft.learn.checkpoints import load_weights
from medsoft.learn.command_line import DEFAULT_CLASSES, classes_of
from medsoft.learn.slide_classifier import load_slide_classifier
from medsoft.learn.table_classifier import TableClassifier
from medsoft.task import Covariates, DataSpec


def load_classifier(bundle: Bundle) -> TableClassifier:
    """The classifier of a bundle, of slides, images or volumes, in evaluation mode on the CPU.

    Raises:
        InputError: its configuration and its weights do not fit each other.
    """
    known = bundle.about["model"]
    if "aggregator" in known:
        return load_slide_classifier(bundle).model
    if "image_size" not in known:
        raise InputError(f"{bundle.path}: does not say the size of its images: train and export it with this medsoft")
    config: dict[str, Any] = yaml.safe_load(bundle.config.read_text(encoding="utf-8"))
    classes = classes_of(DEFAULT_CLASSES | (config.get("use") or {}))
    # Counts of classes only weigh the loss.
    counts = np.ones((len(bundle.task.classes), 2) if bundle.task.kind == "multilabel" else len(bundle.task.classes))
    size = tuple(known["image_size"])
    beside = known.get("covariates")
    covariates = Covariates(tuple(beside["names"]), None) if beside else None  # the weights bring their scale
    spec = DataSpec(bundle.task, known["channels"], size, counts, known.get("target_scale"), covariates)
    model: TableClassifier = classes["model"](spec, **config.get("model", {}))
    load_weights(model, bundle.path)
    return model.eval()
