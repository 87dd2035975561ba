"""Unknown options are refused before anything heavy is imported; what a parser knows, or answers better, is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medsoft.errors import InputError
from medsoft.parsing.unknown import refuse_unknown

OF_RUNS = {"show": "data show"}


@pytest.mark.parametrize("verb", ["fit", "crossval", "predict", "auto", "show"])
@pytest.mark.parametrize("config", ["fundus", "histo", "volume", "segmentation"])
def test_no_option_of_a_parser_is_refused(verb, config, monkeypatch):
    if verb == "show" and config == "histo":
        pytest.skip("data show draws images")
    from medsoft.parsing import lightning_cli

    parsers = []

    def stop(self: object, parser: object, args: object) -> None:
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(lightning_cli.CommandLine, "parse_arguments", stop)
    with pytest.raises(SystemExit):
        lightning_cli.CommandLine(verb, ["--config", config])
    (parser,) = parsers
    names = [name.removeprefix("--") for action in parser._actions for name in action.option_strings if len(name) > 2]
    assert len(names) > 50
    # Links are actions that are no options; --print_shtab tells that jsonargparse has it no more.
    others = ("help", "print_config", "config", "print_shtab")
    words = [f"--{name}=1" for name in names if name not in others and " " not in name]
    refuse_unknown(OF_RUNS.get(verb, verb), [f"--config={config}", *words])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "--config", "fundus", "--data.tabel", "x"], "unknown option --data.tabel; the nearest is data.table"),
        (["plan", "x.csv", "--budgte", "3m"], "unknown option --budgte; the nearest is budget"),
        (["predict", "--chekpoint", "x"], "unknown option --chekpoint; the nearest is checkpoint"),
        (
            ["fit", "--modle.lr=1", "--foo=2"],
            "unknown options: --modle.lr (the nearest is model.lr), --foo (--help all",
        ),
    ],
)
def test_others_are(words, says):
    with pytest.raises(InputError) as refused:
        refuse_unknown(words[0], words[1:])
    assert str(refused.value).startswith(says)


def test_it_takes_no_heavy_import():
    code = (
        "import sys; from medsoft.cli.main import main; code = main(['fit', '--config=fundus', '--data.tabel=x']); "
        "print(code, sorted({'torch', 'lightning', 'timm', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
    assert "the nearest is data.table" in done.stderr
