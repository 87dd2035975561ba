"""Models of torchmil as aggregators: ``torchmil:TransMIL`` and others, to compare with.

torchmil (Castro-Macías et al., Apache-2.0, the extra ``mil``) implements multiple instance learning as published. Here
its model gives a slide embedding, and its last layer, which has one output, is replaced by medsoft's head of as many
outputs as the task has. Before the model each tile passes a layer of its own, as in the authors' own code of CLAM,
TransMIL and PatchGCN; ``dim: null`` leaves it out.

Bags are given to a model one at a time and without their padding, whatever the batch: not all of these models know
masks, and those that do differ in what padding does to them.

Losses that a model brings of its own are added to the task's, weighted as its authors do (``with_own_losses``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsoft.models.aggregators.base import Aggregator, ChunkedBag, Criterion, Explanation
from medsoft.models.aggregators.graph import neighbour_graph
from medsoft.ops.tensors import no_autocast

PREFIX = "torchmil:"


@dataclass(frozen=True)
class Kind:
    """What must be known of a model of torchmil to use it.

    Attributes:
        last: the layer that is replaced by medsoft's head.
        attention: what it gives for each tile: ``scores`` before a softmax over the tiles, ``weights``, or nothing.
        graph: whether it takes a graph of the tiles.
        binary: why it can tell two classes only; empty where the head may have any number of outputs.
        defaults: other values of its options than torchmil's.
    """

    last: str = "classifier"
    attention: Literal["scores", "weights", ""] = "scores"
    graph: bool = False
    binary: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


KINDS = {
    "ABMIL": Kind(),
    "TransformerABMIL": Kind(last="last_layer"),
    "SmABMIL": Kind(last="last_layer", graph=True),
    "SmTransformerABMIL": Kind(last="last_layer", graph=True),
    "CLAM_SB": Kind(binary="its instance loss has one classifier for each of two classes"),
    "DSMIL": Kind(last="bag_classifier", attention="weights", binary="its critical tile is the most positive one"),
    # "maxmin" and "max" are to hand a few tiles of each group to the second tier; torchmil 1.0.2 hands on all of them.
    "DTFDMIL": Kind("u_classifier", "", binary="its first tier has one output", defaults={"distill_mode": "afs"}),
    "TransMIL": Kind(attention="weights"),
    "CAMIL": Kind(graph=True, defaults={"n_landmarks": 256}),  # torchmil's None fails; its layer's own default is 256
    "PatchGCN": Kind(graph=True),
    "DeepGraphSurv": Kind(graph=True),
}
"""The models that can be used, by their names in torchmil."""

NOT_USED = {
    "IIBMIL": "its training needs pseudo-labels of tiles that are carried from step to step",
    "SETMIL": "it takes tiles on a full grid of whole coordinates",
    "GTP": "it needs the whole N × N adjacency matrix and two losses of its clusters",
    "VAEABMIL": "it needs a variational autoencoder as its first layer",
    "ProbSmoothABMIL": "its predictions are random samples",
    "TransformerProbSmoothABMIL": "its predictions are random samples",
    "SmoothABMIL": "its loss needs a Laplacian that medsoft does not make; SmABMIL is its successor",
}
"""The others of torchmil, and why."""

OF_MEDSOFT = ("in_shape", "feat_ext", "criterion", "inst_loss_name")
"""Arguments of torchmil's models that are not options: medsoft gives them, or has a loss of its own."""

NEIGHBOURS = 8
"""Of a tile in the graph, as in PatchGCN."""

CLAM_BAG_WEIGHT = 0.7
"""Of the bag's loss beside the instance loss, as in CLAM's own code."""


