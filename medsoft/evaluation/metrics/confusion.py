"""The confusion matrix of a table, and metrics of yes-or-no decisions from weighted counts.

Arguments and results of the metrics are arrays of one shape. A metric whose denominator is 0 is NaN: undefined, not 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def confusion_counts(
    target_N: npt.NDArray[np.intp | np.bool_], predicted_N: npt.NDArray[np.intp | np.bool_], n_classes: int
) -> npt.NDArray[np.intp]:
    """(C, C) how often each true class (row) was predicted as each class (column); no target may be unknown."""
    cells = n_classes * target_N.astype(np.intp) + predicted_N
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def decision_metrics(tp: FloatArray, fp: FloatArray, fn: FloatArray, tn: FloatArray) -> dict[str, FloatArray]:
    """Metrics of decisions: true and false positives, false and true negatives.

    F1 is undefined without positives: it would be 0 whatever the model does. Matthews' correlation coefficient (B. W.
    Matthews, Biochimica et Biophysica Acta 405, 1975) is undefined where only one class occurs or only one is called.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "f1": np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan),
            "mcc": (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
        }


def predictive_values(
    sensitivity: FloatArray, specificity: FloatArray, prevalence: float
) -> tuple[FloatArray, FloatArray]:
    """PPV and NPV where the class has another prevalence, by Bayes' rule.

    Sensitivity and specificity are taken to be the same there, which a different spectrum of disease may not respect.

    Raises:
        ValueError: the prevalence lies outside 0 to 1.
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence {prevalence} must lie between 0 and 1")
    with np.errstate(divide="ignore", invalid="ignore"):
        caught, false_alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
        missed, cleared = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
        return caught / (caught + false_alarms), cleared / (cleared + missed)
