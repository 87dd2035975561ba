"""What a report calls a run that nobody has named."""

from pathlib import Path

import pytest

from medsoft.evaluation.report.run import RunFacts


@pytest.mark.parametrize(
    ("given", "folder", "table", "name"),
    [
        ("fundus", "runs/left_eyes", "labels.csv", "fundus"),
        ("run", "runs/left_eyes", "labels.csv", "left_eyes"),
        (None, "runs/left_eyes", "", "left_eyes"),
        ("run", "runs/run-auto/2026-11-30_19-26-16", "labels.csv", "labels"),
        ("run", "runs/run-auto/2026-11-30_19-26-16", "", "2026-11-30_19-26-16"),
    ],
)
def test_a_run_is_called_by_its_name_its_folder_or_its_table(given, folder, table, name):
    assert RunFacts(Path(folder), {"name": given}, facts={"data": {"table": table}}).name == name
