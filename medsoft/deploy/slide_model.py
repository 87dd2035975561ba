"""Slide classifiers at work: from a feature file to answers and heatmaps, everything from their checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from medsoft import __version__
from medsoft.data.bag_files import differences
from medsoft.data.bags.bag_file import Bag, BagError
from medsoft.data.bags.facts import EncoderIdentity
from medsoft.data.hashing import quick_hash, sha256
from medsoft.deploy.bag_answers import bag_logits, explain_bag
from medsoft.deploy.encoder import choose_device
from medsoft.errors import InputError, is_out_of_memory
from medsoft.learn.bundle import Bundle
from medsoft.learn.checkpoint_file import checkpoint_file
from medsoft.learn.familiar import Familiar
from medsoft.learn.features import find_familiar
from medsoft.learn.question import Question
from medsoft.learn.run_folder import RunFolder
from medsoft.learn.slide_classifier import LoadedSlideClassifier, load_slide_classifier
from medsoft.learn.table_classifier import inputs_of
from medsoft.slides.heatmap import Heatmap
from medsoft.task import Task


@dataclass(frozen=True, eq=False)
class SlideAnswer:
    """What a slide classifier, or each member of an ensemble, says of one slide.

    Attributes:
        members_MC: (M, C) float64, probabilities in the order of the task's classes; of a regression numbers (M, 1).
        ood_scores_M: (M,) as in ``Familiar.score``; NaN where a member does not know what is familiar.
    """

    members_MC: np.ndarray
    ood_scores_M: np.ndarray

    @property
    def mean_C(self) -> np.ndarray:
        """(C,) mean over the members."""
        mean: np.ndarray = self.members_MC.mean(axis=0)
        return mean


class SlideModel:
    """A trained slide classifier on its device, or several as one.

    Attributes:
        task: the question.
        slides: how slides must become features, as the checkpoint says; None where another tool made the features.
        identity: which encoder saw which tiles in the training.
        num_features: features a tile.

    Args:
        sources: a checkpoint, the folder of a run, or a bundle; several for an ensemble.
        device: ``auto``, ``cpu``, ``cuda`` …

    Raises:
        InputError: no slide classifier, or no such device; members that answer different questions, or were trained on
            features of different kinds; or what a run knows as familiar is damaged.
    """

    def __init__(self, sources: Sequence[Path | Bundle], device: str) -> None:
        where = choose_device(device)
        self._members = [_Member.load(source) for source in sources]
        for source, member in zip(sources[1:], self._members[1:], strict=True):
            _require_alike(sources[0], self._members[0].loaded, source, member.loaded)
        for member in self._members:
            member.loaded.model.to(where)
        loaded, only = self._members[0].loaded, sources[0]
        self._sha256 = sha256(only.weights if isinstance(only, Bundle) else checkpoint_file(only))
        self.task: Task = loaded.task
        self.slides = loaded.slides
        self.identity = EncoderIdentity(**loaded.features)
        self.num_features = loaded.aggregator.num_features

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

    def answer(self, bag: Bag) -> SlideAnswer:
        """What every member says of a bag.

        Raises:
            BagError: the bag cannot be read or does not fit the model.
        """
        self.check(bag)
        answers, scores = zip(*(_answer(member, bag) for member in self._members), strict=True)
        return SlideAnswer(np.stack(answers), np.array(scores))

    def heatmap(self, bag: Bag, id: str, question: Question, probabilities_C: np.ndarray) -> Heatmap:
        """What each tile of a bag adds to the question's logit, of a single model.

        Args:
            bag: written by medsoft, which says the slide's size.
            id: of the slide.
            question: whose logit.
            probabilities_C: of the bag.

        Raises:
            BagError: the file does not say where its tiles lie, or cannot be read.
            ValueError: an ensemble: its mean of probabilities has no logit that would be a sum over tiles.
        """
        (member,) = self._members
        facts, coords_N2_px0 = bag.facts, bag.coords_N2_px0
        if facts is None or coords_N2_px0 is None:
            raise BagError("no heatmap: the file does not say the slide's size and resolution")
        with _enough_memory(bag):
            answer = explain_bag(member.loaded.aggregator, bag, question)
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


@dataclass(frozen=True, eq=False)
class _Member:
    """A classifier, and what it knows as familiar."""

    loaded: LoadedSlideClassifier
    familiar: Familiar | None

    @classmethod
    def load(cls, source: Path | Bundle) -> _Member:
        loaded = load_slide_classifier(source)
        run = source.path if isinstance(source, Bundle) else checkpoint_file(source).resolve().parent.parent
        return cls(loaded, find_familiar(RunFolder(run), loaded.model))


def _answer(member: _Member, bag: Bag) -> tuple[np.ndarray, float]:
    """Probabilities (C,) float64, and the out-of-distribution score or NaN."""
    model = member.loaded.model
    try:
        with _enough_memory(bag), inputs_of(model.last_layer) as seen:
            logits_1K = bag_logits(model.aggregator, bag).double()
    except ValueError as error:  # places that the model needs are not in the file
        raise BagError(str(error)) from None
    if not bool(logits_1K.isfinite().all()):
        raise BagError("the model's answer is no number: do the features come from another encoder?")
    with torch.no_grad():
        probabilities: np.ndarray = model.objective.probabilities(logits_1K)[0].numpy()
    if member.familiar is None:
        return probabilities, np.nan
    return probabilities, float(member.familiar.score(seen[0].cpu().numpy())[0])


def _require_alike(
    first: Path | Bundle, wanted: LoadedSlideClassifier, other: Path | Bundle, found: LoadedSlideClassifier
) -> None:
    """Raise InputError where two members do not answer the same question about the same features."""
    names = " and ".join(str(one.path if isinstance(one, Bundle) else one) for one in (other, first))
    if found.task != wanted.task:
        asked = " and ".join(f"{task.kind} ({', '.join(task.classes)})" for task in (found.task, wanted.task))
        raise InputError(f"{names} answer different questions: {asked}")
    kinds = [(EncoderIdentity(**one.features), one.aggregator.num_features) for one in (wanted, found)]
    if differing := differences(*kinds):
        raise InputError(f"{names} were trained on features of different kinds: {differing}")


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
