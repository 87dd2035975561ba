"""How a run ends: predictions, then tables, figures, facts, examples and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch import Trainer

from medsoft.evaluation.report.run import RunFacts, read_run
from medsoft.evaluation.report.targets import write_targets_report
from medsoft.evaluation.tables.exams import Pooled
from medsoft.inference.detection.write import write_boxes, write_detections
from medsoft.parsing.words import Words
from medsoft.runs.checkpoint_paths import is_crossval
from medsoft.runs.facts import write_facts
from medsoft.runs.run_folder import RunFolder
from medsoft.system.progress import progress
from medsoft.task import Task
from medsoft.training.distributed import Processes
from medsoft.training.memory import enough_memory
from medsoft.training.predict import predict_table, show_path, write_run_results
from medsoft.training.shift import ShiftNotes, say, shift_of
from medsoft.workflows.example_figures import write_run_examples
from medsoft.workflows.run_report import about_target, evaluate_run, without_signs, write_run_report
from medsoft.workflows.shortcuts import say_shortcuts, shortcuts_of_run


def predict_and_end(
    trainer: Trainer,
    model: Any,
    data: Any,
    run: RunFolder,
    config: Any,
    processes: Processes,
    monitor: str | None = None,
    model_of: RunFolder | None = None,
    verb: str = "fit",
) -> pd.DataFrame:
    """Predict the loaded parts with one model, and write everything that follows from it.

    Args:
        trainer: of the run.
        model: with the weights to use.
        data: the data module, with loaded parts.
        run: the folder.
        config: the parsed command line.
        processes: that predict together; the first one writes.
        monitor: the logged metric that chose the checkpoint; None where nothing was trained. After a training, its
            part train is not predicted.
        model_of: the run that trained the model, where that is another one.
        verb: of the command line.

    Returns:
        The predictions table, the same in all processes.
    """
    splits = [split for split in data.loaded_splits if split != "train" or monitor is None]
    if data.task.has_masks:
        model.masks = run.masks
    if data.task.has_boxes:
        model.writer = partial(write_boxes, run.boxes, data.task.classes)
    with enough_memory(config, training=False):
        inputs: list[list[np.ndarray]] = []
        frame = predict_table(trainer, model, data, splits, inputs)
    if processes.is_first:
        if data.task.has_boxes:
            write_detections(run.detections, run.boxes, frame)
        shift = shift_of(model.detector, model.input_names, inputs)
        said = say(verb, [] if shift is None else [shift], data.unit)
        trained = None if monitor is not None else [] if model_of is None else [model_of]
        end_run(run, frame, data, config, trainer, model, monitor, model_of, said=said, trained=trained)
    return frame


def check_options(task: Task, config: Any, words: Words) -> None:
    """Check that the options of a prediction mean something for its task.

    Args:
        task: the model's.
        config: the parsed command line, in which what masks and boxes have nothing of is switched off.
        words: the command line.

    Raises:
        InputError: one was asked for that does not.
    """
    if not task.of_whole_samples:
        for option in ("shortcuts", "ood_quantile"):
            if words.last(option) is None:
                config[option] = None if option == "ood_quantile" else False
    task.check_run(config)


def end_run(
    run: RunFolder,
    frame: pd.DataFrame,
    data: Any,
    config: Any,
    trainer: Trainer,
    model: Any,
    monitor: str | None = None,
    model_of: RunFolder | None = None,
    members: int = 1,
    said: ShiftNotes | None = None,
    trained: Sequence[RunFolder] | None = None,
    kept: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Write everything that follows from a run's predictions, and say where it is.

    Args:
        run: its folder.
        frame: the predictions.
        data: the data module, with loaded parts.
        config: the parsed command line.
        trainer: of the run.
        model: that predicted; of an ensemble any member.
        monitor: the logged metric that chose the checkpoint; None where nothing was trained.
        model_of: the run that trained the model, where that is another one.
        members: models whose mean the predictions are.
        said: whether the table as a whole is unlike the data of the training.
        trained: the runs that trained the models, which know facts of what they learnt from; None for this run.
        kept: what each member of an ensemble has kept of its training part; None for that of the model.
    """
    kept = [model.kept] if kept is None else kept
    pooling: Pooled = {"exam": config.exams, "patient": config.patients}
    numbers = None if said is None else said.numbers
    warnings = [] if said is None else said.warnings
    in_fold = is_crossval(run.path.parent)  # which says of all folds together what baselines reach
    network = model.eval() if members == 1 else None
    write_run_results(run, frame, data, config.figures, monitor, pooling)
    write_facts(run, data, model, trainer, monitor, model_of, members, numbers, kept)
    if not data.task.parts:
        _explain(run, frame, data, config, network, _Before(model_of, warnings, trained, kept), in_fold)
    reports = []
    for target in data.task.parts:
        own, of_target = run.target(target.name), data.of_target(target.name)
        rows = data.task.frame_of(target.name, frame)
        before = _Before(model_of, warnings, trained, kept).of_target(target.name)
        write_run_results(own, rows, of_target, config.figures, None, pooling, target.name)
        trained_by = model_of if monitor is None else run
        write_facts(own, of_target, model, trainer, None, trained_by, members, numbers, before.kept)
        about = about_target(read_run(run.path), own, target)
        if _explain(own, rows, of_target, config, None, before, in_fold, about, target.name):
            reports.append(target)
    if reports:
        write_targets_report(run.path, reports, read_run(run.path))
    if config.report and run.report.is_file():
        print(f"Report: {show_path(run.report)}")
    print(f"Results: {show_path(run.path)}")


@dataclass(frozen=True)
class _Before:
    """What was there before a prediction.

    Attributes:
        model_of: the run that trained the model, where that is another one.
        warnings: of how the table is unlike the data of the training.
        trained: the runs that trained the models; None for the run itself.
        kept: what each model has kept of its training part.
    """

    model_of: RunFolder | None
    warnings: Sequence[str]
    trained: Sequence[RunFolder] | None
    kept: Sequence[dict[str, Any]]

    def of_target(self, name: str) -> _Before:
        """The same of one of several targets."""
        model_of = None if self.model_of is None else self.model_of.target(name)
        trained = None if self.trained is None else [run.target(name) for run in self.trained]
        return _Before(model_of, self.warnings, trained, [kept.get(name, {}) for kept in self.kept])


def _explain(
    run: RunFolder,
    frame: pd.DataFrame,
    data: Any,
    config: Any,
    network: Any,
    before: _Before,
    in_fold: bool,
    about: RunFacts | None = None,
    of_target: str = "",
) -> bool:
    """Write examples, evaluation, baselines and the report of a run, or of one of several targets.

    Returns:
        Whether there is a report.
    """
    if config.figures and config.examples:
        with progress("drawing examples"):
            write_run_examples(run.examples, frame, data, network, config.examples)
    result = evaluate_run(frame, data.task, before.model_of, before.warnings, before.kept)
    if sentence := without_signs(frame, data.task, result):
        print(f"WARNING: {of_target}: {sentence}" if of_target else f"WARNING: {sentence}")
    shortcuts = None
    if config.shortcuts and result is not None:
        shortcuts = shortcuts_of_run(run, frame, data, result.settings, before.trained)
        if not in_fold:
            say_shortcuts(shortcuts, result.settings, data.unit, of_target)
    if not config.report or result is None:
        return False
    write_run_report(run, frame, result, config.examples, about, shortcuts)
    return True
