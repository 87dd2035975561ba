"""Hooks of MkDocs: the Python reference, one page per package, made from the tree; and pages that need no network.

MEDSOFT_DOCS_API=0 leaves these pages out, for a quick look at the rest.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LEFT_OUT = {"__init__", "__main__"}

SHIM = re.compile(r'<script src="https://unpkg.com/iframe-worker/shim"></script>')
"""What Material's offline plugin puts into every page, for search in pages that are opened as files."""


def public_modules() -> dict[str, list[str]]:
    """Package to its modules that have a public class or function, both as dotted names, in order."""
    rooms: dict[str, list[str]] = {}
    for path in sorted((ROOT / "medsoft").rglob("*.py")):
        if path.stem in LEFT_OUT or path.stem.startswith("_"):
            continue
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
        if any(isinstance(n, ast.ClassDef | ast.FunctionDef) and not n.name.startswith("_") for n in nodes):
            package = ".".join(path.parent.relative_to(ROOT).parts)
            rooms.setdefault(package, []).append(f"{package}.{path.stem}")
    return dict(sorted(rooms.items()))


def rooms_shown() -> dict[str, list[str]]:
    """``public_modules``, or nothing where these pages are not wanted."""
    return public_modules() if os.environ.get("MEDSOFT_DOCS_API") != "0" else {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation, below the entry Python of the reference."""
    reference = next(entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    python = next(entry for entry in reference if isinstance(entry, dict) and "Python" in entry)
    python["Python"] = ["api/index.md", *({room: f"api/{room}.md"} for room in rooms_shown())]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages."""
    rooms = rooms_shown()
    rows = [f"| [`{room}`]({room}.md) | {len(modules)} |" for room, modules in rooms.items()]
    index = "\n".join(
        [
            "# Python reference",
            "",
            "Made from the docstrings when the site is built, one page per package.",
            "",
            "| package | modules |",
            "|---|---:|",
            *rows,
            "",
        ]
    )
    files.append(File.generated(config, "api/index.md", content=index))
    for room, modules in rooms.items():
        page = f"# `{room}`\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"
        files.append(File.generated(config, f"api/{room}.md", content=page))
    return files


def on_post_page(output: str, *, page: Any, config: MkDocsConfig) -> str:
    """Put docs/assets/worker.js in the place of the script that would come from a network."""
    return SHIM.sub(f'<script src="{"../" * page.url.count("/")}assets/worker.js"></script>', output)


def on_post_template(output: str, *, template_name: str, config: MkDocsConfig) -> str:
    """The same in pages that are not documents, such as 404.html."""
    return SHIM.sub('<script src="assets/worker.js"></script>', output)
