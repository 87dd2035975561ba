"""Which runs of the tests are forgiven: those in which all tests ran, and what failed is named."""

from types import SimpleNamespace

import pytest

from tests.again import Failed, Only


def report(test: str = "", failed: bool = True) -> SimpleNamespace:
    return SimpleNamespace(nodeid=test, failed=failed)


@pytest.mark.parametrize(
    ("code", "uncollected", "stopped", "forgiven"),
    [(1, False, False, True), (1, True, False, False), (1, False, "-x", False), (2, False, False, False)],
    ids=["tests failed", "a file was not collected", "stopped at the first", "interrupted"],
)
def test_only_a_whole_run_names_its_failures(tmp_path, code, uncollected, stopped, forgiven):
    failed = Failed(tmp_path / "failed")
    failed.pytest_collectreport(report(failed=uncollected))
    for one in (report("a.py::one[x y]"), report("a.py::good", failed=False), report("a.py::two")):
        failed.pytest_runtest_logreport(one)
    failed.pytest_runtest_logreport(report("a.py::two"))  # in its tear-down too
    failed.pytest_sessionfinish(SimpleNamespace(shouldfail=stopped, shouldstop=False), code)
    assert failed.file.exists() == forgiven
    if forgiven:
        assert failed.file.read_text() == "a.py::one[x y]\na.py::two\n"


def test_the_second_run_is_of_those_tests_alone_and_of_all_of_them(tmp_path):
    (tmp_path / "failed").write_text("a.py::one[x y]\na.py::two\n")
    left = []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: left.extend(items)))
    items = [SimpleNamespace(nodeid=name) for name in ("a.py::one[x y]", "a.py::good", "a.py::two")]
    Only(tmp_path / "failed").pytest_collection_modifyitems(config, items)
    assert [item.nodeid for item in items] == ["a.py::one[x y]", "a.py::two"]
    assert [item.nodeid for item in left] == ["a.py::good"]
    with pytest.raises(pytest.UsageError, match=r"not found again: a\.py::two"):
        Only(tmp_path / "failed").pytest_collection_modifyitems(config, items[:1])
