"""The out-of-distribution detector of a run: how much a sample differs from the training data.

Two Mahalanobis distances, each under a covariance that is shrunk towards a multiple of the identity (O. Ledoit,
M. Wolf, Journal of Multivariate Analysis 88, 2004):

* of the model's features: of each block of a backbone, over whose standardised distances the mean is taken, else of
  the last layer's inputs (as in K. Lee et al., NeurIPS 2018, here without classes);
* of statistics of the input: of pixels or voxels (``pixel_statistics``), or of the features of a bag's tiles.

Each is placed between its median (0) and its limit (1), a conformal quantile; the score is the larger of the two, and
above 1 the model abstains. So scores of different models can be compared, and averaged over an ensemble. The limit of
the features comes from the validation part: of the training part the model knows every sample, and its features lie
closer. The statistics are no model's: their limit comes from the training and the validation part, each tenth of which
is scored by a fit to the other nine. Why these two: docs/experiments/out_of_distribution.md and
``scripts/ood_comparison.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from medsoft.errors import InputError
from medsoft.storage.files import replacing

FORMAT, OLD_FORMAT = "2", "1"
FOLDS = 10
WIDEST = 256
"""Numbers a sample beyond which statistics are projected onto ``AXES`` principal axes, and what is left is one more."""
AXES = 128
FloatArray = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Distance:
    """A Mahalanobis distance.

    Attributes:
        centre_S: subtracted first.
        scale_S: divided by then.
        axes_SK: principal axes that wide samples are projected onto, (S, 0) for none.
        mean_D: of what is left, D = S or K + 1.
        whitening_DD: what is left minus its mean, times this, is uncorrelated with variance 1.
    """

    centre_S: FloatArray
    scale_S: FloatArray
    axes_SK: FloatArray
    mean_D: FloatArray
    whitening_DD: FloatArray

    @classmethod
    def fit(cls, samples_NS: Features, standardised: bool) -> Distance:
        """Fit to samples.

        Args:
            samples_NS: two or more.
            standardised: divide each number by its standard deviation first; for numbers of different units.
        """
        from sklearn.covariance import LedoitWolf

        samples = samples_NS.astype(np.float64)
        centre, scale = np.zeros(samples.shape[1]), np.ones(samples.shape[1])
        if standardised:
            centre = samples.mean(axis=0)
            # What never varies is still to be seen where it does: a grey picture among colour ones, and the reverse.
            scale = np.maximum(samples.std(axis=0), 1e-6 * (np.abs(centre) + 1))
        axes = np.zeros((samples.shape[1], 0))
        if standardised and samples.shape[1] > WIDEST:
            _, _, rows = np.linalg.svd((samples - centre) / scale, full_matrices=False)
            axes = np.ascontiguousarray(rows[:AXES].T)
        reduced = _reduced((samples - centre) / scale, axes)
        fitted = LedoitWolf().fit(reduced)
        variances, vectors = np.linalg.eigh(fitted.covariance_)
        # Where nothing was shrunk, features that never vary (dead units) would divide by 0.
        smallest = max(1e-10 * float(variances.max()), np.finfo(np.float64).tiny)
        whitening = np.ascontiguousarray(vectors / np.sqrt(np.maximum(variances, smallest)))
        return cls(centre, scale, axes, fitted.location_, whitening)

    def __call__(self, samples_NS: Features) -> FloatArray:
        """(N,) distances; infinite where a number is none."""
        with np.errstate(invalid="ignore", over="ignore"):
            reduced = _reduced((samples_NS.astype(np.float64) - self.centre_S) / self.scale_S, self.axes_SK)
            distance_N: FloatArray = np.sqrt((((reduced - self.mean_D) @ self.whitening_DD) ** 2).sum(axis=1))
        return np.where(np.isfinite(distance_N), distance_N, np.inf)


def _reduced(samples_NS: FloatArray, axes_SK: FloatArray) -> FloatArray:
    """Projections onto the axes, and the logarithm of what they leave."""
    if not axes_SK.shape[1]:
        return samples_NS
    along_NK = samples_NS @ axes_SK
    left_N = np.linalg.norm(samples_NS - along_NK @ axes_SK.T, axis=1)
    return np.column_stack([along_NK, np.log(left_N + 1e-6)])


@dataclass(frozen=True)
class Place:
    """Where a distance is usual, and from where on it is not.

    Attributes:
        median: becomes 0.
        limit: becomes 1; infinite where the samples are too few for one.
        largest: of the distances; where the limit is infinite it becomes 1/2, and what is farther stays below 1.
    """

    median: float
    limit: float
    largest: float

    @classmethod
    def of(cls, distances_N: FloatArray, quantile: float) -> Place:
        """Median and conformal limit of distances.

        A new sample like these lies within the limit with a probability of at least ``quantile``, whatever the
        distances are like: the limit is the ⌈(n + 1) · quantile⌉-th smallest of the n (V. Vovk, A. Gammerman, G.
        Shafer, Algorithmic Learning in a Random World, 2005; J. Lei et al., Journal of the American Statistical
        Association 113, 2018, section 2.2). With so few that this is the n + 1-th, there is no limit. The plain
        quantile of few samples is too low: of the largest of 10, each eleventh new sample lies beyond.
        """
        if not np.isfinite(distances_N).all():
            raise ValueError("the features or the inputs are not finite numbers")
        n = len(distances_N)
        rank = math.ceil((n + 1) * quantile - 1e-9)  # 0.9 of 10 is 9, and not 9.000000000000002
        limit = float(np.sort(distances_N)[rank - 1]) if rank <= n else math.inf
        return cls(float(np.median(distances_N)), limit, float(distances_N.max()))

    def __call__(self, distances_N: FloatArray) -> FloatArray:
        """(N,) scores; infinite where a distance is none, such as of numbers that are not finite."""
        end = self.limit if self.has_limit else self.largest
        # All distances may have been one and the same.
        start, span = (self.median, end - self.median) if end > self.median else (0.0, end or 1.0)
        score_N: FloatArray = (distances_N - start) / span
        if self.has_limit:
            return score_N
        with np.errstate(invalid="ignore"):
            below_1 = np.minimum(score_N / (1 + np.maximum(score_N, 0)), np.nextafter(1, 0))
        return np.where(np.isinf(distances_N), np.inf, np.where(score_N > 0, below_1, score_N))

    @property
    def has_limit(self) -> bool:
        """Whether there were enough samples."""
        return math.isfinite(self.limit)


@dataclass(frozen=True, eq=False)
class Layers:
    """Distances in the features of one layer or several, as one number.

    Attributes:
        distances: one a layer.
        scale_L2: mean and standard deviation of each distance in the validation part.
    """

    distances: list[Distance]
    scale_L2: FloatArray

    @classmethod
    def fit(cls, train: Sequence[Features], val: Sequence[Features]) -> Layers:
        """Fit to the features of each layer, (n, D_l) each."""
        several = len(train) > 1
        distances = [Distance.fit(one, standardised=several) for one in train]
        if not several:
            return cls(distances, np.array([[0.0, 1.0]]))
        of_val = [distance(one) for distance, one in zip(distances, val, strict=True)]
        return cls(distances, np.array([[one.mean(), one.std() if one.std() > 0 else 1.0] for one in of_val]))

    def __call__(self, layers: Sequence[Features]) -> FloatArray:
        """(N,) distance of the only layer, or the mean of the standardised ones."""
        parts = [
            (distance(one) - mean) / spread
            for distance, one, (mean, spread) in zip(self.distances, layers, self.scale_L2, strict=True)
        ]
        mean_N: FloatArray = np.mean(parts, axis=0)
        return mean_N


@dataclass(frozen=True, eq=False)
class Detector:
    """What a run knows of its data, to tell what is unlike it.

    Attributes:
        features: distance in the model's features, of one layer or several.
        features_place: of that distance, from the validation part.
        inputs: distance in the statistics of the inputs; None for runs of medsoft 0.1.
        inputs_place: of that distance.
        quantile: of the distances, that the limits are.
        n_train: samples of the training part.
        n_val: samples of the validation part.
        weights: fingerprint of the weights that made the features.
        known: of the validation part ``score`` (n,) and ``inputs`` (n, S), and ``sizes`` (n, 2) of images in pixels,
            in an order that tells nothing; empty for runs of medsoft 0.1.
    """

    features: Layers
    features_place: Place
    inputs: Distance | None
    inputs_place: Place | None
    quantile: float
    n_train: int
    n_val: int
    weights: str
    known: dict[str, FloatArray] = field(default_factory=dict)

    def score(self, layers: Sequence[Features], inputs_NS: Features | None = None) -> FloatArray:
        """(N,) scores: about 0 for the usual sample; above 1 the model abstains.

        Args:
            layers: features (N, D_l) of each layer.
            inputs_NS: statistics of the inputs; needed, but for runs of medsoft 0.1.
        """
        score_N = self.features_place(self.features(layers))
        if self.inputs is None or self.inputs_place is None:
            return score_N
        if inputs_NS is None:
            raise ValueError("this detector needs statistics of the inputs")
        return np.maximum(score_N, self.inputs_place(self.inputs(inputs_NS)))

    @property
    def note(self) -> str:
        """What is to be said of the score before it is used; "" for nothing."""
        if self.inputs is not None:
            return ""
        return (
            "The out-of-distribution score of this run is of the old kind (medsoft 0.1, the model's features alone), "
            "which misses other cameras and other image quality: train the model again to get the current kind"
        )

    @property
    def without_limit(self) -> str:
        """The sentence on limits that so few samples do not give; "" where there are both."""
        if self.inputs_place is None or (self.features_place.has_limit and self.inputs_place.has_limit):
            return ""
        needed = math.ceil(self.quantile / (1 - self.quantile) - 1e-9) if self.quantile < 1 else 0
        takes = f"takes {needed} samples" if needed else "does not exist"
        if self.inputs_place.has_limit:
            have = f"there are {self.n_val} in the validation part: it abstains by the statistics of the input alone"
            return f"This model cannot abstain by its features at ood_quantile {self.quantile:g}, which {takes}; {have}"
        have = f"there are {self.n_val} in the validation part, {self.n_train + self.n_val} with the training part"
        return f"This model cannot abstain at ood_quantile {self.quantile:g}, which {takes}; {have}"

    def write(self, path: Path) -> None:
        """Write as safetensors, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        assert self.inputs is not None
        assert self.inputs_place is not None
        places = {"features": self.features_place, "inputs": self.inputs_place}
        about = {
            "format": FORMAT,
            **{f"{name}_{what}": repr(value) for name, place in places.items() for what, value in vars(place).items()},
            "quantile": repr(self.quantile),
            "n_train": str(self.n_train),
            "n_val": str(self.n_val),
            "weights": self.weights,
        }
        tensors = {f"known.{name}": np.ascontiguousarray(values) for name, values in self.known.items()}
        named = {f"layer{index}": distance for index, distance in enumerate(self.features.distances)}
        for name, distance in (named | {"inputs": self.inputs}).items():
            tensors |= {f"{name}.{what}": values for what, values in vars(distance).items()}
        tensors["scale"] = self.features.scale_L2
        with replacing(path) as temporary:
            # save_file would make a file that its owner alone may read.
            temporary.write_bytes(save(tensors, about))

    @classmethod
    def read(cls, path: Path) -> Detector:
        """Read what ``write``, or medsoft 0.1, wrote.

        Raises:
            InputError: it is damaged, or of another version.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            found = cls._old(tensors, about) if about.get("format") == OLD_FORMAT else cls._new(tensors, about, path)
            # Shapes that do not fit each other are found now, and not at the first sample.
            inputs = None if found.inputs is None else np.zeros((1, len(found.inputs.centre_S)))
            found.score([np.zeros((1, len(distance.centre_S))) for distance in found.features.distances], inputs)
        except (SafetensorError, KeyError, ValueError, IndexError, OSError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
        return found

    @classmethod
    def _new(cls, tensors: dict[str, FloatArray], about: dict[str, str], path: Path) -> Detector:
        if about.get("format") != FORMAT:
            raise InputError(f"{path}: of another version of medsoft (format {about.get('format')})")
        *distances, inputs = (
            Distance(*(tensors[f"{name}.{what}"] for what in Distance.__dataclass_fields__))
            for name in [*(f"layer{index}" for index in range(len(tensors["scale"]))), "inputs"]
        )
        places = [
            Place(
                float(about[f"{name}_median"]),
                limit := float(about[f"{name}_limit"]),
                float(about.get(f"{name}_largest", limit)),
            )
            for name in ("features", "inputs")
        ]
        known = {name.removeprefix("known."): v for name, v in tensors.items() if name.startswith("known.")}
        return cls(Layers(distances, tensors["scale"]), places[0], inputs, places[1], *_numbers(about), known)

    @classmethod
    def _old(cls, tensors: dict[str, FloatArray], about: dict[str, str]) -> Detector:
        """Of medsoft 0.1: distances over a threshold."""
        mean, whitening = tensors["mean"], tensors["whitening"]
        nothing = np.zeros((len(mean), 0))
        distance = Distance(np.zeros(len(mean)), np.ones(len(mean)), nothing, mean, whitening)
        return cls(
            Layers([distance], np.array([[0.0, 1.0]])),
            Place(0.0, float(about["threshold"]), float(about["threshold"])),
            None,
            None,
            *_numbers(about),
        )


def _numbers(about: dict[str, str]) -> tuple[float, int, int, str]:
    return float(about["quantile"]), int(about["n_train"]), int(about["n_val"]), about["weights"]


@dataclass(frozen=True, eq=False)
class Observed:
    """What a detector is shown of samples.

    Attributes:
        layers: features (N, D_l) of each layer, of samples as they are.
        inputs_NS: statistics of the inputs.
        sizes_N2: height and width of images as they are stored, in pixels; None where there are none.
    """

    layers: Sequence[Features]
    inputs_NS: Features
    sizes_N2: Features | None = None

    def __len__(self) -> int:
        return len(self.inputs_NS)


def learn_detector(train: Observed, val: Observed, quantile: float, weights: str = "") -> Detector:
    """Learn what the data are like.

    Args:
        train: the training part as it is, not augmented.
        val: the validation part, which the model has not learnt from.
        quantile: share of samples within each of the two limits, such as 0.99; a limit that so few samples cannot
            give is infinite, and nothing lies beyond it.
        weights: fingerprint of the weights that made the features.

    Raises:
        ValueError: fewer than two samples in train, or none in val; or numbers that are not finite.
    """
    if len(train) < 2 or not len(val):
        raise ValueError(f"{len(train)} training and {len(val)} validation samples are too few")
    features = Layers.fit(train.layers, val.layers)
    features_place = Place.of(features(val.layers), quantile)
    both = np.concatenate([train.inputs_NS, val.inputs_NS])
    inputs = Distance.fit(both, standardised=True)
    inputs_place = Place.of(_cross_fitted(both), quantile)
    found = Detector(features, features_place, inputs, inputs_place, quantile, len(train), len(val), weights)
    known: dict[str, Features] = {"score": found.score(val.layers, val.inputs_NS), "inputs": val.inputs_NS}
    if val.sizes_N2 is not None:
        known["sizes"] = val.sizes_N2
    order = np.random.default_rng(0).permutation(len(val))
    found.known.update({name: values[order].astype(np.float64) for name, values in known.items()})
    return found


def _cross_fitted(samples_NS: Features) -> FloatArray:
    """(N,) distances of samples, each fold under a fit to the others."""
    folds = min(FOLDS, len(samples_NS))
    fold_N = np.random.default_rng(0).permutation(len(samples_NS)) % folds
    distance_N = np.empty(len(samples_NS))
    for fold in range(folds):
        distance_N[fold_N == fold] = Distance.fit(samples_NS[fold_N != fold], standardised=True)(
            samples_NS[fold_N == fold]
        )
    return distance_N
