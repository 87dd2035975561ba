"""The register of classes that configurations name: short names for data, model and transforms.

Configurations, runs and bundles say ``use: {transforms: fundus}`` and never where a class lives, so that code can move
without breaking them, and a file that comes from elsewhere can name nothing but these classes.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from medsoft.errors import InputError

if TYPE_CHECKING:
    import numpy as np

REGISTER: dict[str, dict[str, str]] = {
    "data": {
        "image": "medsoft.data.datasets.image_module.ImageDataModule",
        "bag": "medsoft.data.datasets.bag_module.BagDataModule",
        "volume": "medsoft.data.datasets.volume_module.VolumeDataModule",
        "masks": "medsoft.data.datasets.segmentation.module.SegmentationDataModule",
        "boxes": "medsoft.data.datasets.detection.module.DetectionDataModule",
        "volume_masks": "medsoft.data.datasets.segmentation.volume_module.MaskedVolumeDataModule",
    },
    "model": {
        "classifier": "medsoft.classifiers.image.Classifier",
        "slide_classifier": "medsoft.classifiers.slide.SlideClassifier",
        "probe": "medsoft.classifiers.probe.Probe",
        "slice_classifier": "medsoft.classifiers.slices.SliceClassifier",
        "segmenter": "medsoft.classifiers.segmentation.segmenter.Segmenter",
        "detector": "medsoft.classifiers.detection.detector.Detector",
        "volume_segmenter": "medsoft.classifiers.segmentation.volume_segmenter.VolumeSegmenter",
    },
    "transforms": {
        "plain": "medsoft.data.transforms.plain.Plain",
        "fundus": "medsoft.data.transforms.fundus.Fundus",
        "dermoscopy": "medsoft.data.transforms.dermoscopy.Dermoscopy",
        "chest_xray": "medsoft.data.transforms.chest_xray.ChestXray",
        "histology": "medsoft.data.transforms.histology.Histology",
        "volume": "medsoft.data.volumes.transforms.recipe.VolumeTransforms",
    },
}
"""By role, short names and where their classes live; modules are imported when a class is asked for."""

DEFAULT_NAME = "run"
"""Of an experiment that nobody has named."""

DEFAULTS = {"data": "image", "model": "classifier", "transforms": "plain"}
"""What a configuration uses where it does not say."""

TRUST = (
    "Classes other than medsoft's own are code that somebody wrote: they are imported only where --trust stands on the "
    "command line. Use it only if you know who wrote this configuration and these classes"
)


READERS = {"tile": "medsoft.slides.reading.sample.read_tile_sample"}
"""What reads samples of a kind that lives in a room above the data: found by name, as slides build on the data."""


def find_reader(kind: str) -> Callable[[str, str], np.ndarray]:
    """The function that reads a sample of a kind: it takes the file, and the place in it.

    Args:
        kind: a key of ``READERS``.
    """
    module, _, name = READERS[kind].rpartition(".")
    found: Callable[[str, str], np.ndarray] = getattr(importlib.import_module(module), name)
    return found


def short_name(role: str, given: str) -> str:
    """The short name of one of medsoft's own classes, also by its path in this or an earlier version.

    A name that is none of these is given back as it is.
    """
    own = {path.rpartition(".")[2]: name for name, path in REGISTER[role].items()}
    package, _, class_name = given.rpartition(".")
    return own.get(class_name, given) if package.split(".")[0] == "medsoft" else given


def short_names(named: Mapping[str, object], source: str) -> dict[str, str]:
    """The section ``use`` of a configuration, with short names.

    Args:
        named: what the section holds.
        source: of it, for the message.

    Raises:
        InputError: a role that there is not, or a name that is no text.
    """
    if unknown := sorted(map(str, set(named) - set(REGISTER))):
        raise InputError(f"{source}: use: {', '.join(unknown)} is none of {', '.join(REGISTER)}")
    for role, name in named.items():
        if not isinstance(name, str):
            raise InputError(f"{source}: use.{role} must be a name: one of {', '.join(REGISTER[role])}")
    return {role: short_name(role, str(name)) for role, name in named.items()}


def find_class(role: str, name: str, base: type, trusted: bool) -> type:
    """The class of a short name, or of a dotted path where those are trusted.

    Args:
        role: data, model or transforms.
        name: as a configuration names it.
        base: what the class must be.
        trusted: whether the user has said ``--trust`` on the command line.

    Raises:
        InputError: no such class, one that is not medsoft's own and not trusted, or one of another kind.
    """
    name = short_name(role, name)
    known = REGISTER[role]
    if name not in known and "." not in name:
        near = difflib.get_close_matches(name, known, n=1)
        did = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"use.{role}: there is no {role} {name!r}: one of {', '.join(known)}{did}")
    if name not in known and not trusted:
        raise InputError(f"use.{role}: {name} is none of medsoft's own ({', '.join(known)}). {TRUST}")
    module, _, class_name = known.get(name, name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"use.{role}: {name} cannot be imported ({type(error).__name__}): give a short name "
            f"({', '.join(known)}), or the dotted path of a class in an installed package or on PYTHONPATH"
        ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"use.{role}: {name} is no {base.__name__}")
    return found
