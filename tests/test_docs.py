"""README and docs say what is there: links, command lines, and the reference of the configuration."""

import importlib
import importlib.machinery
import importlib.util
import re
import shlex
from pathlib import Path

import jsonargparse
import pytest

from medsoft import cli
from medsoft.errors import InputError
from medsoft.logs import log_options
from medsoft.parsing import OneLineErrors, shipped_configurations

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE_BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
REGISTRIES = ("pypi.org", "pythonhosted.org", "anaconda.org", "huggingface.co", "pytorch.org", "npmjs.com", "docker.io")


def command_lines(text: str) -> list[str]:
    """``medsoft ...`` in code blocks (continued lines joined) and in the code spans of the prose."""
    blocks = "\n".join(CODE_BLOCK.findall(text)).replace("\\\n", " ")
    spans = re.findall(r"`([^`]+)`", CODE_BLOCK.sub("", text))
    lines = [" ".join(line.split()) for line in [*blocks.splitlines(), *spans]]
    return [line for line in lines if line.startswith("medsoft ")]


def every_command_line() -> list[tuple[str, str]]:
    return sorted({(page.name, line) for page in PAGES for line in command_lines(page.read_text(encoding="utf-8"))})


@pytest.fixture
def parse(monkeypatch):
    """Parses a command line as its verb does, and does nothing; raises InputError where the verb would not begin."""
    from medsoft.learn.command_line import CommandLine

    def only_parse(function, args, **_):
        jsonargparse.auto_parser(function, as_positional=False, parser_class=OneLineErrors).parse_args(args)

    monkeypatch.setattr(CommandLine, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(jsonargparse, "auto_cli", only_parse)

    def parse(line: str) -> None:
        line = re.sub(r"--config \S+/config\.yaml", "", line)  # of a run that the line takes for granted
        line = re.sub(r" 2?> \S+", "", line)  # what the shell does
        line = re.sub(r"\$[A-Z_]+", "0", line)  # a variable of the shell
        line = re.sub(r"(--ckpt_path \S+)( [^-\s]\S*)+", r"\1", line)  # of several, which no parser of options sees
        words = [word for word in shlex.split(line, comments=True)[1:] if word not in ("--help", "--version")]
        verb = next((name for name in (" ".join(words[:2]), " ".join(words[:1])) if name in cli.VERBS), None)
        if words and verb is None:
            raise InputError(f"no such verb: {line}")
        if verb is None or "--" not in line:
            return
        options, _, _ = log_options(words[len(verb.split()) :])  # which all verbs that log take
        module, function = cli.VERBS[verb][0].split(":")
        if not module.startswith("medsoft.learn"):
            getattr(importlib.import_module(module), function)(options)
            return
        if verb == "data show":
            options = [f"--data.table={options[0]}", *options[1:]]
        # What goes on from a run finds the table in the run's configuration.
        CommandLine(verb.split()[-1], ["--data.table=table.csv", *options])

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    files = [target.partition("#")[0] for target in targets if not target.startswith(("https://", "#"))]
    assert [file for file in files if not (page.parent / file).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_package_registry(page):
    text = page.read_text(encoding="utf-8").lower()
    assert [registry for registry in REGISTRIES if registry in text] == []


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > 300_000} == {}


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
