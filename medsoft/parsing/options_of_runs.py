"""Options of a run itself, beside those of the classes that it uses: its folder, its report, what a verb adds."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Callable
from typing import Any, Literal

from medsoft.parsing.options_of_plans import add_options_of_plans
from medsoft.registry import DEFAULT_NAME, DEFAULTS

TRAIN = ("fit", "crossval", "plan", "auto")
"""Verbs that train a model, or plan to."""


def add_options_of_runs(add: Callable[[str, Any, Any, str], None], verb: str) -> None:
    """Add what is asked of a run of a verb.

    Args:
        add: adds an option: its name, type, default and help.
        verb: as ``CommandLine``.
    """
    add("use", dict[str, str], DEFAULTS, "Short names of the classes of data, model and transforms.")
    add("name", str, DEFAULT_NAME, "Name of the experiment: runs go to runs/NAME/TIME.")
    add("out", str | None, None, "Folder of this run, instead of runs/NAME/TIME.")
    pooling = "How the rows of one data.exam are pooled into predictions_exams.csv: mean or max of the logits, or none."
    add("exams", Literal["mean", "max", "none"], "mean", SUPPRESS if verb == "show" else pooling)
    by_patient = (
        "How the rows of one data.patient are pooled into predictions_patients.csv: mean or max of the logits, or none."
    )
    add("patients", Literal["mean", "max", "none"], "none", SUPPRESS if verb == "show" else by_patient)
    add("figures", bool, True, "Draw curves, the confusion matrix, mistakes and examples.")
    ends = verb != "show"  # which takes the configuration of a fit as well
    report = "Write report.html, an evaluation of the predictions with confidence intervals."
    add("report", bool, True, report if ends else SUPPRESS)
    text = "Compare the model with baselines on trivial facts of the samples (colours, sharpness, size, file ...)."
    add("shortcuts", bool, True, text if ends else SUPPRESS)
    examples = "How many correct and how many wrong predictions the report shows; 0 for none."
    add("examples", int, 4, examples if ends else SUPPRESS)
    if ends:
        text = "What to do if the table has changed since training (rows, labels, parts, contents): error or accept."
        add("changed_table", Literal["error", "accept"], "error", text)
    if verb == "show":
        add("n", int, 4, "Number of samples to draw.")
    elif verb == "fit":
        add("resume", str | None, None, "Folder of a stopped run to continue.")
    elif verb == "crossval":
        add("folds", int | None, None, "Number of folds to draw, grouped by patient and stratified.")
        add("fold_column", str | None, None, "Column of the table that names the folds, instead of folds.")
        add("leave_one_site_out", bool, False, "One fold per value of data.site, instead of folds.")
        add("repeats", int, 1, "How often to run the whole cross-validation, each time with the next seed.")
        text = "Train on this fraction of the patients of each fold's training part."
        add("train_fraction", float, 1.0, text)
        text = (
            "Fractions such as 0.25,0.5: also train on these, each within the next, and say what more patients "
            "would bring."
        )
        add("learning_curve", str | list[float] | None, None, text)
        add("jobs", int, 1, "Number of folds that run at the same time, each in its own process.")
        text = "Run only this fold, numbered from 0 through all repeats, and do not collect the results."
        add("fold", int | None, None, text)
        add("collect", bool, False, "Run nothing; collect the results of folds that have all finished.")
        text = "Folder of a cross-validation to continue; only jobs, fold and collect may be given with it."
        add("resume", str | None, None, text)
    elif verb in ("plan", "auto"):
        add_options_of_plans(add, verb)
    else:
        text = (
            "Folder of a run (its best checkpoint is used) or a checkpoint file; several, or the folder of a "
            "cross-validation, form an ensemble."
        )
        add("checkpoint", str | list[str] | None, None, text)
        text = "Average over this many mirrored and rotated views that the recipe allows (test-time augmentation)."
        add("tta", int, 1, text)
        add("maps", int, 0, "Write attribution maps of this many volumes of each part, as NIfTI and as pictures.")
        add("bundle", str | None, None, "Folder of a bundle (made by medsoft export), instead of checkpoint.")

    def add_for_fit(name: str, kind: Any, default: Any, text: str) -> None:
        # The other verbs take these as well, unseen: they are given the configuration of a fit.
        add(name, kind, default, text if verb in TRAIN else SUPPRESS)

    text = (
        "Where a training is logged, beside metrics.csv: tensorboard, csv for that table alone, mlflow or wandb (files "
        "here, no network, nothing that names a patient)."
    )
    add_for_fit("logger", Literal["tensorboard", "csv", "mlflow", "wandb"], "tensorboard", text)
    add_for_fit(
        "monitor",
        str,
        "auto",
        "Validation metric that selects the checkpoint; auto is auroc; ordinal: kappa, regression: mae, "
        "survival: c_index.",
    )
    add_for_fit("patience", int | None, None, "Stop after this many epochs without improvement; never if not given.")
    text = "Keep an exponential moving average of the weights with this decay per step, such as 0.999."
    add_for_fit("ema_decay", float | None, None, text)
    text = (
        "Find the learning rate by a range test before the training, in place of model.lr; its picture and table "
        "are kept in the run's folder."
    )
    add_for_fit("lr_find", bool, False, text)
    add_for_fit(
        "ood_quantile",
        float | None,
        0.99,
        "Fraction of the training data within each of the two limits of the out-of-distribution detector; "
        "predict abstains beyond either limit. null switches the detector off.",
    )
    text = "Also save the training state every this many steps, not only after each epoch."
    add_for_fit("save_every_n_steps", int | None, None, text)
