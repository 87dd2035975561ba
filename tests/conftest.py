"""Tiny sets of images, and command lines run in this process (importing torch anew for each would take minutes)."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from medsoft.system import progress
from tests.builders.images import SHARED_DATA, TINY, write_images

# The same examples in every run, and none that fails because the machine is busy.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("tests")


def _same_draws() -> None:
    import torch  # even where the test would be the first to import it: torch begins with a seed of its own each time

    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # torch.manual_seed writes down the whole stack for each kind of device


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: a file that takes longer than most, and is begun before them")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """What is imported stays: to search it for garbage again and again took a twelfth of all time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: the last ones to be handed out are short, and all processes end at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _same_draws()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """A test draws the same from the global generators, whichever tests ran before it in this process."""
    _same_draws()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """And so does what several tests share, whichever of them is the first."""
    if fixturedef.scope != "function":
        _same_draws()
    return (yield)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # On a busy machine any step may be a long one, whose line would stand among what a test compares.
    monkeypatch.setattr(progress, "FIRST_SECONDS", 3600.0)


@pytest.fixture(autouse=True, scope="session")
def _few_draws() -> Iterator[None]:
    """Runs end with intervals of 100 draws in place of 500, a tenth of what a run of a tiny model takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medsoft.workflows.run_report.DRAWS", 100)
        yield


@pytest.fixture
def shared_data() -> Path:
    """Real images, where the machine has them."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is not on this machine (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """40 images of two classes, two a patient."""
    return write_images(tmp_path_factory.mktemp("binary"), 40, per_patient=2)


RUNS = ("fit", "validate", "test", "predict", "crossval")


@pytest.fixture
def medsoft(capfd):
    """Run a command line in this process; gives (exit code, standard output, standard error).

    The report and the figures take longer than all else that a run of a tiny model does: tests that are about them say
    ``--report=true`` and ``--figures=true``.
    """
    from medsoft.cli.main import main

    def run(*words: object) -> tuple[int, str, str]:
        given = [str(word) for word in words]
        for made in ("--report", "--figures"):
            if given and given[0] in RUNS and not any(word.startswith((made, "--resume", "--help")) for word in given):
                given.insert(1, f"{made}=false")
        capfd.readouterr()
        code = main(given)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def brief_reports() -> Iterator[None]:
    """For modules that read what stands around the charts and the intervals of a report, which take longest.

    The charts are empty, and ``crossval`` and ``auto`` take 100 draws of the bootstrap in place of 2,000.
    """
    from medsoft.evaluation.evaluate import evaluate_table
    from medsoft.evaluation.report.figures import Figures, PageFigure
    from medsoft.evaluation.settings import Settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figures, "_figure", lambda self, chart, panel, size: PageFigure(panel.name, "<svg></svg>"))
        evaluate = partial(evaluate_table, settings=Settings(draws=100))
        patch.setattr("medsoft.workflows.crossval_results.evaluate_table", evaluate)
        patch.setattr("medsoft.workflows.plans.report.DRAWS", 100)
        yield


@pytest.fixture
def fit(medsoft, table):
    """``medsoft fit`` of a tiny model on the tiny table, into ``out``."""

    def run(*words: object, on: Path = table, label: str = "label", code: int = 0) -> tuple[str, str]:
        labels = ["--data.classes=[dark, light]"] if label == "label" and on == table else []
        got, out, err = medsoft(
            "fit", f"--data.table={on}", f"--data.label={label}", *labels, "--data.patient=patient", *TINY, *words
        )
        assert got == code, (got, out[-2000:], err[-2000:])
        return out, err

    return run


os.environ.setdefault("OMP_NUM_THREADS", "1")
