"""The probes as estimators: scikit-learn's own checks, what they choose, and that they are the probe of a run."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from medsoft import ProbeClassifier, ProbeRegressor


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [ProbeClassifier(C=0.1), ProbeRegressor(C=0.1)], ids=type)
def test_they_pass_the_checks_of_scikit_learn(estimator):
    from unittest import SkipTest

    for one, check in estimator_checks_generator(estimator):
        try:
            check(one)
        except SkipTest:
            continue


def test_they_are_standardised_models_of_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8)) * rng.uniform(0.1, 10, 8) + 3
    y = X[:, 0] / X[:, 0].std() + rng.normal(size=60)
    standard = StandardScaler().fit_transform(X)
    ours, theirs = ProbeRegressor(C=0.1).fit(X, y), Ridge(alpha=10).fit(standard, (y - y.mean()) / y.std())
    np.testing.assert_allclose(ours.predict(X), theirs.predict(standard) * y.std() + y.mean(), rtol=1e-6)
    labels = np.where(y > np.median(y), "ill", "healthy")
    probe = ProbeClassifier(C=0.1).fit(X, labels)
    oracle = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(standard, labels)
    np.testing.assert_allclose(probe.predict_proba(X), oracle.predict_proba(standard), atol=1e-4)
    assert probe.classes_.tolist() == ["healthy", "ill"]


def test_inner_folds_choose_a_strong_penalty_for_noise_and_keep_patients_together():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(20), 4)
    X = rng.normal(size=(20, 30))[patients] + 0.01 * rng.normal(size=(80, 30))  # a patient's samples are alike
    y = rng.integers(0, 2, 20)[patients]  # and say nothing of others
    blind, grouped = ProbeClassifier().fit(X, y), ProbeClassifier().fit(X, y, groups=patients)
    assert grouped.C_ < blind.C_  # without the patients, inner folds find again what they have seen
    with pytest.raises(Exception, match="groups: 3 for 80 samples"):
        ProbeClassifier().fit(X, y, groups=[1, 2, 3])
