"""Loads slide classifiers from checkpoints, and turns feature files into predictions and heatmaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsoft import __version__
from medsoft.classifiers.base import inputs_of
from medsoft.classifiers.objectives import logit_scale
from medsoft.classifiers.out_of_distribution import Detector
from medsoft.classifiers.pixel_statistics import bag_statistics
from medsoft.classifiers.slide import LoadedSlideClassifier, load_slide_classifier
from medsoft.data.datasets.bag_dataset import pieces_of_all
from medsoft.data.datasets.bag_index import differences
from medsoft.data.features.open import Bag
from medsoft.data.features.provenance import EncoderIdentity, canonical
from medsoft.encoders.encoder import choose_device
from medsoft.errors import BagError, InputError, is_out_of_memory
from medsoft.evaluation.abstention import ood_words
from medsoft.evaluation.tables.predictions import score_columns
from medsoft.inference.attribution.bags import BagExplanation, attention_of_bags, explain_bags
from medsoft.inference.attribution.target import MapQuantity, target_column
from medsoft.inference.slides.agreement import Agreement, agreement_of
from medsoft.models.aggregators import read_logits
from medsoft.parsing.configurations import read_configuration
from medsoft.runs.bundle import Bundle
from medsoft.runs.checkpoint_paths import checkpoint_file
from medsoft.runs.run_folder import RunFolder
from medsoft.slides.annotations.settings import RegionSettings
from medsoft.slides.heatmaps.heatmap import Heatmap
from medsoft.storage.hashing import quick_hash, sha256
from medsoft.task import Task
from medsoft.task_types import LogitTarget
from medsoft.training.ood_features import find_detector
from medsoft.training.shift import Shift, shift_of


@dataclass(frozen=True, eq=False)
class SlidePrediction:
    """What a slide classifier, or each member of an ensemble, says of one slide.

    Attributes:
        members_MC: (M, C) float64, probabilities in the order of the task's classes; of a regression numbers (M, 1).
        ood_scores_M: (M,) as in ``Detector.score``; NaN where a member has no detector.
        inputs_S: statistics of the bag, as in ``bag_statistics``.
        agreement: of the members about what the tiles contribute; None where they were not compared.
    """

    members_MC: np.ndarray
    ood_scores_M: np.ndarray
    inputs_S: np.ndarray
    agreement: Agreement | None = None

    @property
    def mean_C(self) -> np.ndarray:
        """(C,) mean over the members."""
        mean: np.ndarray = self.members_MC.mean(axis=0)
        return mean

    @property
    def unfamiliar(self) -> str:
        """The out-of-distribution score, and whether the model abstains, in words; "" where a member has none."""
        score = float(self.ood_scores_M.mean())
        return "" if np.isnan(score) else ood_words(score, bool(score_columns(score)["abstain"]))


class SlideModel:
    """A trained slide classifier on its device, or several as one.

    Attributes:
        task: the question.
        slides: how slides must become features, as the checkpoint says; None where another tool made the features.
        identity: which encoder saw which tiles in the training.
        num_features: features per tile.
        covariates: columns of the clinical covariates that it takes beside a bag; often none.
        group: what one bag of the training was of, "slide" or "patient".
        run: folder of the run that trained the model, or of its bundle; None for an ensemble.
        kept: what each member has kept of its training part for an evaluation.
        facts: what the report says of the network: its size, and how many members an ensemble has.

    Args:
        sources: a checkpoint, the folder of a run, or a bundle; several for an ensemble.
        device: ``auto``, ``cpu``, ``cuda`` …
        regions: as for ``restrict``.

    Raises:
        InputError: no slide classifier, or no such device; members that answer different questions, or were trained on
            features of different kinds; or the file of a run's detector is damaged.
    """

    def __init__(self, sources: Sequence[Path | Bundle], device: str, regions: RegionSettings | None = None) -> None:
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
        self.covariates, self.group = loaded.covariates, self._members[0].group
        _require_one_group(sources, self._members)
        self.run = self._members[0].run if len(sources) == 1 else None
        self.kept = [member.loaded.model.kept for member in self._members]
        parameters = list(loaded.model.parameters())
        size = sum(parameter.numel() for parameter in parameters)
        self.facts: dict[str, Any] = {
            "backbone": loaded.model.aggregator_name,
            "parameters": size,
            "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        } | ({"members": len(sources)} if len(sources) > 1 else {})
        self.restrict(regions)

    def restrict(self, regions: RegionSettings | None) -> None:
        """Expect features of the tiles that regions leave, where the training had those of whole slides.

        Args:
            regions: which tiles; None: those of the training.
        """
        if regions is None or self.slides is None:
            return
        tiles = {**self.slides["tile_settings"], "regions": regions.as_dict()}
        self.slides = {**self.slides, "tile_settings": tiles}
        self.identity = replace(self.identity, tiles=canonical(tiles))

    @property
    def has_maps(self) -> bool:
        """Whether the model says of each tile what it contributes, or what attention it got."""
        aggregator = self._members[0].loaded.aggregator
        return aggregator.adds_up or aggregator.gives_attention

    @property
    def can_compare(self) -> bool:
        """Whether there are several members, and what they say of each tile is of one kind."""
        aggregators = [member.loaded.aggregator for member in self._members]
        kinds = [all(one.adds_up for one in aggregators), all(one.gives_attention for one in aggregators)]
        return len(aggregators) > 1 and any(kinds)

    def compare(self, bags: Sequence[Bag], prediction: SlidePrediction) -> SlidePrediction:
        """The prediction, with whether its members agree about what the tiles contribute; see ``can_compare``.

        Args:
            bags: that were predicted.
            prediction: of them.

        Raises:
            BagError: they cannot be read.
        """
        logit_target = self.task.default_logit_target(prediction.mean_C)
        found = [_explained(member, bags, logit_target).contributions_N for member in self._members]
        return replace(prediction, agreement=agreement_of(np.stack(found)))

    def check(self, bag: Bag) -> None:
        """Refuse features of another kind than those of the training, and bags without a tile.

        Raises:
            BagError: they cannot be used.
        """
        if bag.identity != self.identity:
            differing = "; ".join(self.identity.differences(bag.identity))
            raise BagError(f"features of another kind than those of the training: {differing}")
        if bag.num_features != self.num_features:
            raise BagError(f"{bag.num_features} features per tile, but the model was trained on {self.num_features}")
        if not bag.good_N.any():
            raise BagError("holds no tile that could be read")

    def predict(self, bags: Sequence[Bag], covariates: Sequence[float] = ()) -> SlidePrediction:
        """What every member says of a slide, or of the slides of a patient as one bag.

        Args:
            bags: found to be right by ``check``.
            covariates: values of the columns ``covariates``, NaN where unknown.

        Raises:
            BagError: they cannot be read or do not fit the model.
        """
        inputs_S = np.zeros(0)
        if any(member.detector is not None for member in self._members):  # reads the whole bag once more
            inputs_S = bag_statistics(features_nF for features_nF, _ in pieces_of_all(bags)).numpy()
        said = [_predict(member, bags, covariates, inputs_S) for member in self._members]
        predictions, scores = zip(*said, strict=True)
        return SlidePrediction(np.stack(predictions), np.array(scores), inputs_S)

    def shifts(self, predictions: Sequence[SlidePrediction]) -> list[Shift]:
        """How the slides as a whole differ from the data of each member's training, of members with a detector."""
        found = []
        for index, member in enumerate(self._members):
            scores_N = np.array([one.ood_scores_M[index] for one in predictions])
            inputs_NS = np.stack([one.inputs_S for one in predictions])
            shift = shift_of(member.detector, member.loaded.model.input_names, [[scores_N, inputs_NS]])
            found += [] if shift is None else [shift]
        return found

    def explain(
        self, bags: Sequence[Bag], logit_target: LogitTarget, covariates: Sequence[float] = ()
    ) -> BagExplanation:
        """What each tile, and the covariates, add to the question's logit, of a single model; or its attention.

        Args:
            bags: as for ``predict``.
            logit_target: whose logit.
            covariates: as for ``predict``.

        Raises:
            BagError: a file cannot be read.
            ValueError: an ensemble: its mean of probabilities has no logit that would be a sum over tiles.
        """
        (member,) = self._members
        answer = _explained(member, bags, logit_target)
        if not covariates:
            return answer
        with torch.no_grad():
            head = member.loaded.model.covariates
            assert head is not None
            added_K = head(member.tensor(covariates))[0].double().cpu()
        added = sum(weight * float(added_K[index]) for index, weight in logit_target.weights.items())
        parts = answer.parts | {"covariates": added} if answer.adds_up else answer.parts
        return replace(answer, logit=answer.logit + added, parts=parts)

    def heatmap(
        self, bag: Bag, id: str, logit_target: LogitTarget, probabilities_C: np.ndarray, answer: BagExplanation
    ) -> Heatmap:
        """What each tile of a slide adds to the question's logit; or its attention, if the model gives that.

        Args:
            bag: written by medsoft, which says the slide's size.
            id: of the slide.
            logit_target: whose logit.
            probabilities_C: of the slide, or of the patient whose slide it is.
            answer: of ``explain``, of this bag's tiles.

        Raises:
            BagError: the file does not say where its tiles lie.
        """
        (member,) = self._members
        facts, coords_N2_px0 = bag.slide_facts, bag.coords_N2_px0
        if facts is None or coords_N2_px0 is None:
            raise BagError("no heatmap: the file does not say the slide's size and resolution")
        quantity = MapQuantity.about(
            logit_target, logit_scale(member.loaded.model.objective, logit_target), member.column
        )
        values_N, parts = answer.contributions_N, {}
        if answer.adds_up:
            values_N = values_N * quantity.unit
            parts = {name: quantity.unit * part for name, part in answer.parts.items()}
            parts["bias"] += quantity.offset
        return Heatmap(
            id=id,
            name=quantity.of,
            size_px0=facts.size_px0,
            mpp=facts.mpp,
            coords_N2_px0=coords_N2_px0[bag.good_N],
            tile_px0=facts.tile_px0,
            contributions_N=values_N,
            logit=quantity.value(answer.logit),
            probability=self.task.explained_probability(logit_target, answer.logit, probabilities_C),
            parts=parts,
            unit=quantity.unit,
            bounds_px0=facts.bounds_px0,
            attention_of="" if answer.adds_up else member.loaded.model.aggregator_name,
        )

    def made_from(
        self, bags: Sequence[Bag], logit_target: LogitTarget, background: str, covariates: Sequence[float] = ()
    ) -> dict[str, str]:
        """What decides a heatmap, to know whether one that is there is this one.

        Args:
            bags: as for ``predict``.
            logit_target: whose logit.
            background: what lies under the map, "slide" or "nothing".
            covariates: as for ``predict``.
        """
        beside = {"covariates": ", ".join(f"{value:.9g}" for value in covariates)} if covariates else {}
        return beside | {
            "checkpoint_sha256": self._sha256,
            "features_quick_hash": " ".join(quick_hash(bag.path) for bag in bags),
            "class": logit_target.name,
            "column": "" if self.task.has_classes else self._members[0].column,
            "background": background,
            "medsoft": __version__,
            "counted_from": "bounds",  # 0.1 counted from the corner of the slide
        }


