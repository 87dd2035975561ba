"""What the report explains under "How to read this": the terms that a task can name in ``Task.glossary``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A term and what it means, as plain text."""

    name: str
    text: str


GLOSSARY = {
    "auroc": Term(
        "AUROC", "The chance that a sample with the class has a higher probability than one without. 0.5 is guessing."
    ),
    "average_precision": Term(
        "Average precision", "Area under the steps of the precision-recall curve. Guessing has the prevalence."
    ),
    "predictive_values": Term(
        "PPV, NPV",
        "Hold at the prevalence of these rows; elsewhere they differ even for the same sensitivity and specificity.",
    ),
    "calibration": Term(
        "Brier score, ECE",
        "Mean squared error of the probabilities (of several classes: their sum, up to 2); mean distance between said "
        "and observed shares over bins of equally many rows. 0 is best. ECE is above 0 for a perfect model too, as the "
        "tables show.",
    ),
    "decision_curve": Term(
        "Decision curve",
        "Net benefit of acting where the probability reaches the threshold, against acting on all and on none (Vickers "
        "and Elkin 2006).",
    ),
    "risk_coverage": Term(
        "Selective prediction, AURC",
        "Share of errors where the least certain answers are set aside, against the share that is answered; its mean "
        "over all shares. Excess: above an order that sets aside all errors first. 0 is best.",
    ),
    "averages": Term("Macro, micro", "The plain mean over classes; all classes taken together."),
    "r2": Term(
        "R²", "1 − squared errors over squared deviations from the mean; below 0 where the mean would do better."
    ),
    "concordance": Term("Concordance", "Lin’s coefficient (1989): agreement, not only correlation."),
    "c_index": Term(
        "C-index",
        "Harrell’s (1982): of all pairs of which it is known who had the event first, the share in which that one has "
        "the larger risk; 0.5 is guessing. Uno’s C (2011) weights the pairs, so that it does not depend on who was "
        "censored, and leaves out events from tau on.",
    ),
    "auc_at": Term(
        "AUC(t)",
        "Cumulative/dynamic: the chance that who has the event by t has a larger risk than who is without it after t; "
        "censored samples are weighted (IPCW). 0.5 is guessing.",
    ),
    "survival_brier": Term(
        "Brier(t), integrated",
        "Mean squared error of the predicted survival at t, with weights for the censored (Graf et al. 1999); its mean "
        "over the stated times, by trapezoids. 0 is best; the figure shows what the same survival for all reaches.",
    ),
    "survival_calibration": Term(
        "Observed / expected",
        "Share with the event by t, by Kaplan and Meier, over the mean predicted share; 1 is best, above 1 the model "
        "says too little.",
    ),
    "risk_groups": Term(
        "Risk groups, log-rank test",
        "The cut was locked before the outcomes of these rows were looked at. Bands are Greenwood’s, on the scale of "
        "log(−log S). The test asks whether the groups have one hazard; a small p says that they differ, not by how "
        "much.",
    ),
    "mean_average_precision": Term(
        "mAP",
        "Area under precision against recall of the boxes of a class in falling order of their scores, then the mean "
        "over the classes, and over the overlaps (IoU 0.50, 0.55, …, 0.95) from which a box counts as a hit; a true "
        "box can be hit once (COCO). 1 is best.",
    ),
    "froc": Term(
        "FROC",
        "Share of the true boxes that are hit (IoU of 0.5) where the threshold leaves a stated number of false "
        "positives per image. Its score is the mean at 1/8, 1/4, 1/2, 1, 2, 4 and 8 (LUNA16). Of all classes together "
        "one threshold holds for all.",
    ),
    "overlap": Term(
        "Dice, IoU",
        "Twice the pixels that the true and the predicted mask share over the sum of both; shared pixels over all of "
        "either. Of each image and class on the input's own grid, then the mean over an image's classes, then over the "
        "images. 1 is best.",
    ),
    "surface_distance": Term(
        "95 % Hausdorff distance, surface Dice",
        "The 95th percentile of the distances between the two outlines, in pixels (of volumes in mm); the share of "
        "both outlines that lies within the stated tolerance of the other (Nikolov et al. 2021).",
    ),
    "empty_masks": Term(
        "Empty masks",
        "A class that is neither in the true nor in the predicted mask is left out of that image's mean; one that is "
        "in one of them alone has Dice, IoU and surface Dice 0 and no Hausdorff distance.",
    ),
    "limits_of_agreement": Term(
        "Limits of agreement", "Bias ± 1.96 standard deviations of the differences (Bland and Altman 1986)."
    ),
}
