"""Segmentation: the class of every pixel; a row's answers are how large each class is and how well it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medsoft.errors import InputError, Problem
from medsoft.evaluation.metrics.table import headline_of
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

DEFAULT_CLASS = "foreground"
SHARES = ("dice", "iou", "surface_dice")
"""Measures from 0 to 1."""
MEASURES = ("dice", "iou", "hd95", "surface_dice")
NO_VECTOR = "a segmentation answers with a mask, not with a number"


@dataclass(frozen=True)
class Segmentation(Task):
    """A question whose answer is a mask.

    ``classes`` are those of the masks beside the background, in the order of their values. The column ``mask`` of a
    sample table names a file, that of a predictions table says whether a mask is known (1 or 0).
    """

    kind = "segmentation"
    size: ClassVar[str] = "area"
    """What the columns of how much there is of a class begin with; of the true mask, with ``true_`` in front."""
    element: ClassVar[str] = "pixel"
    has_masks = True
    of_whole_samples = False
    can_be_one_of_several = False
    number_metrics = "overlap"
    metrics_title = "Overlap"
    metrics = MEASURES
    monitor = "dice"
    key_metrics = MEASURES
    group_metrics = ("dice", "iou")
    figures = ()
    table_figures = ()
    report_sections = ("metrics", "subgroups")
    glossary = ("overlap", "surface_distance", "empty_masks")
    unlabelled = "(no mask)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise ValueError("a segmentation needs a class beside the background")

    @classmethod
    def label_columns(
        cls, label: str | Sequence[str] | None, time: str | None, event: str | None
    ) -> str | Sequence[str] | None:
        super().label_columns(label, time, event)
        return [label] if isinstance(label, str) else label

    @property
    def target_columns(self) -> list[str]:
        return ["mask"]

    @property
    def p_columns(self) -> list[str]:
        names = (self.size, f"true_{self.size}", "components")
        sizes, measures = ([f"{name}_{of}" for name in all_ for of in self.classes] for all_ in (names, MEASURES))
        return [*sizes, "dice", *measures]

    @classmethod
    def stated_by(cls, options: LabelOptions) -> bool:
        return True

    @classmethod
    def read_labels(cls, labels: pd.DataFrame, options: LabelOptions, problems: Sequence[Problem]) -> Targets:
        from medsoft.data.tables.labels import some

        names = list(map(str, labels.columns))
        if len(names) != 1:
            raise InputError(f"a segmentation has one column of masks, not {len(names)}: {some(names)}")
        if options.positive:
            raise InputError("positive belongs to classes of whole images: leave it out of a segmentation")
        column, found = labels.iloc[:, 0], list(problems)
        for row, value in enumerate(column, start=1):
            if not value and options.required:
                advice = "name the mask's file or delete the row; an image without anything has an empty mask"
                found.append(Problem("missing mask", (row,), "the mask is empty", advice))
        if options.required and not (column != "").any():
            raise InputError(f"the column {column.name!r} names no mask at all")
        return Targets(cls(options.classes or (DEFAULT_CLASS,)), pd.DataFrame({"mask": column.astype(object)}), found)

    def targets(self, frame: pd.DataFrame) -> npt.NDArray[Any]:
        """(N,) float64: 1 where there is a mask, else NaN."""
        return np.where(self.known(frame), 1.0, np.nan)

    def known(self, frame: pd.DataFrame) -> BoolArray:
        column = frame["mask"]
        if pd.api.types.is_numeric_dtype(column):
            return (column.fillna(0) == 1).to_numpy(dtype=bool)
        return column.map(lambda value: value not in ("", 0, None) and value == value).to_numpy(dtype=bool)

    def members(self, frame: pd.DataFrame) -> dict[str, BoolArray]:
        """Images whose true mask has the class; of a sample table nobody has looked into the masks."""
        columns = [(name, f"true_{self.size}_{name}") for name in self.classes]
        return {name: (frame[column] > 0).to_numpy(dtype=bool) for name, column in columns if column in frame}

    def check_targets(self, targets: pd.DataFrame, splits: pd.Series) -> list[Problem]:
        return []

    def strata(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """1 with a mask, 0 without: what is in a mask is not looked at for a split."""
        known: npt.NDArray[np.int64] = (~np.isnan(targets)).astype(np.int64)
        return known

    def class_counts(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.zeros(0, np.int64)

    @property
    def class_counts_shape(self) -> tuple[int, ...]:
        return (0,)

    def sampling_weights(self, targets: npt.NDArray[Any]) -> FloatArray:
        raise InputError("data.balanced_sampling: images of a segmentation have no single class; leave it out")

    def check_objective(self, options: ObjectiveOptions) -> None:
        super().check_objective(options)
        if options.label_smoothing or options.class_weights is not None:
            raise ValueError("label_smoothing and class_weights are for whole images: choose model.loss instead")

    def objective(self, options: ObjectiveOptions) -> Objective:
        from medsoft.classifiers.segmentation.objective import MaskObjective

        self.check_objective(options)
        return MaskObjective(1 + len(self.classes))

    def check_run(self, config: Any) -> None:
        for option, off in (("shortcuts", "false"), ("ood_quantile", "null")):
            if config.get(option):
                raise InputError(f"{option} is for answers to whole images, not for masks: say --{option} {off}")

    @classmethod
    def recognises(cls, columns: Sequence[str]) -> bool:
        return "dice" in columns and any(name.startswith(f"{cls.size}_") for name in columns)

    @classmethod
    def from_columns(cls, columns: Sequence[str]) -> Task:
        size = f"{cls.size}_"
        found = cls(tuple(name.removeprefix(size) for name in columns if name.startswith(size)))
        if missing := [name for name in found.p_columns if name not in columns]:
            raise ValueError(f"column {missing[0]!r} is missing")
        return found

    def target_cells(self, targets: npt.ArrayLike | None, n: int) -> dict[str, Any]:
        values = np.full(n, np.nan) if targets is None else np.asarray(targets, dtype=np.float64)
        if values.shape != (n,):
            raise ValueError(f"targets have shape {values.shape}, not {(n,)}")
        return {"mask": np.where(np.isnan(values), 0, 1).astype(np.int64)}

    def parse_targets(self, text: pd.DataFrame) -> tuple[dict[str, pd.Series], list[Wrong]]:
        if "mask" not in text:
            return {}, []
        numbers = pd.to_numeric(text["mask"], errors="coerce")
        wrong = ~numbers.isin([0, 1]).to_numpy() & (text["mask"] != "").to_numpy()
        return {"mask": numbers.where(~wrong).fillna(0).astype(np.int64)}, [("mask is neither 0 nor 1 in", wrong)]

    def wrong_values(self, frame: pd.DataFrame) -> list[Wrong]:
        wrong: list[Wrong] = []
        known = self.known(frame) if "mask" in frame else np.zeros(len(frame), dtype=bool)
        for name in self.p_columns:
            values = frame[name].to_numpy(dtype=np.float64)
            with np.errstate(invalid="ignore"):
                low, high = values < 0, values > 1
            if name.startswith(SHARES):
                wrong.append((f"{name} is outside [0, 1] in", low | high))
            else:
                wrong.append((f"{name} is below 0 or infinite in", low | np.isinf(values)))
            if name.startswith((f"{self.size}_", "components_")):
                wrong.append((f"{name} is no number in", np.isnan(values)))
            elif name.startswith(f"true_{self.size}_"):
                wrong.append((f"{name} is no number, though there is a mask, in", np.isnan(values) & known))
        return wrong

    def target_numbers(self, frame: pd.DataFrame) -> FloatArray:
        return self.targets(frame)[:, None]

    def pool_targets(self, numbers: pd.DataFrame, group_N: IntArray, how: Pooling) -> FloatArray:
        """Known where a mask is known of each row."""
        known = numbers.notna().groupby(group_N).all()
        return in_order(numbers.groupby(group_N).mean().where(known))[:, 0]

    def logits_of(self, p_NC: FloatArray) -> FloatArray:
        return p_NC

    def predictions_of(self, logits_NK: FloatArray) -> FloatArray:
        return logits_NK

    def sentence(self, unit: str) -> str:
        return f"Segmentation: the places of {', '.join(self.classes)} in each {unit}"

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
        from medsoft.evaluation.segmentation.measures import Overlaps

        return [Overlaps(frame, self.classes, MEASURES, unit_N)]

    def why_undefined(self, key: Key, frame: pd.DataFrame) -> str:
        if not len(frame):
            return "no row has a mask"
        of = f" of {key.class_name}" if key.class_name else ""
        if key.metric in ("dice", "iou"):
            return f"no mask{of}, true or predicted, has a {self.element}"
        return f"in no image is the true and the predicted mask{of} there to be measured between"

    def hardly_vary(self, frame: pd.DataFrame, least_spread: float) -> str:
        areas = frame[[f"{self.size}_{name}" for name in self.classes]].to_numpy(dtype=np.float64)
        return "" if areas.any() else "every predicted mask is empty"

    def logit_target(self, name: str) -> LogitTarget:
        raise InputError(f"{NO_VECTOR}: there is nothing to take apart; leave the explanation out")

    def default_logit_target(self, prediction_C: npt.NDArray[Any]) -> LogitTarget:
        return self.logit_target("")

    def explained_values(self, frame: pd.DataFrame, logit_target: LogitTarget) -> FloatArray:
        raise InputError(NO_VECTOR)

    def outputs(self) -> list[dict[str, Any]]:
        columns, what = ["background", *self.classes], f"of each {self.element}, channels first"
        return [
            {"name": "logits", "columns": columns, "what": what},
            {"name": "probabilities", "columns": columns, "what": f"{what}; they sum to 1"},
        ]


@dataclass(frozen=True)
class SegmentationVolume(Segmentation):
    """The same of volumes: sizes are in mm³ and distances in mm, where the spacing is known, else in voxels."""

    kind = "segmentation_volume"
    size = "volume_mm3"
    element = "voxel"
    drawn = "Of each volume four axial slices through what either mask has, from the feet upwards"
