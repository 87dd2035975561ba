"""Who may import whom, read from the source: the rooms of the house and the doors between them."""

import ast
import sys
from functools import cache
from pathlib import Path

import networkx
import pytest
from jinja2 import Environment
from jinja2.nodes import Const

from medsoft.task import TASK_KINDS

ROOT = Path(__file__).parents[2] / "medsoft"
FOYER = ("errors", "registry", "specs", "task", "task_defaults", "task_types", "storage", "system", "text")
"""What every room may use; it uses no room itself."""

KNOWS = {
    "ops": set(),
    "layers": {"ops"},
    "models": {"layers", "ops"},
    "parsing": {"models"},
    "data": {"parsing"},
    "evaluation": {"parsing"},
    "slides": {"parsing", "data", "evaluation"},
    "encoders": {"parsing", "models", "data", "slides"},
    "cluster": {"parsing", "slides"},
    "runs": {"parsing", "data", "evaluation"},
    # A classifier begins with an encoder by its name: backbone, weights and scaling are its recipe's.
    "classifiers": {"parsing", "ops", "models", "data", "evaluation", "encoders", "runs"},
    # Nobody imports the tasks: medsoft.task finds them by name.
    "tasks": {"data", "evaluation", "classifiers"},
    "training": {"ops", "models", "data", "evaluation", "runs", "classifiers"},
    # What is learnt without labels is stored as an encoder, with its recipe; teachers are encoders.
    "pretraining": {"parsing", "models", "data", "encoders", "runs", "classifiers"},
    "inference": {"parsing", "models", "data", "evaluation", "slides", "encoders", "cluster", "runs", "classifiers"}
    | {"training"},
    "benchmark": {"parsing", "layers", "models", "data", "evaluation", "slides", "encoders"},
    # A plan measures what a step takes with the benchmark's meter of memory.
    "planning": {"parsing", "data", "evaluation", "encoders", "runs", "inference", "benchmark"},
    "workflows": {"parsing", "data", "evaluation", "slides", "encoders", "cluster", "runs", "classifiers", "training"}
    | {"inference", "pretraining", "planning"},
    # A page over files that others have written: it trains and predicts nothing.
    "viewer": {"data", "evaluation", "slides", "runs"},
}
"""The rooms from the lowest to the highest, and what each knows of those below. ``cli`` knows all; ``api`` calls it."""

MOST_MODULES = 14
MOST_LINES = 450
HEAVY = {"torch", "torchvision", "lightning", "timm", "monai", "albumentations", "openslide", "matplotlib", "sklearn"}
HEAVY |= {"pydicom", "nibabel"}
LIGHT = {  # module -> what it may import when it is imported; the standard library always
    "medsoft": set(),
    "medsoft.cli.main": set(),
    "medsoft.errors": set(),
    "medsoft.storage.files": set(),
    "medsoft.storage.lock": set(),
    "medsoft.storage.walk": set(),
    "medsoft.specs": {"numpy"},
    "medsoft.task": {"numpy"},
    "medsoft.task_defaults": {"numpy"},
    "medsoft.task_types": {"numpy"},
    "medsoft.parsing.parser": {"jsonargparse"},
    "medsoft.system.child_processes": set(),
    "medsoft.parsing.configurations": set(),
    "medsoft.registry": set(),
    "medsoft.system.signals": set(),
    "medsoft.system.progress": set(),
    "medsoft.system.logging": set(),
    "medsoft.parsing.options": set(),
    "medsoft.storage.own_files": set(),
    "medsoft.storage.weights_folder": set(),
    "medsoft.parsing.log_options": set(),
    "medsoft.parsing.words": set(),
    "medsoft.parsing.unknown": set(),
    "medsoft.parsing.help": set(),
}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def imports(file: Path, at_top_level: bool = False) -> set[str]:
    """Modules that a file imports: everywhere, or when it is imported itself (not for type checking alone)."""
    tree = parsed(file)
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
    return module.split(".")[1] if "." in module else "medsoft"


