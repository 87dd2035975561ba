"""The conda recipe asks for what pyproject.toml asks for."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import medsoft

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPE = yaml.safe_load((ROOT / "docker" / "conda" / "recipe.yaml").read_text())
NAMES = {
    "torch": "pytorch",
    "opencv-python-headless": "py-opencv",
    "openslide-bin": "openslide",
    "matplotlib": "matplotlib-base",
    "dask": "dask-core",
}
"""What conda-forge calls packages otherwise."""
OF_EXTRAS = {"docstring_parser", "typeshed_client"}
"""Of jsonargparse[signatures]; conda has no extras."""


def of_recipe(lines: list[str]) -> dict[str, SpecifierSet]:
    parts = [line.partition(" ") for line in lines]
    return {name: SpecifierSet(versions) for name, _, versions in parts if name != "python"}


def differing(asked: list[str], lines: list[str]) -> set[str]:
    """Names of requirements that only one side has, or that the two state otherwise."""
    wanted = {NAMES.get(one.name, one.name): one.specifier for one in map(Requirement, asked)}
    found = {name: versions for name, versions in of_recipe(lines).items() if name not in OF_EXTRAS}
    return {name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)}


def test_versions_are_those_of_the_project():
    assert not differing(PROJECT["dependencies"], RECIPE["requirements"]["run"])
    assert RECIPE["context"]["version"] == medsoft.__version__
    assert SpecifierSet(f">={RECIPE['context']['python_min']}") == SpecifierSet(PROJECT["requires-python"])
    assert RECIPE["about"]["license"] == PROJECT["license"]
    (entry,) = RECIPE["build"]["python"]["entry_points"]
    name, target = entry.split(" = ")
    assert PROJECT["scripts"] == {name: target}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert not differing(build, [line for line in RECIPE["requirements"]["host"] if line != "pip"])


@pytest.mark.parametrize(
    ("asked", "lines", "names"),
    [
        (["torch>=2.8"], ["pytorch >=2.7"], {"pytorch"}),
        (["torch>=2.8", "rich>=13"], ["pytorch >=2.8"], {"rich"}),
        (["rich>=13"], ["rich >=13", "numpy >=2"], {"numpy"}),
        (["rich>=13,<15"], ["rich <15,>=13"], set()),
    ],
)
def test_a_difference_would_be_found(asked, lines, names):
    assert differing(asked, lines) == names
