"""Signals that ask for a stop: answered while a block runs, and as before after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from medsoft.cluster.client import Cluster
from medsoft.cluster.options import ClusterSettings, Workers
from medsoft.slides.folder import SlidesFolder
from medsoft.system.signals import STOPPING, Stopped, on_signals
from tests.builders.waiting import LIMIT_SECONDS


def handlers():
    return [signal.getsignal(number) for number in STOPPING]


def test_each_signal_is_answered_while_the_block_runs():
    before, came = handlers(), []
    with on_signals(STOPPING, came.append):
        for number in STOPPING:
            os.kill(os.getpid(), number)
    assert came == list(STOPPING)
    assert handlers() == before


def test_what_is_raised_ends_the_block_and_the_handlers_come_back():
    def stop(number: int) -> None:
        raise Stopped(number, "one of two was done")

    before = handlers()
    caught = suppress(Exception, KeyboardInterrupt)  # as around single samples, and by Lightning
    with pytest.raises(Stopped, match="one of two was done") as stopped, on_signals(STOPPING, stop), caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.signal == signal.SIGTERM
    assert handlers() == before
    assert str(Stopped(signal.SIGUSR1)) == "SIGUSR1"


def test_the_innermost_block_answers():
    outer, inner = [], []
    with on_signals([signal.SIGUSR1], outer.append):
        with on_signals([signal.SIGUSR1], inner.append):
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert (outer, inner) == ([signal.SIGUSR1], [signal.SIGUSR1])


def test_a_signal_that_cannot_be_answered_leaves_the_others_as_they_were():
    before = handlers()
    with pytest.raises(OSError, match="Invalid argument"), on_signals([signal.SIGUSR1, signal.SIGKILL], print):
        pytest.fail("the block must not begin")
    assert handlers() == before


def test_a_handler_that_somebody_else_has_set_meanwhile_stays():
    """Lightning gives back the handlers of before a training ahead of its callbacks' end."""
    before = signal.getsignal(signal.SIGTERM)
    others = signal.signal(signal.SIGTERM, print)  # as Lightning sets its own, then the callback's block begins
    with on_signals([signal.SIGTERM], print):
        signal.signal(signal.SIGTERM, others)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_forked_process_leaves_the_answer_to_its_parent():
    came = []
    with on_signals(STOPPING, came.append):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(len(came))  # not reached: SIGTERM ends it
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert came == []


def test_a_process_that_works_for_its_parent_leaves_stops_to_it_and_ends_with_it():
    """As SLURM does it: a signal to every process; and as PyTorch does it at the end, to its own alone."""
    program = """
import os, signal, subprocess, sys, time
from medsoft.system.signals import leave_stops_to_parent
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda *_: None)  # before the child says that it has begun
child = os.fork()
if child == 0:
    leave_stops_to_parent()
    print("begun", flush=True)
    while True:
        if sys.stdin.readline():
            print("works", flush=True)
        else:
            time.sleep(60)
signal.sigwait({signal.SIGUSR2})  # a handler could come just before waitpid, and wait for its end
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
print("ended with", os.waitstatus_to_exitcode(status), flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        os.killpg(process.pid, number)
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "works\n"
    process.send_signal(signal.SIGUSR2)
    out, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert out == "ended with 0\n"


def test_outside_of_the_main_thread_nothing_changes():
    seen = []

    def work() -> None:
        with on_signals(STOPPING, print):
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handlers()]


@pytest.fixture
def nobody_answers_sigterm():
    """A library that another test used may have left a handler of its own."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@pytest.mark.usefixtures("nobody_answers_sigterm")
def test_sigterm_ends_work_on_a_cluster_between_its_steps(tmp_path: Path):
    """Without a bar that answers it, SIGTERM would leave the workers behind."""
    workers = Workers("local", None, ClusterSettings())
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # trainings of other tests leave Lightning's
    try:
        with pytest.raises(Stopped, match="finished work is kept"), Cluster(workers, SlidesFolder(tmp_path)):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_who_answers_sigterm_already_goes_on_doing_so(tmp_path: Path):
    came: list[int] = []
    workers = Workers("local", None, ClusterSettings())
    with on_signals([signal.SIGTERM], came.append), Cluster(workers, SlidesFolder(tmp_path)):
        os.kill(os.getpid(), signal.SIGTERM)
    assert came == [signal.SIGTERM]


def test_signals_are_handled_in_one_place():
    """The handlers of a process are set nowhere else, so that none of them is left behind."""
    root = Path(__file__).parents[2] / "medsoft"
    assert [path.name for path in root.rglob("*.py") if "signal.signal(" in path.read_text()] == ["signals.py"]


@pytest.mark.parametrize("number", STOPPING)
def test_an_answer_reaches_a_process_that_waits(number):
    program = """
import signal, sys, time
from medsoft.system.signals import STOPPING, Stopped, on_signals
def stop(number):
    raise Stopped(number, "stopped in order")
try:
    with on_signals(STOPPING, stop):
        print("ready", flush=True)
        time.sleep(3600)
except Stopped as stopped:
    print(stopped)
    sys.exit(128 + stopped.signal)
"""
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, out) == (128 + number, "stopped in order\n")


def test_a_parent_that_leaves_while_a_sample_is_handed_over_is_no_error_of_the_loader():
    """Multiprocessing hands files over in a thread of its own; other errors of that thread are told."""
    code = """
import os, socket, sys
from multiprocessing import resource_sharer
from medsoft.system.loader_processes import report_error
sys.excepthook = report_error
handed = resource_sharer.DupFd(os.open(os.devnull, os.O_RDONLY))
for _ in range(3):
    plug = socket.socket(socket.AF_UNIX)
    plug.connect(handed._id[0])
    plug.close()
resource_sharer.stop(timeout=60)
try:
    raise ValueError("something else")
except ValueError:
    sys.excepthook(*sys.exc_info())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert done.stderr.endswith("ValueError: something else\n")
