"""README and docs say what is there: links, command lines, the reference of the configuration, and the site of them."""

import ast
import importlib
import importlib.machinery
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medsoft.cli import main as cli
from medsoft.errors import InputError
from medsoft.parsing import parser as parsing
from medsoft.parsing.configurations import shipped_configurations

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE_BLOCK = re.compile(r"^ *```([^\n`]*)\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
ABSENT = {  # what no machine has by itself: a block that needs it says so in its title
    "needs weights": r"uni2-h|my\.safetensors|weights/vit_|--pretrained",
    "needs the data": r"\.\./shared/data|wsi/",
    "needs a cluster": r"\b(srun|sbatch|apptainer)\b|#SBATCH|--scheduler (slurm|tcp)",
    "needs Docker": r"\bdocker (run|build)\b",
    "needs a GPU": r"--device cuda",
    "needs a bucket": r"s3://",
}
REGISTRIES = ("pypi.org", "pythonhosted.org", "anaconda.org", "huggingface.co", "pytorch.org", "npmjs.com", "docker.io")


def command_lines(text: str) -> list[str]:
    """``medsoft ...`` in code blocks (continued lines joined) and in the code spans of the prose."""
    blocks = "\n".join(block for _, block in CODE_BLOCK.findall(text)).replace("\\\n", " ")
    spans = re.findall(r"`([^`]+)`", CODE_BLOCK.sub("", text))
    lines = [" ".join(line.split()) for line in [*blocks.splitlines(), *spans]]
    return [line for line in lines if line.startswith("medsoft ")]


def every_command_line() -> list[tuple[str, str]]:
    """Each once, with the first page that has it."""
    found = [(line, name_of(page)) for page in PAGES for line in command_lines(page.read_text(encoding="utf-8"))]
    return sorted((page, line) for line, page in dict(reversed(found)).items())


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def verb_of(words: list[str]) -> str | None:
    return next((name for n in (3, 2, 1) if (name := " ".join(words[:n])) in cli.VERBS), None)


@pytest.fixture
def parse(monkeypatch):
    """Parses a command line as its verb does, and does nothing; raises InputError where the verb would not begin."""
    from medsoft.parsing.lightning_cli import CommandLine

    monkeypatch.setattr(CommandLine, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(parsing, "run", lambda function, values: None)

    def parse(line: str) -> None:
        # of a run or a plan that the line takes for granted
        line = re.sub(r"--config (\S+/config|plan)\.yaml", "", line)
        line = re.sub(r" 2?> \S+", "", line)  # what the shell does
        line = re.sub(r"\$[A-Z_]+", "0", line)  # a variable of the shell
        line = re.sub(r" --(help( all)?|version)$", "", line)
        words = shlex.split(line, comments=True)[1:]
        verb = verb_of(words)
        if any(name.startswith(" ".join([*words, ""])) for name in cli.VERBS):  # a group of verbs
            return
        if words and verb is None:
            raise InputError(f"no such verb: {line}")
        if verb is None or "--" not in line:
            return
        options, found = words[len(verb.split()) :], cli.VERBS[verb]
        if not found.of_run:
            module, name = found.function.split(":")
            function = getattr(importlib.import_module(module), name)
            parsing.call(function, options, verb, found.words, found.several, found.repeated)
            return
        # What goes on from a run finds the table in the run's configuration.
        table = [] if verb == "data show" else ["--data.table=table.csv"]
        CommandLine(verb.split()[-1], [*table, *options])

    return parse


@pytest.mark.parametrize(("page", "line"), every_command_line())
def test_every_command_line_parses(page, line, parse):
    parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "medsoft fitt --config fundus",
        "medsoft fit --config funduss",
        "medsoft fit --config fundus --data.tables t.csv",
        "medsoft fit --config fundus --data.task grades",
        "medsoft predict --resume runs/eyes",
        "medsoft data show t.csv --config fundus --number 3",
        "medsoft data check t.csv --positives 2",
        "medsoft data split t.csv --label grade",
        "medsoft data phantom brain --out phantoms",
    ],
)
def test_a_wrong_command_line_would_be_found(line, parse):
    with pytest.raises(InputError):
        parse(line)


def test_command_lines_are_found_in_blocks_and_in_prose():
    text = "Use `medsoft doctor`, or\n\n```bash\nmedsoft fit --config fundus \\\n    --name x\nls\n```\n\nand `--name`."
    assert command_lines(text) == ["medsoft fit --config fundus --name x", "medsoft doctor"]


TRIED_OTHERWISE = {
    "compile": "compiling takes minutes",
}


