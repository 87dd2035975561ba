"""How far a step has come: in lines for a file, in a bar on a terminal, in events for machines."""

import io
import json
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from medsoft.system import progress as module
from medsoft.system.logging import log_events
from medsoft.system.progress import Pace, in_words, progress, progress_bar, progress_line, tracked
from tests.builders.waiting import LIMIT_SECONDS


class Lines(io.StringIO):
    """A stream that tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.wrote = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        self.wrote.set()
        return written


@pytest.fixture
def stream(monkeypatch):
    """What is said of a step that is told of at once, whatever step another test has left open."""
    lines = Lines()
    monkeypatch.setattr(module, "_under_way", threading.Lock())
    monkeypatch.setattr(module, "_say", lambda line: lines.write(f"{line}\n"))
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(module, "LINE_SECONDS", 0.001)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 0.0))  # however slow the machine
    return lines


def test_a_line_says_what_is_done_and_what_is_left():
    assert progress_line("reading", 0, 40, 3) == "reading: 0 of 40"
    assert progress_line("reading", 10, 40, 30) == "reading: 10 of 40, about 90 s left"
    assert progress_line("reading", 10, 40, 600) == "reading: 10 of 40, about 30 min left"
    assert progress_line("drawing", 0, None, 75) == "drawing: 75 s so far"
    assert [in_words(n) for n in (0.4, 119, 120, 7199, 7200)] == ["0 s", "119 s", "2 min", "120 min", "2 h"]


def test_a_step_in_one_piece_is_not_silent(stream):
    with progress("drawing figures"):
        assert stream.wrote.wait(LIMIT_SECONDS)
    assert stream.getvalue().startswith("drawing figures: 0 s so far\n")


def test_parts_are_counted_from_several_threads(stream):
    with progress("reading pictures", 8) as step:
        threads = [threading.Thread(target=step) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stream.wrote.clear()
        assert stream.wrote.wait(LIMIT_SECONDS)
    assert "reading pictures: 4 of 8, about 0 s left\n" in stream.getvalue()


def test_a_short_step_says_nothing(capfd):
    with progress("reading pictures", 2) as step:
        step()
    assert list(tracked("ab", "reading", 2)) == ["a", "b"]
    assert capfd.readouterr() == ("", "")


def test_a_step_within_another_is_part_of_it(stream):
    with progress("outer"), progress("inner", 3) as step:
        step()
        assert stream.wrote.wait(LIMIT_SECONDS)
    assert "inner" not in stream.getvalue()


def test_a_step_that_is_never_ended_does_not_spoil_the_next_test(stream, monkeypatch):
    left_open = tracked("ab", "reading", 2)
    next(left_open)
    monkeypatch.setattr(module, "_under_way", threading.Lock())
    with progress("the next"):
        left_open.close()
        assert stream.wrote.wait(LIMIT_SECONDS)


def test_a_step_that_fails_ends_all_the_same(stream):
    with pytest.raises(ValueError, match="broken"), progress("reading"):
        raise ValueError("broken")
    with progress("the next"):
        assert stream.wrote.wait(LIMIT_SECONDS)


def test_of_several_processes_the_first_speaks(stream, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with progress("reading"):
        assert not stream.wrote.wait(0.05)


def test_machines_are_told_of_a_long_step(tmp_path, stream):
    with log_events("fit", "json", str(tmp_path / "log")), progress("reading pictures", 5):
        assert stream.wrote.wait(LIMIT_SECONDS)
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (step,) = [event for event in events if event["event"] == "step"]
    assert (step["doing"], step["total"]) == ("reading pictures", 5)
    assert step["seconds"] >= 0


def test_a_terminal_gets_a_bar_and_a_file_none():
    for terminal in (True, False):
        stream = io.StringIO()
        with progress_bar(Console(file=stream, force_terminal=terminal, width=100)) as bar:
            bar.add_task("reading pictures", total=8, completed=2)
            bar.refresh()
        assert ("reading pictures" in stream.getvalue()) == terminal
        assert ("2/8" in stream.getvalue()) == terminal


def test_lines_within_an_epoch_are_sparse(monkeypatch):
    monkeypatch.setattr(module, "FIRST_SECONDS", 2.0)
    clock = iter([0.0, 1.0, 2.5, 10.0, 32.0, 40.0])
    # In this module alone: threads that other tests left ask the real one.
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    pace = Pace()
    lines = [pace.line("epoch 1", done, 100) for done in (1, 5, 20, 64, 70)]
    assert lines == [None, "epoch 1: 5 of 100, about 48 s left", None, None, "epoch 1: 70 of 100, about 17 s left"]
