"""Detection: a box around each object; a row's answers are how many there are and which of them hit a true one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError, Problem
from medsoft.evaluation.detection.answers import BEST, CALLED, CELL, MATCHES, TRUE, cells
from medsoft.evaluation.metrics.table import headline_of, of_family
from medsoft.task import Targets, Task
from medsoft.task_types import (
    BoolArray,
    FloatArray,
    IntArray,
    LabelOptions,
    LogitTarget,
    Measure,
    Objective,
    ObjectiveOptions,
    Pooling,
    Wrong,
)
from medsoft.tasks.classes import in_order

if TYPE_CHECKING:
    from medsoft.evaluation.metrics.thresholds import OperatingPoint
    from medsoft.evaluation.metrics.weighted import Key

NO_VECTOR = "a detection answers with boxes, not with a number"


@dataclass(frozen=True)
class Detection(Task):
    """A question whose answer is boxes.

    ``classes`` are those of the boxes. The column ``boxes`` says how many true boxes an image has, of all classes
    together; empty where nobody knows.
    """

    kind = "detection"
    has_boxes = True
    of_whole_samples = False
    can_be_one_of_several = False
    pools = False
    no_ensemble = "boxes of several models have no mean"
    number_metrics = "detection"
    metrics_title = "Detection"
    metrics = of_family("detection")
    monitor = "map"
    key_metrics = ("map", "map50", "froc", "sensitivity_fp_1")
    group_metrics = ("map", "froc")
    figures = ("froc",)
    table_figures = ()
    report_sections = ("figures", "metrics", "subgroups")
    glossary = ("mean_average_precision", "froc")
    unlabelled = "(boxes not known)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise ValueError("a detection needs a class of boxes")

    @property
    def target_columns(self) -> list[str]:
        return ["boxes"]

    @property
    def p_columns(self) -> list[str]:
        return [BEST, *(f"{CALLED}{name}" for name in self.classes), *(f"{TRUE}{name}" for name in self.classes)]

    @classmethod
    def stated_by(cls, options: LabelOptions) -> bool:
        return bool(options.classes)

    @classmethod
    def read_labels(cls, labels: pd.DataFrame, options: LabelOptions, problems: Sequence[Problem]) -> Targets:
        """Read how many boxes each image has, which the data module counts."""
        if options.positive:
            raise InputError("positive belongs to classes of whole images: leave it out of a detection")
        column, found = labels.iloc[:, 0], list(problems)
        numbers = pd.to_numeric(column, errors="coerce")
        if options.required:
            advice = "add these images to the file of boxes (without a box, if there is nothing), or delete the rows"
            for row in np.flatnonzero(numbers.isna()):
                found.append(Problem("boxes not known", (int(row) + 1,), "the file of boxes lacks the image", advice))
        return Targets(cls(options.classes), pd.DataFrame({"boxes": numbers.astype("Int64")}), found)

    def targets(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        """(N,) float64: the number of true boxes, NaN where it is not known."""
        return frame["boxes"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)

    def known(self, frame: pd.DataFrame) -> BoolArray:
        known: BoolArray = ~np.isnan(self.targets(frame))
        return known

    def members(self, frame: pd.DataFrame) -> dict[str, BoolArray]:
        """Images with a true box of the class; of a sample table nobody has looked at the classes."""
        columns = [(name, f"{TRUE}{name}") for name in self.classes]
        return {name: (frame[column] > 0).to_numpy(dtype=bool) for name, column in columns if column in frame}

    def check_targets(self, targets: pd.DataFrame, splits: pd.Series) -> list[Problem]:
        advice = "add images with boxes, or split otherwise"
        found = []
        for split in [one for one in ("train", "val") if (splits == one).any()] or [""]:
            if not (targets.loc[splits == split, "boxes"].fillna(0) > 0).any():
                where = f"the part {split}" if split else "the table"
                found.append(Problem("no boxes", (), f"no image of {where} has a box", advice, skippable=False))
        return found

    def strata(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """0 unknown, 1 without a box, 2 with boxes."""
        return np.where(np.isnan(targets), 0, np.where(targets > 0, 2, 1)).astype(np.int64)

    def class_counts(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.zeros(0, np.int64)

    @property
    def class_counts_shape(self) -> tuple[int, ...]:
        return (0,)

    def sampling_weights(self, targets: npt.NDArray[Any]) -> FloatArray:
        raise InputError("data.balanced_sampling: images with boxes have no single class; leave it out")

    def check_objective(self, options: ObjectiveOptions) -> None:
        super().check_objective(options)
        if options.label_smoothing or options.class_weights is not None:
            raise ValueError("label_smoothing and class_weights are for whole images: leave them out of a detection")

    def objective(self, options: ObjectiveOptions) -> Objective:
        from medsoft.classifiers.detection.objective import BoxObjective

        self.check_objective(options)
        return BoxObjective(len(self.classes))

    def check_run(self, config: Any) -> None:
        for option, off in (("shortcuts", "false"), ("ood_quantile", "null")):
            if config.get(option):
                raise InputError(f"{option} is for answers to whole images, not for boxes: say --{option} {off}")

    @classmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        return BEST in columns and any(name.startswith(CALLED) for name in columns)

    @classmethod
    def from_columns(cls, columns: Sequence[str]) -> Task:
        found = cls(tuple(name.removeprefix(CALLED) for name in columns if name.startswith(CALLED)))
        if missing := [name for name in found.p_columns if name not in columns]:
            raise ValueError(f"column {missing[0]!r} is missing")
        return found

    def answer_cells(self, answers: FloatArray, n: int) -> dict[str, Any]:
        """Columns from the numbers of ``medsoft.evaluation.detection.answers.pack``."""
        width = answers.shape[1] - 2 * len(self.classes) if answers.ndim == 2 else -1
        if len(answers) != n or width < 0 or width % 3:
            raise ValueError(f"answers have shape {answers.shape}, which is none of {n} images with boxes")
        return dict(cells(self.classes, answers))

    def constant_answers(self, n: int) -> FloatArray:
        """Of images with one true box of each class, and no box found."""
        classes = len(self.classes)
        return np.tile(np.repeat([0.0, 1.0], classes), (n, 1))

    def target_cells(self, targets: npt.ArrayLike | None, n: int) -> dict[str, Any]:
        values = np.full(n, np.nan) if targets is None else np.asarray(targets, dtype=np.float64)
        if values.shape != (n,):
            raise ValueError(f"targets have shape {values.shape}, not {(n,)}")
        return {"boxes": pd.Series(values).astype("Int64").array}

    def parse_targets(self, text: pd.DataFrame) -> tuple[dict[str, pd.Series], list[Wrong]]:
        if "boxes" not in text:
            return {}, []
        numbers = pd.to_numeric(text["boxes"], errors="coerce")
        wrong = (text["boxes"] != "").to_numpy() & ~((numbers >= 0) & (numbers % 1 == 0)).to_numpy(dtype=bool)
        return {"boxes": numbers.where(~wrong).astype("Int64")}, [("boxes is no whole number in", wrong)]

    def wrong_values(self, frame: pd.DataFrame) -> list[Wrong]:
        known = self.known(frame) if "boxes" in frame else np.zeros(len(frame), dtype=bool)
        wrong: list[Wrong] = []
        for name in self.p_columns:
            values = frame[name].to_numpy(dtype=np.float64)
            with np.errstate(invalid="ignore"):
                wrong.append((f"{name} is below 0 or infinite in", (values < 0) | np.isinf(values)))
                if name == BEST:
                    wrong.append((f"{name} is above 1 in", values > 1))
            is_true = name.startswith(TRUE)
            what = f"{name} is no number{', though the true boxes are known,' if is_true else ''} in"
            wrong.append((what, np.isnan(values) & known if is_true else np.isnan(values)))
        for name in self.classes:
            column = f"{MATCHES}{name}"
            if column not in frame:
                wrong.append((f"column {column!r} is missing, which says what the boxes hit, of", known))
            else:
                is_fine = frame[column].astype(str).str.fullmatch(CELL).to_numpy(dtype=bool)
                wrong.append((f"{column} is no list of score:hits in", ~is_fine))
        return wrong

    def target_numbers(self, frame: pd.DataFrame) -> FloatArray:
        return self.targets(frame)[:, None]

    def pool_targets(self, numbers: pd.DataFrame, group_N: IntArray, how: Pooling) -> FloatArray:
        """The mean, or the largest, number of boxes; known where it is of each row."""
        known = numbers.notna().groupby(group_N).all()
        pooled = numbers.groupby(group_N).max() if how == "max" else numbers.groupby(group_N).mean()
        return in_order(pooled.where(known))[:, 0]

    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        return p_NC

    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        return logits_NK

    def sentence(self, unit: str) -> str:
        return f"Detection: a box around each {', '.join(self.classes)} in each {unit}"

    @property
    def headline(self) -> tuple[str, ...]:
        return headline_of(self.metrics)

    def measures(
        self,
        frame: pd.DataFrame,
        unit_N: IntArray,
        points: Sequence[OperatingPoint] = (),
        prevalences: Sequence[float] = (),
        curves: bool = False,
    ) -> list[Measure]:
        from medsoft.evaluation.detection.measures import Detections

        return [Detections(frame, self.classes, unit_N, curves)]

    def why_undefined(self, key: Key, frame: pd.DataFrame) -> str:
        if not len(frame):
            return "of no row the true boxes are known"
        return f"no row has a true box{f' of {key.class_name}' if key.class_name else ''}"

    def hardly_vary(self, frame: pd.DataFrame, least_spread: float) -> str:
        return "" if (frame[BEST] > 0).any() else "no box was found in any row"

    def logit_target(self, name: str) -> LogitTarget:
        raise InputError(f"{NO_VECTOR}: there is nothing to take apart; leave the explanation out")

    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        return self.logit_target("")

    def explained_values(self, frame: pd.DataFrame, logit_target: LogitTarget) -> FloatArray:
        raise InputError(NO_VECTOR)

    def outputs(self) -> list[dict[str, Any]]:
        return [
            {
                "name": "logits",
                "columns": list(self.classes),
                "what": "of each place and shape of a box; a sigmoid each",
            },
            {"name": "boxes", "columns": ["x_min", "y_min", "x_max", "y_max"], "what": "in pixels of the input"},
        ]
