"""A slide classifier at work: from a feature file to probabilities and heatmaps, everything from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medsoft import __version__
from medsoft.data.bags.bag_file import Bag, BagError
from medsoft.data.bags.facts import EncoderIdentity
from medsoft.data.hashing import quick_hash, sha256
from medsoft.deploy.bag_answers import bag_logits, explain_bag
from medsoft.deploy.encoder import choose_device
from medsoft.errors import is_out_of_memory
from medsoft.learn.bundle import Bundle
from medsoft.learn.question import Question
from medsoft.learn.slide_classifier import checkpoint_file, load_slide_classifier
from medsoft.slides.heatmap import Heatmap
from medsoft.task import Task


class SlideModel:
    """A trained slide classifier on its device.

    Attributes:
        task: the question.
        slides: how slides must become features, as the checkpoint says; None where another tool made the features.
        identity: which encoder saw which tiles in the training.
        num_features: features a tile.

    Args:
        source: a checkpoint, the folder of a run, or a bundle.
        device: ``auto``, ``cpu``, ``cuda`` …

    Raises:
        InputError: no slide classifier, or no such device.
    """

    def __init__(self, source: Path | Bundle, device: str) -> None:
        where = choose_device(device)
        self._loaded = load_slide_classifier(source)
        self._loaded.model.to(where)
        self._sha256 = sha256(source.weights if isinstance(source, Bundle) else checkpoint_file(source))
        self.task: Task = self._loaded.task
        self.slides = self._loaded.slides
        self.identity = EncoderIdentity(**self._loaded.features)
        self.num_features = self._loaded.aggregator.num_features

    def check(self, bag: Bag) -> None:
        """Refuse features of another kind than those of the training, and bags without a tile.

        Raises:
            BagError: they cannot be used.
        """
        if bag.identity != self.identity:
            differing = "; ".join(self.identity.differences(bag.identity))
            raise BagError(f"features of another kind than those of the training: {differing}")
        if bag.num_features != self.num_features:
            raise BagError(f"{bag.num_features} features a tile, but the model was trained on {self.num_features}")
        if not bag.good_N.any():
            raise BagError("holds no tile that could be read")

    def probabilities(self, bag: Bag) -> np.ndarray:
        """(C,) in the order of the task's classes, float64.

        Raises:
            BagError: the bag cannot be read or does not fit the model.
        """
        self.check(bag)
        try:
            with _enough_memory(bag):
                logits_1K = bag_logits(self._loaded.aggregator, bag).double()
        except ValueError as error:  # places that the model needs are not in the file
            raise BagError(str(error)) from None
        if not bool(logits_1K.isfinite().all()):
            raise BagError("the model's answer is no number: do the features come from another encoder?")
        with torch.no_grad():
            probabilities: np.ndarray = self._loaded.model.objective.probabilities(logits_1K)[0].numpy()
        return probabilities

    def heatmap(self, bag: Bag, id: str, question: Question, probabilities_C: np.ndarray) -> Heatmap:
        """What each tile of a bag adds to the question's logit.

        Args:
            bag: written by medsoft, which says the slide's size.
            id: of the slide.
            question: whose logit.
            probabilities_C: of the bag.

        Raises:
            BagError: the file does not say where its tiles lie, or cannot be read.
        """
        facts, coords_N2_px0 = bag.facts, bag.coords_N2_px0
        if facts is None or coords_N2_px0 is None:
            raise BagError("no heatmap: the file does not say the slide's size and resolution")
        with _enough_memory(bag):
            answer = explain_bag(self._loaded.aggregator, bag, question)
        found = Heatmap(
            id=id,
            name=question.name,
            size_px0=facts.size_px0,
            mpp=facts.mpp,
            coords_N2_px0=coords_N2_px0[bag.good_N],
            tile_px0=facts.tile_px0,
            shares_N=answer.shares_N,
            logit=answer.logit,
            probability=float(1 / (1 + np.exp(-answer.logit))),
            parts=answer.parts,
        )
        if self.task.kind == "regression":
            return replace(found, probability=None)
        if question.sigmoid:
            return found
        return replace(found, probability=float(probabilities_C[self.task.classes.index(question.name)]))

    def made_from(self, features: Path, question: Question, background: str) -> dict[str, str]:
        """What decides a heatmap, to know whether one that is there is this one.

        Args:
            features: the bag's file.
            question: whose logit.
            background: what lies under the map, "slide" or "nothing".
        """
        return {
            "checkpoint_sha256": self._sha256,
            "features_quick_hash": quick_hash(features),
            "class": question.name,
            "background": background,
            "medsoft": __version__,
        }


@contextmanager
def _enough_memory(bag: Bag) -> Iterator[None]:
    """Make a bag that is too large for the device a failure of this bag alone."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise BagError(
            f"not enough memory for its {bag.num_tiles} tiles: try --device cpu, or train with an aggregator that "
            "reads tiles in pieces (mean, max, abmil, or a transformer with seqnorm or sima)"
        ) from None
