"""Plugin of ``scripts/test``: which tests failed, so that they can be run once more by themselves.

The variables are set by the script: ``MEDSOFT_FAILED_TESTS`` names the file that the first run writes, with one test a
line; ``MEDSOFT_ONLY_TESTS`` names the file with the tests that the second run is for.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class Failed:
    """Notes the tests that failed, in their set-up and tear-down too."""

    def __init__(self, file: Path) -> None:
        self.file, self.tests, self.uncollected = file, dict[str, None](), False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tests[report.nodeid] = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.uncollected |= report.failed

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """A run that was interrupted, or that could not collect a file, leaves no file: it cannot be forgiven."""
        complete = not (self.uncollected or session.shouldfail or session.shouldstop)
        if exitstatus == pytest.ExitCode.TESTS_FAILED and complete:
            self.file.write_text("".join(f"{test}\n" for test in self.tests), encoding="utf-8")


class Only:
    """Leaves out all tests but some."""

    def __init__(self, file: Path) -> None:
        self.tests = set(file.read_text(encoding="utf-8").splitlines())

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        others = [item for item in items if item.nodeid not in self.tests]
        items[:] = [item for item in items if item.nodeid in self.tests]
        config.hook.pytest_deselected(items=others)
        if missing := self.tests - {item.nodeid for item in items}:
            raise pytest.UsageError(f"these tests failed and were not found again: {', '.join(sorted(missing))}")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # the process that hands out the tests hears of all of them
        return
    if file := os.environ.pop("MEDSOFT_FAILED_TESTS", ""):
        config.pluginmanager.register(Failed(Path(file)))
    if file := os.environ.pop("MEDSOFT_ONLY_TESTS", ""):
        config.pluginmanager.register(Only(Path(file)))
