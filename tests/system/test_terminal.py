"""Names from data are printed as they are: no markup, no emoji, no control sequences, in any verb."""

from __future__ import annotations

import ast
from pathlib import Path

import pandas as pd
import pytest
from rich.table import Table

import medsoft
from medsoft.evaluation.tables.predictions import make_predictions, write_predictions
from medsoft.system.terminal import plain_console
from medsoft.task import Task
from medsoft.text.spelling import printable

ROOT = Path(medsoft.__file__).parent
NAMES = ["nodule [benign]", "nodule [/b]", "a :warning: b", "[link=x]y[/link]", "\\[x]"]


def consoles(source: str) -> list[int]:
    """Lines that make a console, or print names through one that reads them as markup."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "rich.markup":
            found.append(node.lineno)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            made = called in ("Console", "rich.console.Console", "rich.print")
            of_names = called == "TextColumn" and "task.fields" in ast.unparse(node)
            if made or (of_names and "markup=False" not in ast.unparse(node)):
                found.append(node.lineno)
    return found


def test_no_module_makes_a_console_of_its_own() -> None:
    files = [file for file in sorted(ROOT.rglob("*.py")) if file.name != "terminal.py"]
    found = {str(file.relative_to(ROOT)): consoles(file.read_text()) for file in files}
    assert not {file: lines for file, lines in found.items() if lines}
    assert consoles("from rich.markup import escape\nConsole()\nTextColumn('{task.fields[name]}')") == [1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_a_console_prints_names_literally(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = plain_console()
    table = Table(name, title=name)
    table.add_row(name)
    console.print(name, soft_wrap=True)
    console.print(table)
    assert capsys.readouterr().out.count(name) == 4


def test_control_sequences_of_a_name_are_not_obeyed(medsoft, capfd: pytest.CaptureFixture[str]) -> None:
    plain_console().print("a\x1b[31mb\u202ec")
    assert capfd.readouterr().out == "a\\x1b[31mb\\u202ec\n"
    assert printable("two\nlines \x07") == "two\nlines \\x07"
    code, _, err = medsoft("data", "check", "no\x1b[31m.csv")
    assert code == 2
    assert "\x1b" not in err
    assert "no\\x1b[31m.csv" in err


@pytest.mark.parametrize("name", NAMES[:2])
def test_evaluate_prints_classes_literally(medsoft, tmp_path: Path, name: str) -> None:
    n = 30
    p = [[1 - (i % 9) / 10, (i % 9) / 10] for i in range(n)]
    frame = make_predictions(Task.of("binary", ("no", name)), [str(i) for i in range(n)], p, [i % 2 for i in range(n)])
    write_predictions(frame, tmp_path / "p.csv")
    code, out, err = medsoft("evaluate", "p.csv", "--out", "ev", "--figures=false", "--draws=50")
    assert (code, err) == (0, "")
    assert name in out


def test_data_check_prints_classes_and_sites_literally(medsoft, tmp_path: Path) -> None:
    from PIL import Image

    for i in range(4):
        Image.linear_gradient("L").resize((4, 4 + i)).save(tmp_path / f"{i}.png")
    pd.DataFrame(
        {"path": [f"{i}.png" for i in range(4)], "label": ["a", NAMES[0]] * 2, "site": [NAMES[1], NAMES[2]] * 2}
    ).to_csv("t.csv", index=False)
    code, out, err = medsoft("data", "check", "t.csv", f"--positive={NAMES[0]}", "--site=site")
    assert (code, err) == (0, "")
    assert all(name in out for name in NAMES[:3])
