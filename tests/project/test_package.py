"""The wheel holds all that medsoft needs. That it works without the repository is tested in test_offline.py."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_file_of_the_package_is_in_the_wheel(installed):
    there = {file.relative_to(ROOT) for file in (ROOT / "medsoft").rglob("*") if file.is_file()}
    there |= {Path("medsoft/configs") / file.name for file in (ROOT / "configs").glob("*.yaml")}
    missing = [file for file in there if "__pycache__" not in file.parts and not (installed / file).is_file()]
    assert not missing, "package-data in pyproject.toml leaves them out"
