"""How far a sample lies from the training data, in the features that the model reads its answer from.

Mahalanobis distance to the mean of the training part's features under their covariance, which is shrunk towards a
multiple of the identity so that it can be inverted with fewer samples than features (O. Ledoit, M. Wolf, Journal of
Multivariate Analysis 88, 2004; as a score of unfamiliar images: K. Lee et al., NeurIPS 2018, here without classes).

The score is the distance over a threshold, a quantile of the validation part's distances: above 1 the model abstains.
So scores of different models can be compared, and averaged over an ensemble.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from medsoft.errors import InputError
from medsoft.files import replacing

FILE_NAME = "familiar.safetensors"
FORMAT = "1"
FloatArray = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Familiar:
    """What the training part's features look like, and from where on a sample is unfamiliar.

    Attributes:
        mean_D: of the features.
        whitening_DD: features minus mean, times this, are uncorrelated with variance 1.
        threshold: distance above which the model abstains.
        quantile: of the validation part's distances, which the threshold is.
        n_train: samples that mean and covariance come from.
        n_val: samples that the threshold comes from.
        weights: fingerprint of the weights that made the features.
    """

    mean_D: FloatArray
    whitening_DD: FloatArray
    threshold: float
    quantile: float
    n_train: int
    n_val: int
    weights: str

    def distance(self, features_ND: Features) -> FloatArray:
        """(N,) Mahalanobis distances; infinite where a feature is no number."""
        with np.errstate(invalid="ignore", over="ignore"):
            white_ND = (features_ND.astype(np.float64) - self.mean_D) @ self.whitening_DD
            distance_N: FloatArray = np.sqrt((white_ND**2).sum(axis=1))
        return np.where(np.isfinite(distance_N), distance_N, np.inf)

    def score(self, features_ND: Features) -> FloatArray:
        """(N,) distances over the threshold: above 1 the model abstains."""
        return self.distance(features_ND) / self.threshold

    def write(self, path: Path) -> None:
        """Write as safetensors, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        about = {
            "format": FORMAT,
            "threshold": repr(self.threshold),
            "quantile": repr(self.quantile),
            "n_train": str(self.n_train),
            "n_val": str(self.n_val),
            "weights": self.weights,
        }
        with replacing(path) as temporary:
            # save_file would make a file that its owner alone may read.
            temporary.write_bytes(save({"mean": self.mean_D, "whitening": self.whitening_DD}, about))

    @classmethod
    def read(cls, path: Path) -> Familiar:
        """Read what ``write`` wrote.

        Raises:
            InputError: it is damaged, or of another version.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                if about.get("format") != FORMAT:
                    raise InputError(f"{path}: of another version of medsoft (format {about.get('format')})")
                return cls(
                    file.get_tensor("mean"),
                    file.get_tensor("whitening"),
                    float(about["threshold"]),
                    float(about["quantile"]),
                    int(about["n_train"]),
                    int(about["n_val"]),
                    about["weights"],
                )
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None


def score_columns(score_N: npt.ArrayLike) -> dict[str, npt.NDArray[Any]]:
    """The columns of a predictions table that say how far each sample lies from the training data."""
    scores = np.asarray(score_N, dtype=np.float64)
    return {"ood_score": scores, "abstain": (scores > 1).astype(np.int64)}


def learn_familiar(train_ND: Features, val_ND: Features, quantile: float, weights: str = "") -> Familiar:
    """Learn what is familiar.

    Args:
        train_ND: features of the training part as it is, not augmented.
        val_ND: features of the validation part, which the model has not learnt from.
        quantile: share of the validation part that lies within the threshold, such as 0.99.
        weights: fingerprint of the weights that made the features.

    Raises:
        ValueError: fewer than two samples in train, or none in val.
    """
    from sklearn.covariance import LedoitWolf

    if len(train_ND) < 2 or not len(val_ND):
        raise ValueError(f"{len(train_ND)} training and {len(val_ND)} validation samples are too few")
    fitted = LedoitWolf().fit(train_ND.astype(np.float64))
    variances_D, axes_DD = np.linalg.eigh(fitted.covariance_)
    # Where nothing was shrunk, features that never vary (dead units) would divide by 0.
    smallest = max(1e-10 * float(variances_D.max()), np.finfo(np.float64).tiny)
    whitening_DD = np.ascontiguousarray(axes_DD / np.sqrt(np.maximum(variances_D, smallest)))
    found = Familiar(fitted.location_, whitening_DD, 1.0, quantile, len(train_ND), len(val_ND), weights)
    threshold = float(np.quantile(found.distance(val_ND), quantile, method="higher"))
    return replace(found, threshold=threshold if threshold > 0 else 1.0)