def find_model(name: str) -> Callable[..., nn.Module]:
    """The class of a model of torchmil.

    Args:
        name: as ``torchmil:TransMIL``.

    Raises:
        ValueError: no such model, one that cannot be used, or torchmil is not installed.
    """
    short = name.removeprefix(PREFIX)
    if short not in KINDS:
        reason = f"cannot be used: {NOT_USED[short]}" if short in NOT_USED else "is not a model of torchmil"
        raise ValueError(f"{short!r} {reason}. Models: {', '.join(PREFIX + known for known in KINDS)}")
    try:
        from torchmil import models
    except ImportError as error:
        raise ValueError(f"{name}: {error.name} is not installed: pip install 'medsoft[mil]' brings torchmil") from None
    found: Callable[..., nn.Module] = getattr(models, short)
    return found


def options_of(name: str) -> list[str]:
    """Names of the options that an aggregator of torchmil takes.

    Raises:
        ValueError: as ``find_model``.
    """
    theirs = [option for option in inspect.signature(find_model(name)).parameters if option not in OF_MEDSOFT]
    own = ["dim", "drop", "neighbours"] if KINDS[name.removeprefix(PREFIX)].graph else ["dim", "drop"]
    return own + theirs


class TorchmilAggregator(Aggregator):
    """A model of torchmil behind a layer for each tile, and before medsoft's head.

    A bag without real tiles has the embedding 0.

    Args:
        num_features: features F of a tile.
        num_classes: logits C.
        model: as ``torchmil:TransMIL``.
        dim: width of the layer that each tile passes first; None leaves it out.
        drop: dropout after that layer in training.
        neighbours: of each tile in the graph, 8 if None; only for models that take one.
        **options: of the model's class in torchmil, such as ``att_dim``.

    Raises:
        ValueError: as ``find_model``, or fewer than 1 neighbour.
        TypeError: an option that the model does not have; those it has are listed.
    """

    adds_up = False
    streams = False

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        model: str,
        dim: int | None = 512,
        drop: float = 0.0,
        neighbours: int | None = None,
        **options: Any,
    ) -> None:
        made = find_model(model)
        known = options_of(model)
        unknown = [option for option in options if option not in known]
        unknown += ["neighbours"] if neighbours is not None and "neighbours" not in known else []
        if unknown:
            raise TypeError(f"{model} has no option {', '.join(unknown)}: it takes {', '.join(known)}")
        if neighbours is not None and neighbours < 1:
            raise ValueError(f"neighbours {neighbours}: a graph needs at least 1")
        short = model.removeprefix(PREFIX)
        kind = KINDS[short]
        network = made(in_shape=(num_features if dim is None else dim,), **{**kind.defaults, **options})
        (linear,) = (part for part in getattr(network, kind.last).modules() if isinstance(part, nn.Linear))
        super().__init__(num_features, num_classes, linear.in_features)
        setattr(network, kind.last, nn.Identity())
        self.model = network
        self.name, self.kind, self.neighbours = model, kind, NEIGHBOURS if neighbours is None else neighbours
        self.needs_coordinates = kind.graph
        self.two_classes_only = kind.binary
        self.gives_attention = bool(kind.attention)
        self.tile = nn.Identity()
        if dim is not None:
            self.tile = nn.Sequential(nn.Linear(num_features, dim), nn.ReLU(), nn.Dropout(drop))
        self._seen: list[Seen] = []

    def embed(self, x_BNF: Tensor, mask_BN: Tensor | None = None, coords_BNA: Tensor | None = None) -> Tensor:
        """Slide embeddings (B, D), one bag after the other.

        Raises:
            ValueError: a tensor of the wrong shape, or no coordinates where the model needs a graph.
        """
        self.check_bags(x_BNF, mask_BN, coords_BNA)
        if self.kind.graph and coords_BNA is None:
            raise ValueError(f"{self.name} needs the tiles' coordinates for its graph: give coords_BNA")
        self._seen = []
        found = []
        for index, x_NF in enumerate(x_BNF):
            coords_NA = None if coords_BNA is None else coords_BNA[index]
            if mask_BN is not None:
                x_NF = x_NF[mask_BN[index]]
                coords_NA = None if coords_NA is None else coords_NA[mask_BN[index]]
            if len(x_NF) == 0:
                self._seen.append({})
                found.append(x_NF.new_zeros(1, self.head.in_features, dtype=self.head.weight.dtype))
                continue
            embedding_1D, seen = self._embed_one(self.tile(x_NF[None]), coords_NA)
            found.append(embedding_1D.reshape(1, -1))
            self._seen.append(seen if self.training else {})
        return torch.cat(found)

    def _embed_one(self, h_1ND: Tensor, coords_NA: Tensor | None) -> tuple[Tensor, Seen]:
        """The embedding of one bag, and what its own losses are computed from."""
        match self.name.removeprefix(PREFIX):
            case "CLAM_SB":
                embedding, attention, tiles = self.model(h_1ND, return_att=True, return_emb=True)
                return embedding, {"attention": attention, "tiles": tiles}
            case "DSMIL":
                embedding, scores_1N = self.model(h_1ND, return_inst_pred=True)
                return embedding, {"scores": scores_1N.max(dim=1).values}
            case "DTFDMIL":
                # Its groups of tiles are drawn by NumPy; one group of all tiles has no random order, but the authors
                # predict with groups too, so that outside of training they are always the same.
                with _numpy_seed(int(torch.randint(2**31, ())) if self.training else 0):
                    embedding, scores_1G = self.model(h_1ND, torch.ones_like(h_1ND[..., 0]), return_pseudo_pred=True)
                return embedding, {"scores": scores_1G[0]}
        return self._run(h_1ND, coords_NA), {}

    def _run(self, h_1ND: Tensor, coords_NA: Tensor | None, **asked: bool) -> Any:
        """What the model gives for one bag."""
        if not self.kind.graph or coords_NA is None:
            return self.model(h_1ND, **asked)
        dtype = self.head.weight.dtype  # products with sparse matrices are not there in half precision
        with no_autocast(h_1ND):
            graph_1NN = neighbour_graph(coords_NA, self.neighbours, dtype)[None]
            return self.model(h_1ND.to(dtype), adj=graph_1NN, **asked)

    def with_own_losses(self, loss: Tensor, criterion: Criterion, target_B: Tensor) -> Tensor:
        """The loss of a training step, from the task's.

        - CLAM (Lu et al. 2021): 0.7 times the task's and 0.3 times the instance loss, the mean over the two classes'
          classifiers, as its authors train it for subtypes (``clam_instance_loss``).
        - DSMIL (Li et al. 2021): half the task's, half that of the most positive tile's score.
        - DTFD-MIL (Zhang et al. 2022): the second tier's, which is the task's, and the first's: the mean over the
          groups of tiles, each with the label of its bag.

        Args:
            loss: of the task, for the bags that ``embed`` has just seen.
            criterion: from logits (n, 2) and targets (n,) to the task's loss.
            target_B: class of each bag.
        """
        own = [self._own_loss(seen, criterion, target) for seen, target in zip(self._seen, target_B, strict=True)]
        self._seen = []
        terms = [term for term in own if term is not None]
        if not terms:
            return loss
        mean = torch.stack(terms).mean()
        match self.name.removeprefix(PREFIX):
            case "CLAM_SB":
                return CLAM_BAG_WEIGHT * loss + (1 - CLAM_BAG_WEIGHT) * mean
            case "DSMIL":
                return (loss + mean) / 2
        return loss + mean

    def _own_loss(self, seen: Seen, criterion: Criterion, target: Tensor) -> Tensor | None:
        """Of one bag; None where the model has none."""
        if "attention" in seen:
            model: Any = self.model
            classifiers: list[nn.Module] = list(model.inst_classifiers)
            return clam_instance_loss(seen["attention"][0], seen["tiles"][0], classifiers, int(target), model.k_sample)
        if "scores" in seen:
            scores_n = seen["scores"].float()
            # One output s answers as two logits (0, s) do.
            return criterion(torch.stack([torch.zeros_like(scores_n), scores_n], dim=1), target.expand(len(scores_n)))
        return None

    @torch.no_grad()
    def attention_of_tiles(self, x_1NF: Tensor, coords_1NA: Tensor | None = None) -> Tensor:
        """Attention weights (N,) of one bag's tiles, as the model gives them; not contributions to a logit.

        Of models that pool with attention they sum to 1. TransMIL's are those of the class token in its last layer, the
        mean over the heads; it approximates them, so that they need not sum to 1, and computes them all, N² numbers a
        head.

        Raises:
            ValueError: the model has none; more than one bag, or a model in training mode.
        """
        if not self.kind.attention:
            raise ValueError(f"{self.name} gives no attention of its tiles")
        self.check_eval()
        self.check_one_bag(x_1NF, None, coords_1NA)
        coords_NA = None if coords_1NA is None else coords_1NA[0]
        values_N: Tensor = self._run(self.tile(x_1NF), coords_NA, return_att=True)[1].reshape(-1).float()
        return values_N.softmax(dim=0) if self.kind.attention == "scores" else values_N

    def explain(
        self, x_1NF: Tensor, class_index: int, mask_1N: Tensor | None = None, coords_1NA: Tensor | None = None
    ) -> Explanation:
        """Raise a ValueError: there is nothing that adds up."""
        raise ValueError(self._no_sum())

    def explain_chunks(self, bag: ChunkedBag, class_index: int) -> Explanation:
        """Raise a ValueError: there is nothing that adds up."""
        raise ValueError(self._no_sum())

    def embed_chunks(self, bag: ChunkedBag) -> Tensor:
        """Raise a ValueError: the model needs all tiles."""
        raise ValueError(f"{self.name} needs all tiles of a bag at once, it cannot read them in chunks")

    def _no_sum(self) -> str:
        return f"the logits of {self.name} are no sums over tiles: there are no contributions"


