"""What makes a test fail now and then, where its text shows it: such tests are not written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))
GENERATORS = {"default_rng", "RandomState", "Random", "Generator", "SeedSequence", "PCG64", "MT19937", "Philox"}
CLOCKS = {"time.time", "time.time_ns", "time.monotonic", "time.perf_counter"}
EXCEPT = {"builders/waiting.py", "project/test_tests.py"}
PORT = re.compile(r"(?:127\.0\.0\.1|localhost|0\.0\.0\.0):(\d+)")
SHORT_SECONDS = 1
"""Less is no limit but a look: whether something has not happened yet."""
NOBODY_LISTENS = 9
"""Port 0 lets the system choose, and at the first few no program waits."""


def called(node: ast.AST) -> str:
    """The last name of what is called, such as "default_rng"."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def makes_generator(node: ast.AST | None) -> bool:
    """Whether the value is a generator, seeded in the same expression or not; what it draws is none."""
    if called(node) == "manual_seed":
        node = node.func.value
    return called(node) in GENERATORS


def kept(tree: ast.AST) -> Iterator[ast.AST | None]:
    """The values that a file keeps once it is imported: variables of modules and classes, and defaults of arguments."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from (*node.args.defaults, *node.args.kw_defaults)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            yield node.value
        else:
            yield from kept(node)


def fault(node: ast.AST) -> str:
    """Why this part of a test makes it depend on the time, on chance or on what else the machine does; or ""."""
    if called(node) == "default_rng" and not node.args and not node.keywords:
        return "a generator without a seed"
    if called(node) == "active_count":
        return "counts threads, among which are those that other tests left"
    if isinstance(node, ast.Assert | ast.While) and {ast.unparse(one) for one in ast.walk(node)} & CLOCKS:
        return "asserts how long something takes, or waits with a limit of its own: take wait_until of tests.builders"
    if isinstance(node, ast.keyword) and node.arg == "deadline" and ast.unparse(node.value) != "None":
        return "a deadline"
    if isinstance(node, ast.keyword) and node.arg == "timeout" and isinstance(node.value, ast.Constant):
        return "a time limit that a busy machine may miss: take LIMIT_SECONDS of tests.builders.waiting"
    if called(node) in ("wait", "join"):
        limit = [one.value for one in node.args if isinstance(one, ast.Constant)]
        if limit and isinstance(limit[0], int | float) and limit[0] >= SHORT_SECONDS:
            return "a time limit that a busy machine may miss: take LIMIT_SECONDS of tests.builders.waiting"
    if called(node) == "setattr" and [ast.unparse(one) for one in node.args[:1]] == ["time"]:
        return "changes the clock of threads that other tests left too: replace the name in the module that is tested"
    if isinstance(node, ast.Constant) and str(node.value).startswith(("/tmp/", "/var/tmp/")):
        return "a file that all runs on this machine share: take tmp_path"
    if isinstance(node, ast.Constant) and any(int(port) > NOBODY_LISTENS for port in PORT.findall(str(node.value))):
        return "a port that may be taken"
    return ""


def faults(source: str) -> list[str]:
    """Lines by which tests depend on other tests, on the time, or on what else the machine does."""
    tree = ast.parse(source)
    found = [(node.lineno, why) for node in ast.walk(tree) if (why := fault(node))]
    found += [
        (value.lineno, "a generator that tests share: each draws what those before it left")
        for value in kept(tree)
        if makes_generator(value)
    ]
    return [f"line {line}: {why}" for line, why in sorted(found)]


@pytest.mark.parametrize(
    "line",
    [
        "RNG = np.random.default_rng(0)",
        "RNG: np.random.Generator = default_rng(0)",
        "random_numbers = random.Random(3)",
        "G = torch.Generator().manual_seed(0)",
        "class Test:\n    rng = np.random.RandomState(0)",
        "def draw(rng=np.random.default_rng(0)):\n    return rng.random()",
        "def test():\n    rng = np.random.default_rng()",
        "def test():\n    assert time.monotonic() - start < 10",
        "def test():\n    while time.time() < end and not there():\n        look()",
        "def test():\n    process.wait(timeout=60)",
        "def test():\n    assert wrote.wait(30)",
        "def test(monkeypatch):\n    monkeypatch.setattr(time, 'monotonic', lambda: 0.0)",
        "@settings(deadline=200)\ndef test(): pass",
        "def test():\n    assert threading.active_count() == 3",
        'def test():\n    Path("/tmp/a").touch()',
        'def test():\n    serve("127.0.0.1:8787")',
    ],
)
def test_what_fails_now_and_then_is_found(line):
    assert len(faults(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3))",
        "X = torch.randn(3, generator=torch.Generator().manual_seed(0))",
        "def test():\n    rng = np.random.default_rng(0)",
        "def test():\n    os.utime(file, (time.time() - 60,) * 2)",
        "def test():\n    process.wait(timeout=LIMIT_SECONDS)",
        "def test():\n    assert not wrote.wait(0.05)",
        "def test():\n    ', '.join('ab')",
        "@settings(max_examples=3, deadline=None)\ndef test(): pass",
        'def test():\n    connect("127.0.0.1:0", "tcp://127.0.0.1:1")',
    ],
)
def test_what_is_the_same_in_every_run_is_no_fault(line):
    assert faults(line) == []


def test_no_test_depends_on_other_tests_or_on_how_busy_the_machine_is():
    found = {str(file.relative_to(TESTS)): faults(file.read_text(encoding="utf-8")) for file in FILES}
    assert not {file: what for file, what in found.items() if what and file not in EXCEPT}


def test_hypothesis_tries_the_same_examples_in_every_run_however_long_one_takes():
    assert settings.default is not None
    assert (settings.default.derandomize, settings.default.deadline) == (True, None)


def test_the_global_generators_begin_alike_in_every_test():
    import random

    import numpy as np
    import torch

    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())