@dataclass(frozen=True, eq=False)
class _Member:
    """A classifier, its out-of-distribution detector, and the label column that its run's configuration names."""

    loaded: LoadedSlideClassifier
    detector: Detector | None
    column: str
    run: RunFolder
    group: str

    @classmethod
    def load(cls, source: Path | Bundle) -> _Member:
        loaded = load_slide_classifier(source)
        run = source.path if isinstance(source, Bundle) else checkpoint_file(source).resolve().parent.parent
        folder = RunFolder(run)
        group = loaded.group
        if group is None and folder.config.is_file():  # a checkpoint of version 0.1
            group = (read_configuration(folder.config).get("data") or {}).get("group")
        column = target_column(folder.config)
        return cls(loaded, find_detector(folder, loaded.model), column, folder, group or "slide")

    def tensor(self, covariates: Sequence[float]) -> Tensor | None:
        """Covariates of one bag (1, K) as the model takes them; None without."""
        if not covariates:
            return None
        return torch.tensor([list(covariates)], dtype=torch.float32, device=self.loaded.aggregator.head.weight.device)


def _predict(
    member: _Member, bags: Sequence[Bag], covariates: Sequence[float], inputs_S: np.ndarray
) -> tuple[np.ndarray, float]:
    """Probabilities (C,) float64, and the out-of-distribution score or NaN."""
    model = member.loaded.model
    try:
        with _enough_memory(bags), torch.no_grad(), inputs_of(model.last_layer) as seen:
            logits_1K = read_logits(model.aggregator, partial(pieces_of_all, bags))
            logits_1K = model.with_covariates(logits_1K, member.tensor(covariates)).cpu().double()
    except ValueError as error:  # places that the model needs are not in the file
        raise BagError(str(error)) from None
    if not bool(logits_1K.isfinite().all()):
        raise BagError("the model's output is not a number: do the features come from another encoder?")
    with torch.no_grad():
        probabilities: np.ndarray = model.objective.probabilities(logits_1K)[0].numpy()
    if member.detector is None:
        return probabilities, np.nan
    return probabilities, float(member.detector.score([seen[0].cpu().numpy()], inputs_S[np.newaxis])[0])