def test_every_option_of_a_command_is_tried_by_another_test():
    """Parsing shows that an option exists; that it works is shown elsewhere, here by name."""
    others = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*others, ROOT / "scripts" / "demo"])
    text = text.replace("-", "_")
    tried = set(re.findall(r"__([\w.]+)", text)) | set(re.findall(r"\b(\w+)=", text))
    tried |= set(re.findall(r"[\"'](\w+)[\"']\s*:", text))
    untried = {
        (page, option)
        for page, line in every_command_line()
        for option in re.findall(r" --([\w.-]+)", line)
        if not {option.replace("-", "_"), option.replace("-", "_").rpartition(".")[2]} & tried
    }
    assert {option for _, option in untried} == set(TRIED_OTHERWISE), untried


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_need_what_is_absent_are_marked(page):
    for info, block in CODE_BLOCK.findall(page.read_text(encoding="utf-8")):
        if info.split()[:1] == ["bash"]:
            missing = [title for title, pattern in ABSENT.items() if re.search(pattern, block)]
            assert [title for title in missing if title not in info] == [], block


def own_table(line: str, folder: Path) -> list[str]:
    """Write the table of images that a command on somebody's own table takes for granted; the command's words."""
    words = shlex.split(line)[1:]
    given = {word.lstrip("-"): value for word, value in pairwise(words) if word.startswith("--")}
    given = {option.removeprefix("data.").replace("-", "_"): value for option, value in given.items()}
    path, labels = given.get("path", "path"), given.get("label", "label").split(",")
    values = [given.get("positive", "1").split(",")[0], "other"]
    if given.get("task") in ("ordinal", "binary") or len(labels) > 1:
        values = list("012") if given.get("task") == "ordinal" else ["0", "2" if "positive" in given else "1"]
    rows, rng = 60, np.random.default_rng(0)
    columns = {path: [f"{i}.png" for i in range(rows)]} | {
        label: [values[(i // 2) % len(values)] for i in range(rows)] for label in labels
    }
    if "patient" in given:
        columns[given["patient"]] = [f"P{i // 2}" for i in range(rows)]
    if "mask" in given:
        columns[given["mask"]] = [f"mask{i}.png" for i in range(rows)]
    table = folder / words[2]
    table.parent.mkdir(parents=True, exist_ok=True)
    if "boxes" in given:
        box = {"x_min": 1, "y_min": 2, "x_max": 9, "y_max": 11, "label": "cell"}
        pd.DataFrame([{"file": name, **box} for name in columns[path]]).to_csv(folder / given["boxes"], index=False)
    pd.DataFrame(columns).to_csv(table, index=False)
    for name in columns[path]:
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(table.parent / name)
    for name in columns.get(given.get("mask", ""), []):
        Image.fromarray(rng.integers(0, 2, (12, 12), dtype=np.uint8)).save(table.parent / name)
    return words


def on_own_tables() -> list[tuple[str, str]]:
    verbs, others = ("data check", "data split", "data show"), r"phantoms/|series\.csv|organs\.csv|hippocampi\.csv"
    lines = [(page, line) for page, line in every_command_line() if verb_of(line.split()[1:]) in verbs]
    return [(page, line) for page, line in lines if len(line.split()) > 4 and not re.search(others, line)]


@pytest.mark.parametrize(("page", "line"), on_own_tables())
def test_commands_on_tables_of_images_run(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(own_table(line, tmp_path)) == 0


def test_the_first_steps_run(tmp_path, monkeypatch):
    """Those of the page, with fewer and smaller images."""
    text = (ROOT / "docs" / "guide" / "start.md").read_text(encoding="utf-8").partition("## Try it on phantoms")[2]
    lines = command_lines(text.partition("\n## ")[0])
    assert [verb_of(line.split()[1:]) for line in lines] == [
        "data phantom fundus", "data check", "data show", "fit", "predict", "evaluate",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    less = (
        "--trainer.max_epochs 1 --trainer.accelerator cpu --model.backbone_args.depth 1 --report false --figures false"
    )
    small = {
        "--n 60": "--n 16",
        "--trainer.max_epochs 2": less,
        "--out runs/phantoms_again": "--out again --report false",
    }
    small["--config fundus"] = "--config fundus --transforms.size 32"
    for line in lines:
        for before, after in small.items():
            line = line.replace(before, after)
        assert cli.main(shlex.split(line)[1:]) == 0, line
    assert (tmp_path / "runs/phantoms/evaluation/report.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    files = [target.partition("#")[0] for target in targets if not target.startswith(("https://", "#"))]
    made = ("../api/index.md",)  # when the site is built
    assert [file for file in files if file not in made and not (page.parent / file).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_package_registry(page):
    text = page.read_text(encoding="utf-8").lower()
    assert [registry for registry in REGISTRIES if registry in text] == []


def imports_of(page: Path) -> list[tuple[str, str]]:
    """Modules and names that the Python of a page imports from medsoft, and dotted names in its prose."""
    text = page.read_text(encoding="utf-8")
    blocks = [ast.parse(textwrap.dedent(block)) for info, block in CODE_BLOCK.findall(text) if info.strip() == "python"]
    nodes = [node for block in blocks for node in ast.walk(block) if isinstance(node, ast.ImportFrom)]
    names = [(node.module, alias.name) for node in nodes if node.module for alias in node.names]
    spans = re.findall(r"`(medsoft(?:\.\w+)+)`", CODE_BLOCK.sub("", text))
    files = ("md", "toml", "sif", "yaml", "lock")
    prose = [name.rpartition(".")[::2] for name in spans if name.rpartition(".")[2] not in files]
    return [(module, name) for module, name in [*names, *prose] if module.split(".")[0] == "medsoft"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_python_of_a_page_parses_and_finds_its_names(page):
    if page.name == "CHANGELOG.md":
        return  # of versions that were
    for module, name in imports_of(page):
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_repository_that_a_page_names_are_there(page):
    if page.name == "CHANGELOG.md":
        return  # of versions that were
    spans = re.findall(r"`([^`\n]+)`", CODE_BLOCK.sub("", page.read_text(encoding="utf-8")))
    # A name with <name> in it is one that the reader makes.
    named = [span for span in spans if re.fullmatch(r"(medsoft|scripts|tests|configs|docker|docs)(/[\w.-]+)+/?", span)]
    assert [file for file in named if not (ROOT / file).exists()] == []


def files_of_rooms(text: str) -> list[Path]:
    """Files and folders below medsoft/ that the prose names: ``ops/``, ``ops/soft.py``, and a file beside the last."""
    found, folder = [], Path()
    for name in re.findall(r"`((?:[\w<>-]+/)*(?:[\w<>-]+\.py)?)`", text):
        folder = (Path(name) if "/" in name else folder / name).parent
        found += [] if "<" in name else [Path(name) if name.endswith("/") else folder / Path(name).name]
    return found


def test_files_that_the_page_on_design_names_are_there():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rooms, walks = (part.partition("\n## ")[0] for part in re.split(r"^## (?:Rooms|Five walks)$", text, flags=re.M)[1:])
    for part in [rooms, *re.split(r"^\*\*", walks, flags=re.M)[1:]]:
        found = files_of_rooms(part)
        assert len(found) > 4, part
        assert [
            str(file) for file in found if not any((base / file).exists() for base in (ROOT / "medsoft", ROOT))
        ] == []


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("1. `ops/`: `sima.py`", ["ops", "sima.py"]),
        ("1. `cli/slides/encode.py`, `tile.py`: both", ["cli/slides/encode.py", "cli/slides/tile.py"]),
        ("1. `tasks/<task>.py`, `classes.py`, `medsoft fit`", ["tasks/classes.py"]),
    ],
)
def test_files_of_rooms_would_be_found(text, files):
    assert [str(file) for file in files_of_rooms(text)] == files


def test_the_readme_has_at_most_ten_links():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"(?<!!)\[[^\]]+\]\(", text)) <= 10


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The documentation as a site, without the Python reference, which only takes longer."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    quiet = {"MEDSOFT_DOCS_API": "0", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def outside_assets(html: str) -> list[str]:
    """Addresses that a browser would fetch while it shows a page; links that people follow are none."""
    tags = re.findall(r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*>", html)
    return [tag for tag in tags if re.search(r"""(?:src|href|data|srcset)=["']?(?:https?:)?//""", tag)]


def test_the_site_loads_nothing_from_a_network(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    assert {str(page): found for page in pages if (found := outside_assets(page.read_text(encoding="utf-8")))} == {}
    styles = "\n".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']*", styles) == []


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<script src="https://unpkg.com/x"></script>', 1),
        ('<link rel="stylesheet" href="//fonts.example/css">', 1),
        ('<a href="https://arxiv.org">', 0),
        ('<img alt="" src="../pictures/x.png">', 0),
    ],
)
def test_outside_assets_would_be_found(html, found):
    assert len(outside_assets(html)) == found


def test_every_page_is_in_the_site(site):
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if not (site / page).is_file()] == []


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > 300_000} == {}


def test_the_pages_that_the_code_names_are_there():
    files = [path for room in ("medsoft", "scripts", "tests") for path in (ROOT / room).rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix in ("", ".py", ".yaml") and path != Path(__file__)]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    named = set(re.findall(r"docs/[\w/]+\.md", text))
    assert len(named) > 5
    assert [page for page in sorted(named) if not (ROOT / page).is_file()] == []


def test_the_pages_that_configurations_name_are_there():
    configurations = "\n".join(path.read_text(encoding="utf-8") for path in shipped_configurations().values())
    named = re.findall(r"docs/\S+?\.md", configurations)
    assert named
    assert [page for page in named if not (ROOT / page).is_file()] == []


def test_the_configuration_reference_is_up_to_date():
    path = ROOT / "scripts" / "configuration_reference"
    loader = importlib.machinery.SourceFileLoader("configuration_reference", str(path))
    script = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(script)
    written = script.PAGE.read_text(encoding="utf-8")
    assert written == script.page(), "out of date: run scripts/configuration_reference with .venv/bin/python"


def test_the_results_are_those_of_the_runs_that_are_kept(monkeypatch):
    """The page of results has the tables of docs/experiments/runs.csv, whole and unchanged."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = runpy.run_path(str(ROOT / "scripts" / "results.py"))
    text = (ROOT / "docs/experiments/results.md").read_text()
    assert script["page"](ROOT / "docs/experiments/runs.csv", text) == text
    assert text.count(" to ") > 10
    with pytest.raises(ValueError, match="the page has no"):
        script["page"](ROOT / "docs/experiments/runs.csv", "no marks")
