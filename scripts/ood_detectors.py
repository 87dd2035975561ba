"""The out-of-distribution detectors that ``ood_comparison.py`` compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from medsoft.classifiers.out_of_distribution import Place

QUANTILE = 0.99


@dataclass(frozen=True)
class Seen:
    """Of n pictures: features (n, D), of all blocks, logits, probabilities of the positive class, statistics."""

    features: np.ndarray
    blocks: list[np.ndarray]
    logits: np.ndarray
    p: np.ndarray
    pixels: np.ndarray
    file: np.ndarray


# ---- detectors: from train (Seen, targets) to a score of any Seen; higher is stranger


def _mahalanobis(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    centre, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 1e-6 * (np.abs(centre) + 1), scale, 1e-6 * (np.abs(centre) + 1))
    fitted = LedoitWolf().fit((train - centre) / scale)
    return lambda x: np.sqrt(fitted.mahalanobis((x - centre) / scale))


def _plain_mahalanobis(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    fitted = LedoitWolf().fit(train)
    return lambda x: np.sqrt(fitted.mahalanobis(x))


def _relative(train: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    means = [train[target == k].mean(axis=0) for k in np.unique(target)]
    centred = np.concatenate([train[target == k] - m for k, m in zip(np.unique(target), means, strict=True)])
    within, all_of_them = LedoitWolf().fit(centred), LedoitWolf().fit(train)
    shift = within.location_
    return lambda x: np.min([within.mahalanobis(x - m + shift) for m in means], axis=0) - all_of_them.mahalanobis(x)


def _neighbours(train: np.ndarray, k: int = 5) -> Callable[[np.ndarray], np.ndarray]:
    near = NearestNeighbors(n_neighbors=k).fit(normalize(train))
    return lambda x: near.kneighbors(normalize(x))[0][:, -1]


Score = Callable[[Seen], np.ndarray]


def detectors(train: Seen, target: np.ndarray, val: Seen) -> dict[str, Score]:
    last = _plain_mahalanobis(train.features)
    each = [_mahalanobis(block) for block in train.blocks]
    of_val = [score(block) for score, block in zip(each, val.blocks, strict=True)]

    def layers(x: Seen) -> np.ndarray:
        parts = [(score(block) - v.mean()) / v.std() for score, block, v in zip(each, x.blocks, of_val, strict=True)]
        found: np.ndarray = np.mean(parts, axis=0)
        return found

    relative, near = _relative(train.features, target), _neighbours(train.features)
    pixels, file = _mahalanobis(train.pixels), _mahalanobis(np.concatenate([train.pixels, train.file], axis=1))
    found: dict[str, Score] = {
        "Mahalanobis, last layer (0.1)": lambda x: last(x.features),
        "Mahalanobis, all layers": layers,
        "relative Mahalanobis": lambda x: relative(x.features),
        "5th neighbour": lambda x: near(x.features),
        "energy": lambda x: -np.logaddexp.reduce(x.logits, axis=1),
        "1 - highest probability": lambda x: 1 - np.maximum(x.p, 1 - x.p),
        "pixel statistics": lambda x: pixels(x.pixels),
        "pixel and file statistics": lambda x: file(np.concatenate([x.pixels, x.file], axis=1)),
    }
    both = np.concatenate([train.pixels, val.pixels])
    fitted, held_out = _mahalanobis(both), _cross_fitted(both)
    for name, score, of_val_score in (
        ("last layer", lambda x: last(x.features), last(val.features)),
        ("all layers", layers, layers(val)),
    ):
        for level, share_of in (("", QUANTILE), (", halved", (1 + QUANTILE) / 2)):
            found[f"max({name}, pixels), cross-fitted{level}"] = _to_limits(
                score, of_val_score, fitted, held_out, share_of
            )
    found["max(all layers, pixels), cross-fitted, conformal"] = _conformal(layers, layers(val), fitted, held_out)
    found["pixel statistics, cross-fitted"] = _to_limits(None, None, fitted, held_out, QUANTILE)
    found["max(last layer, pixels)"] = _largest(found, ("Mahalanobis, last layer (0.1)", "pixel statistics"), val)
    found["max(all layers, pixels)"] = _largest(found, ("Mahalanobis, all layers", "pixel statistics"), val)
    return found


def _cross_fitted(both: np.ndarray) -> np.ndarray:
    """Scores of rows, each tenth under a fit to the other nine."""
    tenth = np.random.default_rng(0).permutation(len(both)) % 10
    scores = np.empty(len(both))
    for k in range(10):
        scores[tenth == k] = _mahalanobis(both[tenth != k])(both[tenth == k])
    return scores


def _to_limits(score: Any, of_val: Any, pixels: Any, held_out: np.ndarray, quantile: float) -> Score:
    """The larger of two scores, each from 0 at the median to 1 at its own limit; of pixels alone without the first."""
    median, limit = np.median(held_out), np.quantile(held_out, quantile, method="higher")

    def of_pixels(x: Seen) -> np.ndarray:
        found: np.ndarray = (pixels(x.pixels) - median) / (limit - median)
        return found

    if score is None:
        return of_pixels
    middle, end = np.median(of_val), np.quantile(of_val, quantile, method="higher")
    return lambda x: np.maximum((score(x) - middle) / (end - middle), of_pixels(x))


def _conformal(score: Any, of_val: np.ndarray, pixels: Any, held_out: np.ndarray) -> Score:
    """As medsoft has it: conformal limits, which too few samples do not give."""
    of_layers, of_pixels = Place.of(of_val, QUANTILE), Place.of(held_out, QUANTILE)
    return lambda x: np.maximum(of_layers(score(x)), of_pixels(pixels(x.pixels)))


def _largest(scores: dict[str, Score], names: tuple[str, ...], val: Seen) -> Score:
    """The largest of several scores, each from 0 at validation's median to 1 at its quantile."""
    of_val = [scores[name](val) for name in names]
    places = [(np.median(v), np.quantile(v, QUANTILE, method="higher")) for v in of_val]

    def largest(x: Seen) -> np.ndarray:
        parts = [(scores[name](x) - m) / (q - m) for name, (m, q) in zip(names, places, strict=True)]
        found: np.ndarray = np.max(parts, axis=0)
        return found

    return largest
