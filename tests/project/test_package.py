"""The wheel holds all that medsoft needs, and works without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the wheel was unpacked, as an installation does."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "medsoft", source / "medsoft", ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def medsoft(installed: Path, folder: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "medsoft", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_package_is_in_the_wheel(installed):
    there = {file.relative_to(ROOT) for file in (ROOT / "medsoft").rglob("*") if file.is_file()}
    there |= {Path("medsoft/configs") / file.name for file in (ROOT / "configs").glob("*.yaml")}
    missing = [file for file in there if "__pycache__" not in file.parts and not (installed / file).is_file()]
    assert not missing, "package-data in pyproject.toml leaves them out"


def test_an_installation_works_without_the_repository(installed, tmp_path):
    where = "import medsoft, sys; sys.stdout.write(medsoft.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-P", "-c", where], env=environment, capture_output=True, text=True)
    assert Path(found.stdout).is_relative_to(installed)
    medsoft(installed, tmp_path, "data", "phantom", "fundus", "--n=12", "--out=eyes")
    words = ["--config=fundus", "--data.table=eyes/labels.csv", "--data.positive=lesions", "--transforms.size=32"]
    said = medsoft(installed, tmp_path, "fit", *words, "--trainer.max_epochs=1", "--figures=false", "--out=run")
    assert "Results: " in said
    assert "efficientnet-lite0" in said, "the recipes are there"
    assert (tmp_path / "run" / "report.html").is_file()
