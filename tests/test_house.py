"""Who may import whom, read from the source: the rooms of the house and the doors between them."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "medsoft"
FOYER = {"medsoft", "medsoft.errors", "medsoft.files", "medsoft.logs", "medsoft.task", "medsoft.weights_folder"}
"""What every room may use: it knows of no room."""

MAY_IMPORT = {
    "ops": {"medsoft.ops"},
    "layers": {"medsoft.layers", "medsoft.ops"},
    "models": {"medsoft.models", "medsoft.layers", "medsoft.ops"},
    "data": {"medsoft.data", "medsoft.parsing"},
    "slides": {"medsoft.slides", "medsoft.data", "medsoft.evaluation", "medsoft.parsing"},
    "evaluation": {"medsoft.evaluation", "medsoft.parsing"},
    "deploy": {
        "medsoft.deploy",
        "medsoft.models",
        "medsoft.learn",
        "medsoft.slides",
        "medsoft.data",
        "medsoft.evaluation",
        "medsoft.parsing",
    },
    "benchmark": {
        "medsoft.benchmark",
        "medsoft.models",
        "medsoft.layers",
        "medsoft.slides",
        "medsoft.data",
        "medsoft.evaluation",
        "medsoft.parsing",
    },
    "learn": {"medsoft.learn", "medsoft.models", "medsoft.data", "medsoft.evaluation", "medsoft.parsing"},
}
HEAVY = {"torch", "torchvision", "lightning", "timm", "monai", "albumentations", "openslide", "matplotlib", "sklearn"}
HEAVY |= {"pydicom", "nibabel"}
LIGHT = {  # module -> what it may import when it is imported; the standard library always
    "medsoft": set(),
    "medsoft.cli": set(),
    "medsoft.errors": set(),
    "medsoft.files": set(),
    "medsoft.task": {"numpy"},
    "medsoft.parsing": {"jsonargparse"},
    "medsoft.data.verbs": set(),
    "medsoft.logs": set(),
    "medsoft.weights_folder": set(),
}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


def imports(file: Path, at_top_level: bool = False) -> set[str]:
    """Modules that a file imports: everywhere, or when it is imported itself (not for type checking alone)."""
    tree = ast.parse(file.read_text())
    nodes = list(ast.walk(tree))
    if at_top_level:
        nodes, rest = [], list(tree.body)
        while rest:
            node = rest.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            nodes.append(node)
            rest += list(ast.iter_child_nodes(node))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of_medsoft(found: set[str]) -> set[str]:
    """The modules of medsoft among the names that were imported (a name may be one of a function)."""
    return {name if name in MODULES else name.rpartition(".")[0] for name in found if name.split(".")[0] == "medsoft"}


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_the_imports_of_a_file_are_found(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport os.path\nif TYPE_CHECKING:\n    import torch\n"
        "try:\n    import cv2\nexcept ImportError:\n    pass\n"
        "def f():\n    from medsoft.data import table\n\nclass A:\n    import numpy as np\n"
    )
    assert {"torch", "cv2", "medsoft.data.table"} < imports(file)
    assert imports(file, at_top_level=True) == {"typing", "typing.TYPE_CHECKING", "os.path", "cv2", "numpy"}
    assert of_medsoft(imports(file)) == {"medsoft.data", "medsoft.data.table"}


def test_every_room_is_known():
    assert {folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()} == MAY_IMPORT.keys()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module):
    name = room(module).partition(".")[2]
    if name not in MAY_IMPORT:
        return
    doors = MAY_IMPORT[name] | FOYER
    used = {room(other) for other in of_medsoft(imports(MODULES[module]))}
    assert used <= doors, f"{module} imports {', '.join(sorted(used - doors))}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_the_command_line(module):
    if module != "medsoft.__main__":
        assert "medsoft.cli" not in of_medsoft(imports(MODULES[module]))


@pytest.mark.parametrize("module", sorted(FOYER))
def test_the_foyer_knows_of_no_room(module):
    assert of_medsoft(imports(MODULES[module])) <= FOYER


def test_evaluation_knows_no_model():
    for module, file in MODULES.items():
        if room(module) == "medsoft.evaluation":
            packages = {name.split(".")[0] for name in imports(file)}
            assert not packages & {"torch", "lightning", "timm", "monai", "albumentations", "torchvision"}, module


@pytest.mark.parametrize("module", LIGHT)
def test_what_the_help_needs_is_light(module):
    found = imports(MODULES[module], at_top_level=True)
    outside = {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"medsoft"}
    assert outside <= LIGHT[module]
    assert of_medsoft(found) <= LIGHT.keys()


def test_data_can_be_checked_without_a_network_library():
    """``medsoft data check`` and ``split`` start without torch; scikit-learn waits until a split."""
    seen, rest = set(), ["medsoft.data.verbs_table"]
    while rest:
        module = rest.pop()
        seen.add(module)
        found = imports(MODULES[module], at_top_level=True)
        assert not {name.split(".")[0] for name in found} & HEAVY, module
        rest += of_medsoft(found) - seen