def _explained(member: _Member, bags: Sequence[Bag], logit_target: LogitTarget) -> BagExplanation:
    """What each tile adds to the question's logit, or its attention where the model gives that."""
    aggregator = member.loaded.aggregator
    with _enough_memory(bags):
        found = explain_bags if aggregator.adds_up else attention_of_bags
        return found(aggregator, bags, logit_target)


def _require_alike(
    first: Path | Bundle, wanted: LoadedSlideClassifier, other: Path | Bundle, found: LoadedSlideClassifier
) -> None:
    """Raise InputError where two members do not answer the same question about the same features."""
    names = " and ".join(str(one.path if isinstance(one, Bundle) else one) for one in (other, first))
    if found.task != wanted.task:
        raise InputError(f"{names} answer different questions: {found.task} and {wanted.task}")
    if found.covariates != wanted.covariates:
        told = [", ".join(one.covariates) or "none" for one in (found, wanted)]
        raise InputError(f"{names} were trained with different covariates: {told[0]}; and {told[1]}")
    kinds = [(EncoderIdentity(**one.features), one.aggregator.num_features) for one in (wanted, found)]
    if differing := differences(*kinds):
        raise InputError(f"{names} were trained on features of different kinds: {differing}")


def _require_one_group(sources: Sequence[Path | Bundle], members: Sequence[_Member]) -> None:
    """Raise InputError where some members were trained on slides and others on patients."""
    if len({member.group for member in members}) > 1:
        told = [
            f"{one.path if isinstance(one, Bundle) else one}: {member.group}"
            for one, member in zip(sources, members, strict=True)
        ]
        raise InputError(f"the models were trained on different bags (data.group): {'; '.join(told)}")


@contextmanager
def _enough_memory(bags: Sequence[Bag]) -> Iterator[None]:
    """Make a bag that is too large for the device a failure of this bag alone."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tiles = sum(bag.num_tiles for bag in bags)
        raise BagError(
            f"not enough memory for its {tiles} tiles: try --device cpu, or train with an aggregator that "
            "reads tiles in pieces (mean, max, abmil, or a transformer with seqnorm, sima or relu_linear)"
        ) from None