def clam_instance_loss(
    scores_N: Tensor, tiles_ND: Tensor, classifiers: list[nn.Module], target: int, k_sample: int
) -> Tensor:
    """CLAM's loss of tiles: those with the most attention are taken for the bag's class, those with the least not.

    The classifier of the bag's class learns both, those of the others that the tiles with the most attention are not
    theirs. The loss is the smooth top-1 SVM (Berrada et al. 2018, arXiv 1802.07595, equation 6; margin and temperature
    1), which for one best class is the cross-entropy of scores that are raised by 1 for the wrong class.

    torchmil 1.0.2 has the same loss, but its targets have one axis too many, so that every tile is compared with the
    targets of all.

    Args:
        scores_N: of the tiles, the more the more attention.
        tiles_ND: what the attention pools.
        classifiers: one for each class, from tiles (n, D) to logits (n, 2): not this class, this class.
        target: class of the bag.
        k_sample: tiles of either kind; fewer in a smaller bag.

    Returns:
        The mean over the classifiers.
    """
    k = min(k_sample, len(scores_N))
    most_kD, least_kD = tiles_ND[scores_N.topk(k).indices], tiles_ND[scores_N.topk(k, largest=False).indices]
    losses = []
    for index, classifier in enumerate(classifiers):
        tiles_nD = torch.cat([most_kD, least_kD]) if index == target else most_kD
        answers_n = torch.zeros(len(tiles_nD), dtype=torch.int64, device=tiles_nD.device)
        if index == target:
            answers_n[:k] = 1
        logits_n2 = classifier(tiles_nD).float()
        losses.append(F.cross_entropy(logits_n2 + 1 - F.one_hot(answers_n, 2), answers_n))
    return torch.stack(losses).mean()


Seen = dict[str, Tensor]
"""What a model's own loss is computed from, of one bag."""


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """NumPy's global generator with a seed, and as it was before after that."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
