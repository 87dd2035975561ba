"""A cross-validation on a real SLURM: an array that trains the folds, and a job that gathers them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.images import TINY, write_images
from tests.builders.waiting import wait_until
from tests.cluster.slurm.real import ENDED, SCRIPTS

FOLDS = 2


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 60, per_patient=2)


def test_an_array_trains_the_folds_and_a_later_job_gathers_them(slurm, images, tmp_path):
    """A fold is stopped on the way, and goes on."""
    words = [f"--data.table={images}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY]
    words += ["--data.num_workers=1", "--trainer.max_epochs=4", "--report=false"]
    script = SCRIPTS / "crossval.sbatch"
    array = slurm.submit(tmp_path, f"--array=0-{FOLDS - 1}", script, "cv", "--folds", FOLDS, *words)
    gathering = slurm.submit(tmp_path, f"--dependency=afterok:{array.number}", script, "cv")
    first = Path(tmp_path / f"medsoft-crossval-{array.number}_0.out")
    wait_until(lambda: (first.is_file() and "epoch 1/4" in first.read_text()) or gathering.state in ENDED)
    assert slurm.call("scancel", "--signal=USR1", f"{array.number}_0").returncode == 0
    assert gathering.wait() == "COMPLETED", "".join(file.read_text() for file in tmp_path.glob("*.out"))
    names = sorted(file.name for file in tmp_path.glob("*.out"))
    assert names == sorted(
        [*(f"medsoft-crossval-{array.number}_{fold}.out" for fold in range(FOLDS)),
         f"medsoft-crossval-{gathering.number}.out"]
    )  # fmt: skip
    assert "asking for another run" in first.read_text()
    assert not [file for file in tmp_path.glob("*.out") if "Traceback" in file.read_text()]
    assert (tmp_path / "cv" / "predictions.csv").is_file()
