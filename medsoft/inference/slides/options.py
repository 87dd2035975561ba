"""The trained model, the columns and the report, as the options of the verbs on trained slide classifiers say.

This module is light, as each verb imports it. Which slides, tiles and heatmaps: ``medsoft.slides``; where the work
runs: ``medsoft.cluster.options``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsoft.errors import InputError
from medsoft.parsing.options import Settings
from medsoft.runs.checkpoint_paths import check_bundle, checkpoint_file, is_crossval

if TYPE_CHECKING:
    from medsoft.runs.bundle import Bundle

Labels = str | int | list[str | int]
NO_MAPS = (
    "heatmaps are of one model: an ensemble's prediction is the mean of its members' probabilities, which has no logit "
    "that would be a sum over tiles. Name a single --checkpoint"
)


@dataclass(frozen=True)
class ModelSource(Settings):
    """The trained model.

    Attributes:
        checkpoint: Folder of a run of medsoft fit --config histo, or a checkpoint file; for an ensemble, repeat it for
            each member or name the folder of a cross-validation.
        bundle: Folder of a bundle (made by medsoft export), instead of checkpoint.

    Raises:
        InputError: neither or both are given.
    """

    checkpoint: str | list[str] | None = None
    bundle: str | None = None

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.bundle is None):
            raise InputError(
                "name the model with --checkpoint (a run of medsoft fit), or with --bundle; one of the two"
            )

    def check(self) -> None:
        """Check that the model, or each member of an ensemble, is there, before torch is imported.

        Raises:
            InputError: there is no such file or folder.
        """
        if self.bundle is not None:
            check_bundle(Path(self.bundle))
        for name in self._named():
            if not is_crossval(name):
                checkpoint_file(Path(name))

    def find(self) -> list[Path | Bundle]:
        """Where the model comes from, or each member of an ensemble; absolute, for processes in other folders.

        Raises:
            InputError: a checkpoint of a fold is missing, one is named twice; or the bundle is not whole.
        """
        from medsoft.runs.bundle import Bundle
        from medsoft.runs.checkpoints import find_checkpoints

        if self.bundle is not None:
            return [Bundle(Path(self.bundle).absolute())]
        return [one.file for one in find_checkpoints([str(Path(name).absolute()) for name in self._named()])]

    def _named(self) -> list[str]:
        if self.checkpoint == []:
            raise InputError("--checkpoint names nothing")
        return [self.checkpoint] if isinstance(self.checkpoint, str) else list(self.checkpoint or [])


@dataclass(frozen=True)
class PatientColumns(Settings):
    """Whose the slides are.

    Attributes:
        patient: Column of the table with the patient; copied into the predictions if the table has it.
        clinical: Table (.csv, .parquet, .xlsx) with one row per patient, whose columns (covariates, labels) are joined
            to the slides by patient.
        group: trained pools the slides of a patient into one bag if the model was trained so (data.group patient);
            slide predicts each slide by itself.
    """

    patient: str = "patient"
    clinical: str | None = None
    group: Literal["trained", "slide"] = "trained"


@dataclass(frozen=True)
class TruthColumns(Settings):
    """What else the table states about the slides.

    Attributes:
        exam: Column of the table that groups slides, such as the specimen; copied into the predictions if the table
            has it.
        split: Column of the table with the split; copied into the predictions if the table has it.
        label: Column of the table with the true class, or with the labels of a multilabel task, for scoring the
            predictions; slides without one are predicted but not scored.
        positive: Label values that count as the positive class, if they are not names of classes.
    """

    exam: str = "exam"
    split: str = "split"
    label: Labels | None = None
    positive: Labels | None = None


@dataclass(frozen=True)
class ReportSettings(Settings):
    """What is made from the predictions, as in medsoft predict.

    Attributes:
        exams: How the slides of one exam are pooled into predictions_exams.csv, the mean or maximum of the logits, or
            none.
        patients: How the slides of one patient are pooled into predictions_patients.csv, the mean or maximum of the
            logits, or none.
        figures: Draw curves and the confusion matrix if true classes are known.
        report: Write report.html, an evaluation with confidence intervals, if true classes are known.
    """

    exams: Literal["mean", "max", "none"] = "mean"
    patients: Literal["mean", "max", "none"] = "mean"
    figures: bool = True
    report: bool = True
