"""How predicted and true classes agree, from confusion matrices (B, C, C): true in rows, predicted in columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def kappa(confusion_BCC: FloatArray) -> FloatArray:
    """(B,) Cohen's kappa with quadratic weights (J. Cohen, Psychological Bulletin 70, 1968), for ordered classes.

    NaN where only one class occurs: chance then agrees too.
    """
    n = confusion_BCC.shape[-1]
    cost_CC = (np.arange(n)[:, None] - np.arange(n)[None, :]) ** 2
    true_BC, called_BC = confusion_BCC.sum(axis=2), confusion_BCC.sum(axis=1)
    observed = (confusion_BCC * cost_CC).sum(axis=(1, 2))
    expected = np.einsum("bi,ij,bj->b", true_BC, cost_CC, called_BC)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = 1 - observed * true_BC.sum(axis=1) / expected
    return np.where((true_BC > 0).sum(axis=1) > 1, value, np.nan)


def mcc(confusion_BCC: FloatArray) -> FloatArray:
    """(B,) Matthews' correlation for several classes, R_K (J. Gorodkin, Computational Biology and Chemistry 28, 2004).

    NaN where only one class occurs, or only one is predicted.
    """
    true_BC, called_BC = confusion_BCC.sum(axis=2), confusion_BCC.sum(axis=1)
    total, right = true_BC.sum(axis=1), np.trace(confusion_BCC, axis1=1, axis2=2)
    covariance = right * total - (true_BC * called_BC).sum(axis=1)
    spread = (total**2 - (true_BC**2).sum(axis=1)) * (total**2 - (called_BC**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, covariance / np.sqrt(spread), np.nan)


def accuracy(confusion_BCC: FloatArray) -> FloatArray:
    """(B,) share of rows on the diagonal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share: FloatArray = np.trace(confusion_BCC, axis1=1, axis2=2) / confusion_BCC.sum(axis=(1, 2))
    return share


def balanced_accuracy(confusion_BCC: FloatArray) -> FloatArray:
    """(B,) mean sensitivity of the classes that occur; NaN where only one does."""
    true_BC = confusion_BCC.sum(axis=2)
    hits_BC = np.einsum("bii->bi", confusion_BCC)
    sensitivity_BC = np.divide(hits_BC, true_BC, out=np.zeros_like(hits_BC), where=true_BC > 0)
    occur_B = (true_BC > 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(occur_B > 1, sensitivity_BC.sum(axis=1) / occur_B, np.nan)
