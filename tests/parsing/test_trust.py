"""What a configuration from a stranger can do: nothing is imported or built that is not medsoft's own."""

import inspect
import json
import shutil
import sys
import typing
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer

from medsoft.data.datasets.base import TableDataModule
from medsoft.errors import InputError
from medsoft.parsing.configurations import of_a_run, read_configuration
from medsoft.parsing.lightning_cli import CommandLine
from medsoft.registry import DEFAULTS, REGISTER, find_class, short_name
from medsoft.runs.bundle import SUMS, sums_of
from tests.builders.images import TINY, write_images

pytestmark = pytest.mark.long

SPY = """
from pathlib import Path
from lightning.pytorch import Callback
from medsoft.data.transforms.plain import Plain
Path({folder!r}, "imported").touch()

class Spy(Callback):
    def __init__(self, *args, **kwargs):
        Path({folder!r}, "built").touch()

def spy(*args, **kwargs):
    Path({folder!r}, "called").touch()

class Own(Plain):
    pass
"""

MARKS = ("imported", "built", "called", "EXECUTED")


@pytest.fixture
def spy(tmp_path, monkeypatch):
    """A module that leaves a mark where it is imported, built or called; gives what marks there are."""
    folder = tmp_path / "marks"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "spyware.py").write_text(SPY.format(folder=str(folder)))
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    yield lambda: sorted(mark for mark in MARKS if (folder / mark).exists() or Path(mark).exists())
    sys.modules.pop("spyware", None)


