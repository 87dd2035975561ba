"""Loads a trained classifier from a bundle, without a table or trainer."""

from __future__ import annotations

from typing import Any

import numpy as np

from medsoft.classifiers.base import TableClassifier
from medsoft.classifiers.slide import load_slide_classifier
from medsoft.errors import InputError
from medsoft.parsing.configurations import of_a_bundle, read_configuration
from medsoft.parsing.lightning_cli import classes_of
from medsoft.registry import DEFAULTS
from medsoft.runs.bundle import Bundle
from medsoft.runs.checkpoints import load_weights
from medsoft.specs import Covariates, DataSpec


def load_classifier(bundle: Bundle, trusted: bool = False) -> TableClassifier:
    """The classifier of a bundle, of slides, images or volumes, in evaluation mode on the CPU.

    Args:
        bundle: found to be whole.
        trusted: whether classes other than medsoft's own may be imported.

    Raises:
        InputError: its configuration and its weights do not fit each other, or it names classes that are not trusted.
    """
    known = bundle.about["model"]
    if "aggregator" in known:
        return load_slide_classifier(bundle).model
    if "image_size" not in known:
        raise InputError(f"{bundle.path}: does not say the size of its images: train and export it with this medsoft")
    config: dict[str, Any] = of_a_bundle(read_configuration(bundle.config))
    classes = classes_of(DEFAULTS | (config.get("use") or {}), trusted)
    counts = np.ones(bundle.task.class_counts_shape)  # they only weigh the loss
    size = tuple(known["image_size"])
    beside = known.get("covariates")
    covariates = Covariates(tuple(beside["names"]), None) if beside else None  # the weights bring their scale
    spec = DataSpec(bundle.task, known["channels"], size, counts, known.get("target_scale"), covariates)
    model: TableClassifier = classes["model"](spec, **config.get("model", {}))
    load_weights(model, bundle.path)
    return model.eval()
