"""The probe as estimators of scikit-learn: standardised linear models whose penalty inner folds choose."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from medsoft.classifiers.probe_solver import Chosen, Examples, Loss, choose, solve_linear
from medsoft.data.tables.split import split_folds
from medsoft.errors import InputError
from medsoft.task_types import Link


class _Probe(BaseEstimator):  # type: ignore[misc]
    """What both probes share; see ``ProbeClassifier`` for the arguments."""

    def __init__(self, C: float | None = None, inner_folds: int = 5) -> None:
        self.C = C
        self.inner_folds = inner_folds

    def _solve(
        self, X: np.ndarray, values_NK: np.ndarray, strata_N: np.ndarray, groups: Any, link: Link, loss: Loss
    ) -> Chosen:
        groups_N = np.arange(len(X)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        if len(groups_N) != len(X):
            raise InputError(f"groups: {len(groups_N)} for {len(X)} samples")
        per_stratum = [len(set(groups_N[strata_N == one])) for one in np.unique(strata_N)]
        fewest = min(per_stratum) if link == "softmax" else len(set(groups_N))
        folds = min(self.inner_folds, len(set(groups_N)), max(2, fewest))
        text_N = groups_N.astype(str)
        chosen_by_folds = self.C is None and folds > 1
        fold_N = split_folds(strata_N, text_N, folds, 0) if chosen_by_folds else np.zeros(len(X), np.int64)
        examples = Examples(X, values_NK, np.ones_like(values_NK), X[:0], np.zeros(0, np.intp))
        chosen = choose("C", examples, link, fold_N, loss, self.C)
        every, scale = examples.standardised()
        (found,) = solve_linear(every, link, [chosen.value])
        self.C_ = chosen.value
        self.coef_ = found.weight_KF / scale.sd_F
        self.intercept_ = found.bias_K - self.coef_ @ scale.mean_F
        return chosen

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        logits_NK: np.ndarray = validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_.T + self.intercept_
        return logits_NK


class ProbeClassifier(ClassifierMixin, _Probe):  # type: ignore[misc]
    """Standardised logistic regression, as ``medsoft fit --config probe`` solves it on frozen features.

    Args:
        C: inverse strength of the penalty; None for the one of 1e-6 to 10 whose log-loss on inner folds is smallest.
        inner_folds: that choose it, stratified by class, and by ``groups`` where they are given to ``fit``.

    Attributes:
        classes_: (K,).
        coef_: (K, F), of the features as they were given.
        intercept_: (K,).
        C_: what was chosen.
    """

    def fit(self, X: Any, y: Any, groups: Any = None) -> ProbeClassifier:
        """Learn from (N, F) features.

        Args:
            X: features.
            y: (N,) classes.
            groups: (N,) patients, whose samples stay on one side of every inner fold.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, index_N = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: {self.classes_[0]}")
        values_NK = np.eye(len(self.classes_))[index_N]

        def log_loss(logits_NK: np.ndarray) -> float:
            return float(-np.log(_softmax(logits_NK)[np.arange(len(index_N)), index_N].clip(1e-300)).mean())

        self._solve(X, values_NK, index_N, groups, "softmax", log_loss)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """(N, K) logits; of two classes (N,) the logit of the second against the first."""
        logits_NK = self._logits(X)
        return logits_NK[:, 1] - logits_NK[:, 0] if len(self.classes_) == 2 else logits_NK

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, K) probabilities in the order of ``classes_``."""
        return _softmax(self._logits(X))

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the most probable class."""
        logits_NK = self._logits(X)
        predicted: np.ndarray = self.classes_[logits_NK.argmax(axis=1)]
        return predicted


class ProbeRegressor(RegressorMixin, _Probe):  # type: ignore[misc]
    """Standardised ridge regression, as ``medsoft fit --config probe`` solves it; arguments as of ``ProbeClassifier``.

    Attributes:
        coef_: (1, F), of the features as they were given.
        intercept_: (1,).
        C_: what was chosen.
    """

    def fit(self, X: Any, y: Any, groups: Any = None) -> ProbeRegressor:
        """Learn from (N, F) features and (N,) numbers; ``groups`` as of ``ProbeClassifier``."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        mean, sd = float(np.mean(y)), float(np.std(y)) or 1.0
        values_N1 = ((y - mean) / sd)[:, None].astype(np.float64)

        def squared_error(logits_N1: np.ndarray) -> float:
            return float(((logits_N1 - values_N1) ** 2).mean())

        self._solve(X, values_N1, np.zeros(len(X), np.int64), groups, "identity", squared_error)
        self.coef_, self.intercept_ = self.coef_ * sd, self.intercept_ * sd + mean
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) numbers."""
        predicted: np.ndarray = self._logits(X)[:, 0]
        return predicted


def _softmax(logits_NK: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    found: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return found
