"""A training to its end or to a stop, with its errors in the user's words; and the log that does not hide a stop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from medsoft.errors import InputError, RunError
from medsoft.system.logging import event
from medsoft.system.signals import Stopped
from medsoft.training.callbacks import StopGracefully
from medsoft.training.memory import is_killed_loader
from medsoft.training.predict import show_path

SUCCESS = "success"
"""What Lightning tells a logger of a training that has come to its end."""


class TrainingLog(TensorBoardLogger):
    """Lightning's log for TensorBoard, which a stop or an error may end at any time.

    What ends a training is told by Lightning to the log before it goes on its way. The log may be unable to write then:
    its folder is gone or full, or the signal came while it was being closed. That must not take the place of the stop.
    """

    def finalize(self, status: str) -> None:
        """Write what is left, and close.

        Raises:
            OSError: the end of a whole training cannot be written.
        """
        try:
            super().finalize(status)
        except OSError as error:
            if status == SUCCESS:
                raise
            event("tensorboard", "warning", status=status, error=str(error))


def train_until_stopped(
    trainer: Trainer,
    model: LightningModule,
    data: Any,
    folder: Path,
    state: Path | None,
    *within: AbstractContextManager[Any],
) -> Stopped | KeyboardInterrupt | None:
    """Train to the end, of any verb that trains.

    Args:
        trainer: Lightning's.
        model: to be trained.
        data: the data module.
        folder: of the run, for messages.
        state: checkpoint to go on from; None to begin.
        within: contexts in which the training runs, the outermost first, such as one that turns errors into messages.

    Returns:
        What stopped it before its end; None where nothing did.

    Raises:
        InputError: the state is of a model of another shape.
        RunError: Lightning cannot train so.
        OSError: files cannot be written, and nobody has asked for a stop; it names one.
    """
    try:
        with ExitStack() as stack:
            for context in within:
                stack.enter_context(context)
            stack.enter_context(_stopped_with_loaders(trainer))
            try:
                trainer.fit(model, data, ckpt_path=state, weights_only=True)
            finally:
                for callback in _stopping(trainer):
                    callback.close()
            if (number := _asked_to_stop(trainer)) is not None:  # while Lightning put the training away
                return Stopped(number)
    except (Stopped, KeyboardInterrupt) as stop:
        return stop
    except MisconfigurationException as error:
        raise RunError(f"trainer: {error}") from None
    except OSError as error:
        if (number := _asked_to_stop(trainer)) is not None:
            print(f"The step at hand could not be saved: {error}", file=sys.stderr)
            return Stopped(number)
        error.filename = error.filename or str(folder)  # a full disk leaves it open, in Lightning's own files
        raise
    except RuntimeError as error:
        if state is not None and "loading state_dict" in str(error):
            what = str(error).splitlines()[-1].strip()
            raise InputError(f"{show_path(state)}: an added option changes the model's shape: {what}") from None
        raise
    return None


@contextmanager
def _stopped_with_loaders(trainer: Trainer) -> Iterator[None]:
    """Where the signal has ended a process that loads data too, just as it began: no lack of memory, but the stop."""
    try:
        yield
    except RuntimeError as error:
        number = _asked_to_stop(trainer)
        if number is None or not is_killed_loader(error):
            raise
        print("The step at hand could not be saved: the signal has ended a process that loads data", file=sys.stderr)
        raise Stopped(number) from None


def _asked_to_stop(trainer: Any) -> int | None:
    """The signal that has asked a training to stop after its step; None where none has."""
    return next((callback.requested for callback in _stopping(trainer) if callback.requested is not None), None)


def _stopping(trainer: Any) -> list[StopGracefully]:
    return [callback for callback in trainer.callbacks if isinstance(callback, StopGracefully)]