@cache
def edges() -> dict[str, set[str]]:
    """The modules that each module imports, at the top or inside functions."""
    found = {}
    for module, file in MODULES.items():
        used = of_medsoft(imports(file)) & MODULES.keys() - {module}
        # From a folder, a module is imported, not what the folder's own file holds.
        found[module] = used - {other.rpartition(".")[0] for other in used if MODULES[other].name != "__init__.py"}
    return found


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other."""
    graph = networkx.DiGraph([(module, other) for module, others in edges.items() for other in others])
    return [sorted(part) for part in networkx.strongly_connected_components(graph) if len(part) > 1]


def test_the_imports_of_a_file_are_found(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport os.path\nif TYPE_CHECKING:\n    import torch\n"
        "try:\n    import cv2\nexcept ImportError:\n    pass\n"
        "def f():\n    from medsoft.data.tables import sample_table\n\nclass A:\n    import numpy as np\n"
    )
    assert {"torch", "cv2", "medsoft.data.tables.sample_table"} < imports(file)
    assert imports(file, at_top_level=True) == {"typing", "typing.TYPE_CHECKING", "os.path", "cv2", "numpy"}
    assert of_medsoft(imports(file)) == {"medsoft.data.tables", "medsoft.data.tables.sample_table"}


def test_every_room_is_known():
    rooms = {folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()}
    assert rooms - set(FOYER) == KNOWS.keys() | {"cli", "api"}


def test_rooms_know_only_rooms_below_them():
    order = list(KNOWS)
    for name, known in KNOWS.items():
        assert all(order.index(other) < order.index(name) for other in known), name


@pytest.mark.parametrize("name", [*FOYER, *KNOWS])
def test_a_room_imports_only_what_it_knows(name):
    doors = {*FOYER, name, "medsoft"} | KNOWS.get(name, set())
    through = {
        f"{module} imports {other}"
        for module, others in edges().items()
        if room(module) == name
        for other in others
        if room(other) not in doors
    }
    assert not through, "\n".join(sorted(through))


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_module_reaches_itself():
    assert circles(edges()) == []


def test_folders_and_files_are_read_in_one_sitting():
    for folder in {file.parent for file in MODULES.values()}:
        modules = [file.name for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, f"{folder}: {len(modules)} modules"
    for module, file in MODULES.items():
        lines = len(file.read_text().splitlines())
        assert lines <= MOST_LINES, f"{module}: {lines} lines"


def test_evaluation_knows_no_model():
    for module, file in MODULES.items():
        if room(module) == "evaluation":
            packages = {name.split(".")[0] for name in imports(file)}
            assert not packages & {"torch", "lightning", "timm", "monai", "albumentations", "torchvision"}, module


def test_only_the_report_knows_the_report():
    """Figures, metrics and tables are made without the page that shows them."""
    for module, others in edges().items():
        if room(module) == "evaluation" and not module.startswith("medsoft.evaluation.report"):
            assert not {other for other in others if other.startswith("medsoft.evaluation.report")}, module


def test_no_test_module_imports_another():
    for file in ROOT.parent.glob("tests/**/test_*.py"):
        named = {name for name in imports(file) if name.startswith("tests.") and ".test_" in name}
        assert not named, f"{file.relative_to(ROOT.parent)} imports {', '.join(sorted(named))}"


@pytest.mark.parametrize("module", LIGHT)
def test_what_the_help_needs_is_light(module):
    found = imports(MODULES[module], at_top_level=True)
    outside = {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"medsoft"}
    assert outside <= LIGHT[module]
    assert of_medsoft(found) <= LIGHT.keys()


def names_of_tasks(source: str | Path) -> list[int]:
    """Lines that compare something with a task's name, or look something up by it."""
    found = []
    for node in ast.walk(ast.parse(source) if isinstance(source, str) else parsed(source)):
        asked: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Dict):
            asked = list(node.keys)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = node.args if node.func.attr in ("startswith", "endswith") else []
        for one in asked:
            parts = one.elts if isinstance(one, ast.Tuple | ast.List | ast.Set) else [one]
            if any(isinstance(part, ast.Constant) and part.value in TASK_KINDS for part in parts):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    "line",
    [
        "if task.kind == 'binary': pass",
        "several = kind in ('multiclass', 'ordinal')",
        "if 'regression' != kind: pass",
        "monitor = {'ordinal': 'kappa'}.get(kind, 'auroc')",
        "match kind:\n    case 'multilabel' | 'binary': pass",
    ],
)
def test_a_comparison_with_the_name_of_a_task_is_found(line):
    assert names_of_tasks(line)
    assert not names_of_tasks("task = Task.of('binary', names)\nif task.kind != other.kind: pass")


def names_in_template(source: str) -> list[int]:
    """Lines of a Jinja template that mention a task's name."""
    return [node.lineno for node in Environment().parse(source).find_all(Const) if node.value in TASK_KINDS]


@pytest.mark.parametrize(
    "line",
    [
        "{% if values.question.kind in ('binary', 'multilabel') %}p{% endif %}",
        "{{ 'grades' if kind == 'ordinal' else 'classes' }}",
        "{% if 'regression' != task.kind %}AUROC{% endif %}",
    ],
)
def test_the_name_of_a_task_in_a_template_is_found(line):
    assert names_in_template(f"<p>\n{line}") == [2] * len(names_in_template(line)) != []
    assert not names_in_template("<p>binary</p>{% if task.thresholded %}{{ task.kind }}{% endif %}")


TEMPLATES = sorted(str(file.relative_to(ROOT)) for file in ROOT.rglob("*.jinja"))


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_template_asks_for_the_name_of_a_task(template):
    assert not names_in_template((ROOT / template).read_text(encoding="utf-8")), template


def test_nobody_asks_for_the_name_of_a_task():
    """What differs by task is a method or an attribute of its class (``medsoft.task``, which holds the register)."""
    found = {module: names_of_tasks(file) for module, file in MODULES.items() if module != "medsoft.task"}
    assert not {module: lines for module, lines in found.items() if lines}


def test_data_can_be_checked_without_a_network_library():
    """``medsoft data check`` and ``split`` start without torch; scikit-learn waits until a split."""
    seen, rest = set(), ["medsoft.cli.data.check", *(module for module in MODULES if room(module) == "medsoft.tasks")]
    while rest:
        module = rest.pop()
        seen.add(module)
        found = imports(MODULES[module], at_top_level=True)
        assert not {name.split(".")[0] for name in found} & HEAVY, module
        rest += of_medsoft(found) - seen
