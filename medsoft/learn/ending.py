"""How a run ends: tables, figures, facts, examples and the report."""

from __future__ import annotations

from typing import Any

import pandas as pd
from lightning.pytorch import LightningModule, Trainer

from medsoft.learn.examples import write_run_examples
from medsoft.learn.facts import write_facts
from medsoft.learn.outcome import show_path, write_outcome
from medsoft.learn.report import write_run_report
from medsoft.learn.run_folder import RunFolder


def end_run(
    run: RunFolder,
    frame: pd.DataFrame,
    data: Any,
    config: Any,
    trainer: Trainer,
    model: LightningModule,
    monitor: str | None = None,
    model_of: RunFolder | None = None,
    members: int = 1,
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
    """
    write_outcome(run, frame, data, config.pictures, monitor, config.exams)
    write_facts(run, data, model, trainer, monitor, model_of, members)
    if config.pictures and config.examples:
        write_run_examples(run.examples, frame, data, model.eval() if members == 1 else None, config.examples)
    if config.report and write_run_report(run, frame, data.task, config.examples, model_of):
        print(f"Report: {show_path(run.report)}")
    print(f"Results: {show_path(run.path)}")
