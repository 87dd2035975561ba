"""One SLURM for all tests of this folder, which take minutes: ``scripts/test_cluster`` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.slurm.real import Slurm, skip_without_slurm, tracebacks

if os.environ.get("MEDSOFT_TEST_CLUSTER") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    skip_without_slurm()
    with Slurm(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster
    assert tracebacks(tmp_path_factory.getbasetemp()) == {}


@pytest.fixture(autouse=True)
def _no_traceback_in_any_log(tmp_path) -> Iterator[None]:
    """Whatever happened to a job: what it and its commands have written tells users what, not where in the code."""
    yield
    assert tracebacks(tmp_path) == {}
