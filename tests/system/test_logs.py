"""Events for machines: a line of JSON each, whole whoever writes, and nothing anywhere else."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsoft.system.logging import EVENTS, EventHandler, JsonFormatter, event, log_events

ROOM = {"time", "level", "event", "verb", "run"}
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
FIELDS = st.dictionaries(st.text(min_size=1).filter(lambda name: name not in ROOM), VALUES, max_size=5)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@given(st.text(), st.sampled_from(["info", "warning", "error"]), FIELDS)
def test_a_line_is_read_back_as_it_was_logged(name, level, fields):
    before = datetime.now(UTC)
    record = EVENTS.makeRecord("", getattr(logging, level.upper()), "", 0, name, (), None, extra={"fields": fields})
    text = JsonFormatter("fit").format(record)
    assert text.isprintable()  # one line, in ASCII
    assert text.isascii()
    line = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert list(line)[:5] == ["time", "level", "event", "verb", "run"]
    assert (line["level"], line["event"], line["verb"]) == (level, name, "fit")
    told = datetime.fromisoformat(line["time"])
    assert before - timedelta(milliseconds=1) <= told <= datetime.now(UTC), "told in whole milliseconds"
    for field, value in fields.items():
        lost = isinstance(value, float) and not math.isfinite(value)
        assert line[field] == (None if lost else value)


def test_a_call_has_a_first_and_a_last_line_and_a_word_of_its_own(tmp_path):
    log = tmp_path / "log"
    for verb, code in (("fit", 0), ("predict", 2)):
        with log_events(verb, "json", str(log)) as end:
            event("epoch", epoch=1.0)
            end(code)
    lines = read(log)
    assert [line["event"] for line in lines] == ["start", "epoch", "end"] * 2
    assert [line["level"] for line in lines] == ["info", "info", "info", "info", "info", "error"]
    assert len({line["run"] for line in lines[:3]}) == len({line["run"] for line in lines[3:]}) == 1
    assert lines[0]["run"] != lines[3]["run"]


def test_an_error_that_was_not_foreseen_is_logged_by_its_type_alone(tmp_path):
    with pytest.raises(ValueError, match="Jane"), log_events("fit", "json", str(tmp_path / "log")):
        raise ValueError("Jane Doe")
    assert "Jane" not in (tmp_path / "log").read_text()
    assert (read(tmp_path / "log")[-1]["error"], read(tmp_path / "log")[-1]["code"]) == ("ValueError", 1)


def test_lines_of_several_threads_stay_whole(tmp_path):
    def work(number: int) -> None:
        for count in range(50):
            event("slide", number=number, count=count, words="x" * 500)

    with log_events("fit", "json", str(tmp_path / "log")):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = [line for line in read(tmp_path / "log") if line["event"] == "slide"]
    assert sorted((line["number"], line["count"]) for line in lines) == [(n, c) for n in range(4) for c in range(50)]


def test_without_a_log_nothing_is_said(capfd):
    event("disk may fill", "error", free=0)
    assert capfd.readouterr() == ("", "")


def test_messages_of_others_stay_out_and_events_stay_in(tmp_path):
    others = io.StringIO()
    handler = logging.StreamHandler(others)
    logging.getLogger().addHandler(handler)
    try:
        with log_events("fit", "json", str(tmp_path / "log")) as end:
            logging.getLogger("lightning").error("Jane Doe")
            end(1)
    finally:
        logging.getLogger().removeHandler(handler)
    assert others.getvalue() == "Jane Doe\n"
    assert [line["event"] for line in read(tmp_path / "log")] == ["start", "end"]


def test_a_warning_is_logged_by_its_category(tmp_path, monkeypatch):
    shown: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: shown.append(str(message)))
        with log_events("fit", "json", str(tmp_path / "log")) as end:
            warnings.warn("Jane Doe", FutureWarning, stacklevel=1)
            end(0)
    assert shown == ["Jane Doe"]
    assert [line.get("category") for line in read(tmp_path / "log")] == [None, "FutureWarning", None]


def test_a_log_that_cannot_be_written_ends_the_work():
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    with pytest.raises(OSError, match="No space left"), log_events("fit", "json", "/dev/full"):
        pytest.fail("went on")
    event("epoch")  # goes nowhere
    assert not [handler for handler in EVENTS.handlers if isinstance(handler, EventHandler)]


def test_on_standard_error_events_are_alone(capsys):
    with log_events("fit", "json", None) as end:
        print("for people", file=sys.stderr)
        end(0)
    out, err = capsys.readouterr()
    assert out == "for people\n"
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["start", "end"]
