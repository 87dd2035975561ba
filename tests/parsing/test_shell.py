"""``medsoft completion``, ``runs`` and ``clean``: what they offer, list and remove."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from medsoft.cli.completion import options_of_verbs
from medsoft.cli.main import VERBS, main
from medsoft.runs.listing import describe_run, find_runs, freeable

BASH = """
source {script}
COMP_WORDS=({words}); COMP_CWORD={at}; COMPREPLY=(); _medsoft; echo "${{COMPREPLY[*]}}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        for shell in ("bash", "zsh", "fish"):
            said: list[str] = []
            patch.setattr("builtins.print", lambda text="", *_, said=said, **__: said.append(str(text)))
            assert main(["completion", shell]) == 0
            (folder / shell).write_text("\n".join(said))
    return folder


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["medsoft", "cros"], "crossval"),
        (["medsoft", "data", "phantom", ""], "fundus slides volumes"),
        (["medsoft", "fit", "--model.backb"], "--model.backbone --model.backbone_args"),
        (["medsoft", "fit", "--logger", "ml"], "mlflow"),
        (["medsoft", "fit", "--logger", "=", "wa"], "wandb"),
        (["medsoft", "fit", "--config", "fun"], "fundus"),
        (["medsoft", "fit", "--config", "fundus", "--figures", "f"], "false"),
        (["medsoft", "slides", "encode", "--min_t"], "--min_tissue"),
    ],
)
def test_bash_completes_verbs_options_and_values(scripts, words, offered):
    quoted = " ".join(f"'{word}'" for word in words)
    script = BASH.format(script=scripts / "bash", words=quoted, at=len(words) - 1)
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (run.stdout.strip(), run.stderr) == (offered, "")


def test_every_verb_and_its_options_are_offered_in_every_shell(scripts):
    of_verbs = options_of_verbs()
    assert of_verbs.keys() == VERBS.keys()
    for shell in ("bash", "zsh", "fish"):
        text = (scripts / shell).read_text()
        for verb, options in of_verbs.items():
            assert verb in text
            assert all(one.name in text for one in options)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_the_script(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    ask = "-n" if shell == "zsh" else "--no-execute"
    subprocess.run([shell, ask, scripts / shell], check=True)
    if shell == "fish":
        run = subprocess.run(
            ["fish", "--no-config", "-c", f'source {scripts / shell}; complete -C "medsoft fit --logger w"'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.startswith("wandb")


def make_run(path: Path, verb: str = "fit", finished: bool = True, **data: str) -> None:
    (path / "checkpoints").mkdir(parents=True)
    (path / "checkpoints" / "best.ckpt").write_bytes(b"b" * 100)
    (path / "checkpoints" / "last.ckpt").write_bytes(b"l" * 2000)
    (path / "config.yaml").write_text(yaml.safe_dump({"name": "eyes", "data": data}))
    started = {"command": ["medsoft", verb], "started": "2026-03-01T10:00:00+00:00"}
    (path / "versions.json").write_text(json.dumps(started))
    if finished:
        scores = {"task": "binary", "n": 9, "macro": {}, "overall": {"auroc": 0.9}}
        (path / "metrics.json").write_text(json.dumps({"test": scores}))
        (path / "facts.json").write_text(json.dumps({"data": {"table": "eyes.csv", "rows": 60}}))


@pytest.fixture
def runs(tmp_path) -> Path:
    """A run, one that has begun, and a cross-validation with a finished fold and one that has begun."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"{'0a' * 16}.pt").write_bytes(b"p" * 500)
    (cache / "notes.txt").write_text("mine")
    top = tmp_path / "runs"
    make_run(top / "one", cache="disk", cache_dir=str(cache))
    make_run(top / "begun", finished=False)
    make_run(top / "folds" / "fold-0")
    make_run(top / "folds" / "fold-1", finished=False)
    (top / "folds" / "crossval.json").write_text("{}")
    (top / "folds" / "config.yaml").write_text("name: eyes\n")
    return top


def test_runs_are_listed_and_their_parts_are_not(runs, capsys):
    assert [path.name for path in find_runs(runs)] == ["begun", "folds", "one"]
    assert main(["runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("one", "begun", "folds", "binary", "crossval"))
    assert "fold-0" not in said
    assert main(["runs", str(runs), "--json", "true"]) == 0
    listed = {Path(one["path"]).name: one for one in json.loads(capsys.readouterr().out)}
    one = listed["one"]
    assert (one["kind"], one["state"], one["task"]) == ("fit", "finished", "binary")
    assert (one["data"], one["metric"]) == ("eyes.csv (60 rows)", "auroc 0.900, test")
    assert one["bytes"] == sum(file.stat().st_size for file in (runs / "one").rglob("*") if file.is_file())
    assert listed["begun"]["state"] == "begun"


def test_a_damaged_run_is_listed_with_what_can_be_read(runs):
    (runs / "one" / "metrics.json").write_text("{")
    (runs / "one" / "facts.json").write_text("[]")
    assert describe_run(runs / "one").state == "begun"


def test_clean_removes_states_of_finished_folds_and_caches_and_nothing_else(runs, capsys):
    before = {file for file in runs.parent.rglob("*") if file.is_file()}
    wanted = {runs / "folds" / "fold-0" / "checkpoints" / "last.ckpt", runs.parent / "cache" / f"{'0a' * 16}.pt"}
    assert {one.path for one in freeable(runs)} == wanted
    assert main(["clean", str(runs)]) == 2  # there is no terminal to ask on
    assert "--yes removes them" in capsys.readouterr().err
    assert {file for file in runs.parent.rglob("*") if file.is_file()} == before
    assert main(["clean", str(runs), "--yes", "true"]) == 0
    assert "Freed: 2 files" in capsys.readouterr().out
    assert before - {file for file in runs.parent.rglob("*") if file.is_file()} == wanted
    assert main(["clean", str(runs)]) == 0


def test_a_cache_that_an_unfinished_run_reads_stays(runs):
    make_run(runs / "more", finished=False, cache="disk", cache_dir=str(runs.parent / "cache"))
    assert not [one for one in freeable(runs) if "cache" in one.path.parts]


def test_who_says_no_keeps_everything(runs, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["clean", str(runs)]) == 0
    assert "Nothing was removed" in capsys.readouterr().out
    assert freeable(runs)


def test_a_folder_that_is_not_there_is_one_message(tmp_path, capsys):
    for verb in ("runs", "clean"):
        assert main([verb, str(tmp_path / "none")]) == 2
        assert "no such folder" in capsys.readouterr().err
