"""How a training ends: each error in the user's words, a stop as a stop, and a log that hides neither."""

import signal
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from medsoft.errors import InputError, RunError
from medsoft.system.signals import Stopped
from medsoft.training.callbacks import StopGracefully
from medsoft.training.memory import enough_memory_or
from medsoft.training.until_stopped import TrainingLog, train_until_stopped


def train(error: BaseException | None, tmp_path, resumed: bool = False, *within: Any, asked: int | None = None) -> Any:
    def fit(model, data, ckpt_path, weights_only):
        assert weights_only, "nothing is unpickled"
        assert ckpt_path == (tmp_path / "last.ckpt" if resumed else None)
        if error is not None:
            raise error

    stop = StopGracefully(tmp_path / "last.ckpt")
    stop.requested = asked
    trainer: Any = SimpleNamespace(fit=fit, callbacks=[stop])
    state = tmp_path / "last.ckpt" if resumed else None
    return train_until_stopped(trainer, None, None, tmp_path, state, *within)  # type: ignore[arg-type]


def test_a_stop_is_returned_and_nothing_where_nothing_stopped_it(tmp_path):
    assert train(None, tmp_path) is None
    stop = Stopped(signal.SIGTERM)
    assert train(stop, tmp_path) is stop
    assert isinstance(train(KeyboardInterrupt(), tmp_path), KeyboardInterrupt)


@pytest.mark.parametrize(
    ("error", "resumed", "kind", "message"),
    [
        (MisconfigurationException("no such thing"), False, RunError, "trainer: no such thing"),
        (RuntimeError("Error(s) in loading state_dict for X:\n\tsize mismatch"), True, InputError, "size mismatch"),
        (RuntimeError("Error(s) in loading state_dict"), False, RuntimeError, "state_dict"),
        (RuntimeError("other"), True, RuntimeError, "other"),
        (MemoryError(), False, RunError, "not enough memory. Lower it by the batch"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed"), False, RunError, "Lower it by workers"),
    ],
)
def test_an_error_is_one_message(error, resumed, kind, message, tmp_path):
    advise = enough_memory_or(lambda loader: f"Lower it by {'workers' if loader else 'the batch'}", training=True)
    with pytest.raises(kind, match=message):
        train(error, tmp_path, resumed, advise)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match="No space left") as full:
        train(OSError(28, "No space left on device"), tmp_path)
    assert full.value.filename == str(tmp_path)


def test_a_stop_that_was_asked_for_stays_a_stop_where_files_cannot_be_written_any_more(tmp_path, capsys):
    """The folder was moved between the signal and the end of the step, or the disk is full."""
    stop = train(FileNotFoundError(2, "No such file", "events"), tmp_path, asked=signal.SIGTERM)
    assert isinstance(stop, Stopped)
    assert stop.signal == signal.SIGTERM
    assert "could not be saved: [Errno 2] No such file: 'events'" in capsys.readouterr().err


def test_a_stop_that_has_ended_a_process_that_loads_data_too_is_no_lack_of_memory(tmp_path, capsys):
    """The signal came between the process's start and the moment from which it leaves signals to its parent."""
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated")
    advise = enough_memory_or(lambda loader: "Lower it", training=True)
    stop = train(killed, tmp_path, False, advise, asked=signal.SIGTERM)
    assert isinstance(stop, Stopped)
    assert stop.signal == signal.SIGTERM
    assert "could not be saved: the signal has ended a process that loads data" in capsys.readouterr().err


def test_contexts_surround_the_training_in_their_order(tmp_path):
    said = []

    @contextmanager
    def saying(name):
        said.append(name)
        try:
            yield
        finally:
            said.append(name)

    train(Stopped(signal.SIGINT), tmp_path, False, saying("outer"), saying("inner"))
    assert said == ["outer", "inner", "inner", "outer"]


def test_a_log_that_cannot_be_written_is_told_at_the_end_of_a_training_alone(tmp_path, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    log = TrainingLog(tmp_path / "log", name="", version="")
    log.log_metrics({"loss": 1.0}, step=0)
    with monkeypatch.context() as patch:
        patch.setattr(log.experiment, "flush", full)
        log.finalize("failed")
        with pytest.raises(OSError, match="No space left"):
            log.finalize("success")
    log.finalize("success")


def test_a_signal_while_the_training_is_put_away_waits_until_it_has(tmp_path):
    """Lightning ends its loaders after the callbacks' last words: an exception there would break that off."""
    stop = StopGracefully(tmp_path / "last.ckpt")
    before = signal.getsignal(signal.SIGUSR1)
    put_away = []

    def fit(model, data, ckpt_path, weights_only):
        stop.on_train_start(trainer, model)
        stop.on_train_end(trainer, model)
        stop.teardown(trainer, model, "fit")
        signal.raise_signal(signal.SIGUSR1)
        put_away.append(True)

    trainer: Any = SimpleNamespace(fit=fit, callbacks=[stop], world_size=1)
    stopped = train_until_stopped(trainer, None, None, tmp_path, None)  # type: ignore[arg-type]
    assert put_away
    assert isinstance(stopped, Stopped)
    assert stopped.signal == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == before