def mocked(*above: str) -> dict:
    """A callback whose untyped argument is a class that starts a program; ``above`` are keys around it."""
    program = {"class_path": "subprocess.Popen", "init_args": {"args": "touch EXECUTED", "shell": True}}
    effect = {"class_path": "unittest.mock.Mock", "init_args": {"side_effect": program}}
    callback = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": effect}}
    return {"trainer": {"callbacks": [callback]}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, its bundle and its table."""
    from medsoft.cli.main import main

    folder = tmp_path_factory.mktemp("trained")
    table = write_images(folder / "set", 24, per_patient=2)
    words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, "--report=false"]
    assert main(["fit", *words, "--trainer.max_epochs=1", f"--out={folder / 'run'}"]) == 0
    assert main(["export", str(folder / "run"), "--out", str(folder / "bundle")]) == 0
    return folder


def altered(folder: Path, more: dict) -> None:
    """Put more into the saved configuration of a run or a bundle; a bundle's sums are made right again."""
    config = folder / "config.yaml"
    content = yaml.safe_load(config.read_text())
    for group, values in more.items():
        content[group] = {**(content.get(group) or {}), **values} if isinstance(values, dict) else values
    config.write_text(yaml.safe_dump(content))
    if (folder / SUMS).is_file():
        (folder / SUMS).write_text(sums_of(folder))


@pytest.mark.parametrize("way", ["fit", "crossval", "data show", "predict --bundle", "predict --checkpoint", "resume"])
def test_a_configuration_starts_no_program(trained, spy, tmp_path, medsoft, way):
    table = trained / "set" / "labels.csv"
    for name in ("run", "bundle"):
        shutil.copytree(trained / name, tmp_path / name)
        altered(tmp_path / name, mocked())
    file = tmp_path / "hostile.yaml"
    file.write_text(yaml.safe_dump(mocked()))
    data = [f"--data.table={table}", "--data.classes=[dark, light]", *TINY]
    words = {
        "fit": ["fit", "--config", file, *data],
        "crossval": ["crossval", "--config", file, *data, "--folds=2"],
        "data show": ["data", "show", table, "--config", file],
        "predict --bundle": ["predict", "--bundle", tmp_path / "bundle", f"--data.table={table}", "--out=p"],
        "predict --checkpoint": ["predict", "--checkpoint", tmp_path / "run", f"--data.table={table}", "--out=p"],
        "resume": ["fit", "--resume", tmp_path / "run", "--trainer.max_epochs=1"],
    }[way]
    code, out, err = medsoft(*words)
    assert not spy(), (code, out, err)
    if way in ("fit", "crossval", "data show"):
        assert code == 2
        assert err.count("\n") == 1
        assert "trainer.callbacks names the class 'lightning.pytorch.callbacks.LambdaCallback'" in err
        assert "--trust" in err
    else:  # what a run or a bundle keeps has no callbacks, whatever its file says
        assert code == 0, err


HOSTILE = {
    "a class": {"class_path": "spyware.Spy", "init_args": {}},
    "a mock": mocked()["trainer"]["callbacks"][0]["init_args"]["on_fit_start"],
    "a list": [{"inner": {"class_path": "spyware.Spy"}}],
    "a function": "spyware.spy",
}


def parameters() -> list[tuple[str, str, str]]:
    """Role, class and parameter of the trainer and of all that is registered."""
    found = [("trainer", "Trainer", name) for name in inspect.signature(Trainer).parameters]
    for role, names in REGISTER.items():
        for name in names:
            made = find_class(role, name, object, trusted=False)
            found += [(role, name, parameter) for parameter in hints(made)]
    return found


def hints(made: type) -> dict[str, object]:
    """Types of a class's parameters; those that it passes on as keywords are its base's."""
    own = typing.get_type_hints(made.__init__)
    passed_on = [p for p in inspect.signature(made).parameters.values() if p.kind is p.VAR_KEYWORD]
    found = {name: own.get(name, typing.Any) for name in inspect.signature(made).parameters}
    if issubclass(made, TableDataModule) and passed_on:
        del found[passed_on[0].name]
        found |= {name: hint for name, hint in hints(TableDataModule).items() if name not in found}
    return found


def takes_objects(role: str, name: str, parameter: str) -> bool:
    """Whether a parameter takes anything at all, anywhere within its type, or an object of a class."""
    made = Trainer if role == "trainer" else find_class(role, name, object, trusted=False)
    hint = hints(made).get(parameter, typing.Any)
    plain = (str, int, float, bool, type(None))

    def parts(one: object) -> list[object]:
        inner = typing.get_args(one)
        return [one] if not inner or typing.get_origin(one) is typing.Literal else [p for i in inner for p in parts(i)]

    return any(part not in plain and typing.get_origin(part) is not typing.Literal for part in parts(hint))


def test_there_are_parameters_that_take_anything():
    risky = {(role, parameter) for role, name, parameter in parameters() if takes_objects(role, name, parameter)}
    assert {("trainer", "callbacks"), ("trainer", "strategy"), ("model", "backbone_args")} <= risky


def test_no_parameter_of_any_class_is_built_from_a_class_path(spy, tmp_path):
    """In a file, and on the command line; the parsers are real, and what they make of it is instantiated."""
    table = write_images(tmp_path / "set", 8)
    settings = {
        "image": {"use": {"data": "image", "model": "classifier"}},
        "bag": {"use": {"data": "bag", "model": "slide_classifier"}},
        "volume": {"use": {"data": "volume", "model": "slice_classifier"}},
        "masks": {"use": {"data": "masks", "model": "segmenter"}},
        "volume_masks": {"use": {"data": "volume_masks", "model": "volume_segmenter"}},
        "boxes": {"use": {"data": "boxes", "model": "detector"}},
    }
    of_kind = {"classifier": "image", "slide_classifier": "bag", "slice_classifier": "volume", "volume": "volume"}
    of_kind |= {"segmenter": "masks", "volume_segmenter": "volume_masks", "detector": "boxes"}
    small = {"image": {"backbone_args": {"patch_size": 32, "depth": 1, "embed_dim": 8, "num_heads": 1}}, "bag": {}}
    tried = 0
    for role, name, parameter in parameters():
        if not takes_objects(role, name, parameter) or parameter in ("self", "spec", "transforms"):
            continue
        kind = name if role == "data" else of_kind.get(name, "image")
        for value in HOSTILE.values():
            content = {**settings[kind], "data": {"table": str(table), "classes": ["dark", "light"]}}
            if role == "transforms":
                content["use"] = {**content["use"], "transforms": name}
            content["model"] = dict(small.get(kind, {}))
            content[role] = {**content.get(role, {}), parameter: value}
            file = tmp_path / "c.yaml"
            file.write_text(yaml.safe_dump(content))
            if "class_path" in json.dumps(value):
                with pytest.raises(InputError, match=r"trust|unknown option"):
                    CommandLine("fit", ["--config", str(file)])
            else:
                with suppress(InputError):  # a word may be a word
                    CommandLine("fit", ["--config", str(file)])
            if "class_path" in value:  # what a word and a list may hold, they hold in a file too
                del content[role][parameter]
                file.write_text(yaml.safe_dump(content))
                with suppress(InputError):
                    CommandLine("fit", ["--config", str(file), f"--{role}.{parameter}={json.dumps(value)}"])
            assert not spy(), (role, name, parameter, value)
            tried += 1
    assert tried > 40


def test_with_trust_a_callback_is_made_and_the_run_does_not_keep_it(spy, fit, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("trainer: {callbacks: [{class_path: spyware.Spy}]}")
    out, _ = fit("--config", file, "--trust", "--trainer.max_epochs=1", "--report=false", f"--out={tmp_path / 'run'}")
    assert spy() == ["built", "imported"]
    assert "trainer.callbacks: the run does not keep it" in out
    assert (
        not {"callbacks", "plugins", "profiler", "logger"}
        & read_configuration(tmp_path / "run/config.yaml")["trainer"].keys()
    )


def test_with_trust_an_untyped_value_is_still_not_built(spy, fit, tmp_path):
    file = tmp_path / "mine.yaml"
    effect = {"class_path": "unittest.mock.Mock", "init_args": {"side_effect": {"class_path": "spyware.Spy"}}}
    callback = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": effect}}
    file.write_text(yaml.safe_dump({"model": {"backbone_args": {"norm_layer": {"class_path": "spyware.Spy"}}}}))
    assert "cannot be built" in fit("--config", file, "--trust", code=2)[1]
    file.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    assert "trainer.callbacks" in fit("--config", file, "--trust", "--trainer.max_epochs=1", code=2)[1]
    assert "built" not in spy()


def test_a_run_with_a_class_of_ones_own_asks_for_trust_each_time(spy, fit, medsoft, tmp_path, table):
    words = ["--use.transforms=spyware.Own", "--trainer.max_epochs=1", "--report=false", f"--out={tmp_path / 'run'}"]
    _, err = fit(*words, code=2)
    assert "use.transforms: spyware.Own is none of medsoft's own" in err
    assert "--trust" in err
    assert not spy()
    fit(*words, "--trust")
    assert read_configuration(tmp_path / "run" / "config.yaml")["use"]["transforms"] == "spyware.Own"
    sys.modules.pop("spyware")
    (tmp_path / "marks" / "imported").unlink()
    predict = ["predict", "--checkpoint", tmp_path / "run", f"--data.table={table}", f"--out={tmp_path / 'p'}"]
    code, _, err = medsoft(*predict)
    assert (code, spy()) == (2, [])
    assert "--trust" in err
    assert medsoft(*predict, "--trust")[0] == 0


def test_trust_is_never_said_by_a_file(medsoft, table, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("trust: true\ntrainer: {callbacks: [{class_path: lightning.pytorch.callbacks.Timer}]}")
    code, _, err = medsoft("fit", "--config", file, f"--data.table={table}")
    assert code == 2
    assert "trust can only be given on the command line, never in a file" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: !!python/object/apply:os.system ['touch EXECUTED']", "not YAML"),
        ("name: !include other.yaml", "not YAML"),
        ("data: {table: '${oc.env:HOME}'}", "${oc.env:HOME}"),
        ("name: ../../../elsewhere", "must be a name within runs/"),
        ("name: /elsewhere", "must be a name within runs/"),
        ("model: {backbone: 'hf-hub:timm/resnet18.a1_in1k'}", "no model 'hf-hub:timm/resnet18.a1_in1k'"),
        ("model: {backbone: 'local-dir:elsewhere'}", "no model 'local-dir:elsewhere'"),
        ("model: {backbone: 'resnet18.local-dir:/elsewhere'}", "cannot be built"),
        ("model: {backbone_args: {checkpoint_path: w.pt}}", "checkpoint_path may not be given here"),
        ("model: {backbone_args: {pretrained_model_args: {}}}", "pretrained_model_args may not be given here"),
    ],
)
def test_what_else_a_file_could_try(spy, medsoft, table, tmp_path, text, says):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    data = [] if "table" in text else [f"--data.table={table}"]
    code, _, err = medsoft("fit", "--config", file, *data, "--data.classes=[dark, light]")
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert not spy()


def test_no_configuration_comes_from_a_url(medsoft, table):
    for word in ("--config=memory://c.yaml", "--trainer=memory://c.yaml", "--data=http://localhost:1/c.yaml"):
        code, _, err = medsoft("fit", word, f"--data.table={table}")
        assert code == 2, err


def test_the_environment_sets_no_option(monkeypatch, table):
    monkeypatch.setenv("PL_DATA__LABEL", "other")
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    assert CommandLine("fit", [f"--data.table={table}", "--data.classes=[dark, light]"]).config.data.label == "label"


def test_of_a_bundle_the_trainer_and_the_paths_do_not_count(trained, medsoft, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(trained / "bundle", bundle)
    more = {"trainer": {"devices": 512, "precision": "nonsense"}, "out": str(tmp_path / "planted"), "resume": "x"}
    altered(bundle, {**more, "data": {"cache_dir": str(tmp_path / "planted"), "table": "/etc/passwd"}})
    words = [f"--data.table={trained / 'set' / 'labels.csv'}", "--trainer.accelerator=cpu", "--report=false"]
    assert medsoft("predict", "--bundle", bundle, *words, f"--out={tmp_path / 'a'}")[0] == 0
    assert medsoft("predict", "--bundle", trained / "bundle", *words, f"--out={tmp_path / 'b'}")[0] == 0
    assert (tmp_path / "a" / "predictions.csv").read_bytes() == (tmp_path / "b" / "predictions.csv").read_bytes()
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("architecture", ["hf-hub:a/b", "local-dir:/elsewhere", "resnet18.local-dir:/elsewhere"])
def test_an_encoder_of_a_run_names_a_model_of_timm(architecture):
    from medsoft.encoders.build import create_model
    from medsoft.encoders.recipes import Recipe

    with pytest.raises(InputError):
        create_model(Recipe("x", architecture, (0, 0, 0), (1, 1, 1), 32, 32, pooling="model", arguments={}))
    arguments = {"checkpoint_path": "w.pt"}
    with pytest.raises(InputError, match="checkpoint_path"):
        create_model(Recipe("x", "resnet18", (0, 0, 0), (1, 1, 1), 32, 32, pooling="model", arguments=arguments))


def test_every_registered_class_is_there_under_its_short_and_its_former_name():
    for role, names in REGISTER.items():
        assert DEFAULTS[role] in names
        for name, path in names.items():
            assert find_class(role, name, object, trusted=False).__name__ == path.rpartition(".")[2]
            assert short_name(role, path) == short_name(role, name) == name
            assert find_class(role, path, object, trusted=False) is find_class(role, name, object, trusted=False)


def test_only_medsofts_own_paths_stand_for_a_short_name():
    assert short_name("transforms", "medsoft.data.transforms.Fundus") == "fundus"
    for path in ("evil.Fundus", "medsoftx.data.Fundus", "evil.medsoft.Fundus"):
        assert short_name("transforms", path) == path
        with pytest.raises(InputError, match="trust"):
            find_class("transforms", path, object, trusted=False)
    for path in ("medsoft.cli.main.main", "medsoft.data.tables.sample_table.SampleTable"):
        with pytest.raises(InputError, match="trust"):
            find_class("data", path, object, trusted=False)


def test_a_run_of_before_is_read_by_short_names(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "use: {data: medsoft.data.datasets.volume_module.VolumeDataModule,"
        " model: medsoft.classifiers.image.Classifier}\n"
        "out: x\ntrainer: {callbacks: null, strategy: ddp, accelerator: {class_path: a.B}, max_epochs: 3}\n"
    )
    content = of_a_run(read_configuration(file))
    assert content == {
        "use": {"data": "volume", "model": "classifier"},
        "trainer": {"strategy": "ddp", "max_epochs": 3},
    }
