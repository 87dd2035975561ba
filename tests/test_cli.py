"""The command line: verbs, options, configurations, and what is said of a mistake in them."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from medsoft import __version__, cli
from medsoft.errors import RunError
from medsoft.parsing import find_configuration, shipped_configurations
from tests.conftest import write_images

CONFIGURATIONS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
# Those of volumes run a step in the tests of volumes, on volumes.
OF_IMAGES = [file for file in CONFIGURATIONS if "medsoft.data.transforms." in file.read_text()]

HELP = """\
medsoft: train, evaluate and run compute-efficient transformers on medical images.

usage: medsoft VERB [options]    (medsoft VERB --help lists the options of a verb)

  fit                    train a model; predict and score its validation and test parts
  validate               predict and score the validation part with a trained model
  test                   predict and score the test part, or a whole table of its own
  predict                predict every row of a table; labels are not needed
  crossval               train and report the folds of a table, nested and by patient
  data check             report all problems of a sample table, and what it holds
  data split             split a sample table by patient, stratified, into parts or folds
  data index             make a sample table of a folder of DICOM; find identifying elements
  data show              draw what the model will see, before and after augmentation
  data phantom           make procedural images to try things out without data
  slides tile            find the tissue of slides and lay tiles over it, with pictures to check
  slides encode          turn the tiles of slides into features, one file a slide
  slides predict         from slides to probabilities and heatmaps in one go
  slides heatmap         draw what each tile adds to a class of a trained model
  slides export          write feature files in the layout of another tool
  evaluate               metrics with intervals, thresholds and calibration
  compare                differences between models on the same samples, with intervals
  export                 make a bundle of a run: all that prediction needs, in one folder
  weights add            put a file into the folder of weights, with its hash and licence
  weights list           what is in the folder of weights (MEDSOFT_WEIGHTS)
  weights verify         hash the weights again and compare with the manifest
  weights convert        turn a softmax vision transformer into one without softmax
  benchmark attention    time and memory of attention mechanisms as N grows
  benchmark backbones    time and memory of backbones as images grow
  benchmark tiles        tiles a second of our reading against a bare OpenSlide loop
  benchmark aggregators  time and memory of slide aggregators as bags grow
  doctor                 print versions, devices and readers, and what is missing

First steps:  medsoft data phantom fundus --out phantoms
              medsoft fit --config fundus --data.table phantoms/labels.csv --data.positive lesions
Exit codes:   0 all done; 2 the call, configuration or data is wrong (said before work starts);
              3 done, but some inputs failed (errors.csv lists them); 1 ended early; 130 stopped.
              What was finished is kept.
Logs:         fit, crossval, validate, test, predict and slides take --log-format json, --log-file FILE.
"""


@pytest.fixture
def ends(capfd):
    """Run a command line that ends the interpreter, such as one with --help; gives standard output."""

    def run(*words: object) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        assert end.value.code in (0, None)
        return capfd.readouterr().out

    return run


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["data"], ["fti"]])
def test_what_needs_no_work_imports_nothing_heavy(words):
    """The cause of a quick answer, and not the clock: a bare torch takes seconds."""
    code = f"import sys; from medsoft.cli import main; main({words}); print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()}
    heavy = {"torch", "torchvision", "numpy", "pandas", "monai", "lightning", "timm", "albumentations", "jsonargparse"}
    heavy |= {"cv2", "sklearn", "scipy", "matplotlib", "PIL", "yaml", "rich", "tifffile", "tensorboard", "pyarrow"}
    assert not loaded & heavy


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "medsoft", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"medsoft {__version__}\n")
    assert subprocess.run([sys.executable, "-m", "medsoft", "nothing"], capture_output=True).returncode == 2


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help(medsoft, words):
    assert medsoft(*words) == (0, HELP, "")


def test_every_verb_is_there():
    for module, name in (where.split(":") for where, _ in cli.VERBS.values()):
        assert callable(getattr(__import__(module, fromlist=[name]), name))


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("fti", "fit"), ("tset", "test"), ("Predict", "predict"), ("train", "fit"), ("cv", "crossval")],
)
def test_an_unknown_verb_gets_the_nearest(medsoft, word, nearest):
    code, _, err = medsoft(word, "--config", "fundus")
    assert code == 2
    assert err == f"medsoft: error: no verb '{word}'; did you mean '{nearest}'?\n"


def test_an_unknown_verb_of_a_group_gets_the_group(medsoft):
    for words in (["data"], ["data", "chekc"]):
        code, _, err = medsoft(*words)
        assert code == 2
        assert "medsoft data does: check, split, index, show, phantom" in err


def test_help_of_a_group_lists_its_verbs(medsoft):
    code, out, _ = medsoft("slides", "--help")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()[2:]] == ["tile", "encode", "predict", "heatmap", "export"]


def options_listed(text: str) -> dict[str, str]:
    """Options of a help text to all that is said of them, without line breaks."""
    found = {}
    text = text.partition("\nLinked arguments:")[0]
    for entry in re.split(r"\n(?=  -)", text)[1:]:
        entry = entry.partition("\n\n")[0]
        name = re.search(r"--([\w.]+)", entry)[1]
        found[name] = " ".join(entry.split())
    return found


def test_help_lists_every_option_with_type_default_and_a_sentence(ends, monkeypatch):
    from medsoft.data.images import ImageDataModule
    from medsoft.data.transforms.fundus import Fundus
    from medsoft.learn.classifier import Classifier
    from medsoft.learn.command_line import SET_BY_MEDSOFT, WITHOUT_USE

    monkeypatch.setenv("COLUMNS", "200")
    listed = options_listed(ends("fit", "--config", "fundus", "--help"))
    set_elsewhere = {"self", "data.transforms", "data.seed", "data.stage", "model.spec"}
    expected = {"seed_everything", "name", "out", "resume", "monitor", "patience", "ema_decay", "save_every_n_steps"}
    expected |= {"ood_quantile"}
    for group, made in {"transforms": Fundus, "data": ImageDataModule, "model": Classifier, "trainer": Trainer}.items():
        expected |= {f"{group}.{name}" for name in inspect.signature(made).parameters}
    expected -= set_elsewhere | {f"trainer.{name}" for name in SET_BY_MEDSOFT | WITHOUT_USE}
    assert expected <= listed.keys()
    groups = {"help", "config", "print_config", "transforms", "data", "model", "trainer"}
    for name in listed.keys() - groups:
        if name.endswith(".help"):
            continue
        said = re.fullmatch(
            r"--\S+(?: [A-Z_]+| {\S+})?(?:, --\S+ [A-Z_]+)? (.+?) \((required, )?type: .*\)", listed[name]
        )
        assert said, listed[name]
        assert len(said[1].split()) >= 3, listed[name]
        assert re.search(r"default: .*\)$|\(required, type", listed[name]), listed[name]
    assert not set_elsewhere & listed.keys()


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_help_of_the_other_verbs_leaves_out_what_belongs_to_fit(ends, verb):
    listed = options_listed(ends(verb, "--help"))
    assert "ckpt_path" in listed
    assert not {"resume", "monitor", "patience", "ema_decay", "save_every_n_steps", "ood_quantile"} & listed.keys()


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--data.labels=x", "data.label"),
        ("--model.backbon=resnet18", "model.backbone"),
        ("--trainer.max_epoch=3", "trainer.max_epochs"),
        ("--transforms.sise=3", "transforms.size"),
        ("--seed=3", "seed_everything"),
        ("--lr=3", "model.lr"),
        ("--data.lr=3", "model.lr"),
        ("--model.learning_rate=3", "model.lr"),
        ("--epochs=3", "trainer.max_epochs"),
        ("--transforms.image_size=3", "transforms.size"),
    ],
)
def test_a_misspelt_option_gets_one_line_with_the_nearest(medsoft, table, word, nearest):
    code, _, err = medsoft("fit", f"--data.table={table}", word)
    assert code == 2
    name = word.lstrip("-").partition("=")[0]
    assert err == f"medsoft: error: unknown option --{name}; the nearest is {nearest}\n"


def test_what_medsoft_sets_itself_is_no_option_and_not_offered_as_one(medsoft, table):
    code, _, err = medsoft("fit", f"--data.table={table}", "--stage=test")
    assert (code, err) == (2, "medsoft: error: unknown option --stage; --help lists all options\n")
    code, _, err = medsoft("fit", f"--data.table={table}", "--data.seed=3")
    assert (code, err) == (2, 'medsoft: error: Linked "data.seed" must be given via "seed_everything".\n')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: {labels: x}", "unknown option data.labels; the nearest is data.label"),
        ("trainer: {max_epoch: 3}", "unknown option trainer.max_epoch; the nearest is trainer.max_epochs"),
        (
            "model: {backbone_arg: {depth: 2}}",
            "unknown option model.backbone_arg.depth; the nearest is model.backbone_args",
        ),
        ("modle: {lr: 3}", "unknown option modle.lr; the nearest is model.lr"),
        ("monitr: loss", "unknown option monitr; the nearest is monitor"),
        ("trainer: {max_epochs: many}", "trainer.max_epochs"),
        ("trainer: {precision: 17}", "option trainer.precision: '17' is not of its type"),
        ("data: {cache: disk}", "data.cache"),
        ("use: {data: nowhere.Data}", "use.data: nowhere.Data cannot be imported"),
        ("use: fundus", "use must name classes by data, model, transforms"),
        ("use: {nothing: a.B}", "use: nothing is none of data, model, transforms"),
        ("- a\n- list", "not a configuration (a mapping of options)"),
        ("a: [", "not YAML"),
        ("", "not a configuration"),
    ],
)
def test_a_mistake_in_a_configuration_gets_one_line(tmp_path, medsoft, table, text, says):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    code, _, err = medsoft("fit", "--config", file, f"--data.table={table}")
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert err.startswith("medsoft: error: ")


@pytest.mark.parametrize("words", [["--config", "nowhere"], ["--config=nowhere"], ["-c", "nowhere"], ["--config"]])
@pytest.mark.parametrize("verb", ["fit", "test"])
def test_of_an_unknown_configuration_the_shipped_ones_are_listed(medsoft, verb, words):
    code, _, err = medsoft(verb, *words)
    assert code == 2
    assert err.count("\n") == 1
    assert all(file.stem in err for file in CONFIGURATIONS)


def test_a_configuration_keeps_its_older_name():
    assert find_configuration("histology") == find_configuration("histo_tiles")


def test_the_shipped_configurations_are_those_of_the_folder():
    assert {name: path.resolve() for name, path in shipped_configurations().items()} == {
        file.stem: file.resolve() for file in CONFIGURATIONS
    }


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
def test_a_printed_configuration_reads_as_what_it_was_printed_from(tmp_path, ends, file):
    words = ["--data.table=somewhere.csv", "--model.lr=0.0123", "--data.positive=2,3", "--monitor=brier"]
    printed = ends("fit", f"--config={file.stem}", *words, "--print_config")
    saved = tmp_path / "saved.yaml"
    saved.write_text(printed)
    assert ends("fit", f"--config={saved}", "--print_config") == printed
    values = yaml.safe_load(printed)
    assert (values["data"]["table"], values["model"]["lr"], values["monitor"]) == ("somewhere.csv", 0.0123, "brier")
    shipped = yaml.safe_load(file.read_text())
    assert values["name"] == shipped["name"] == file.stem
    for group in {"transforms", "data", "trainer", "use"} & shipped.keys():
        assert shipped[group].items() <= values[group].items()


@pytest.mark.parametrize("file", OF_IMAGES, ids=lambda file: file.stem)
def test_each_shipped_configuration_of_images_runs_a_step(tmp_path, fit, file):
    # Not limit_train_batches=1: typing's cache may hold float | int from another module, and then 1 becomes 1.0, all.
    one = ["--data.batch_size=100", "--trainer.max_epochs=1"]
    fit(f"--config={file.stem}", *one, f"--out={tmp_path / 'run'}")
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["use"]["transforms"] == yaml.safe_load(file.read_text())["use"]["transforms"]
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 1


def test_configurations_add_up_and_the_command_line_wins(tmp_path, ends):
    (tmp_path / "a.yaml").write_text("model: {lr: 0.1, dropout: 0.3}\nname: a")
    (tmp_path / "b.yaml").write_text("model: {lr: 0.2}")
    words = ["--config=fundus", "-c", tmp_path / "a.yaml", "--config", tmp_path / "b.yaml", "--name=mine"]
    values = yaml.safe_load(ends("fit", *words, "--data.table=t.csv", "--print_config"))
    assert (values["model"]["lr"], values["model"]["dropout"], values["name"]) == (0.2, 0.3, "mine")
    assert values["transforms"]["crop_to_disc"] is True


def test_transforms_can_be_named_on_the_command_line(ends):
    words = ["--use.transforms=medsoft.data.transforms.histology.Histology", "--data.table=t.csv", "--print_config"]
    assert "stain_jitter" in yaml.safe_load(ends("fit", *words))["transforms"]


@pytest.mark.parametrize("words", [[], ["--config", "fundus"]])
def test_a_required_option_that_is_not_given_is_named(medsoft, words):
    code, _, err = medsoft("fit", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "data.table" in err


def raising(error):
    def verb(argv):
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RunError("the disk is full"), 1, "the disk is full"),
        (OSError(28, "No space left on device", "a/b.csv"), 1, "a/b.csv: No space left on device"),
        (PermissionError(13, "Permission denied", "a/b.csv"), 1, "a/b.csv: Permission denied"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_what_ends_a_verb_early_is_one_line(medsoft, monkeypatch, error, code, says):
    monkeypatch.setattr("medsoft.learn.verbs.fit", raising(error))
    got, _, err = medsoft("fit")
    assert got == code
    assert err.startswith(f"medsoft: error: {says}")
    assert err.count("\n") == 1


def test_a_fault_of_medsoft_itself_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("medsoft.learn.verbs.fit", raising(FileNotFoundError(2, "No such file or directory", "x")))
    with pytest.raises(FileNotFoundError):
        cli.main(["fit"])


def test_show_names_the_row_that_it_cannot_draw(tmp_path, medsoft):
    table = write_images(tmp_path / "set", 4)
    broken = tmp_path / "set" / "images" / "im002.png"
    broken.write_bytes(broken.read_bytes()[:600])
    code, _, err = medsoft(
        "data", "show", table, "--config=fundus", "--data.classes=[dark, light]", "--transforms.size=32"
    )
    assert (code, err.count("\n")) == (2, 1), err
    assert "labels.csv: row 3 cannot be drawn: " in err
    assert "im002" not in err


def test_show_draws_what_the_model_will_see(tmp_path, medsoft, table):
    out = tmp_path / "sheet.png"
    code, said, err = medsoft(
        "data", "show", table, "--config=fundus", "--data.classes=[dark, light]", "--transforms.size=32", f"--out={out}"
    )
    assert (code, err) == (0, "")
    assert "sheet.png" in said
    from PIL import Image

    assert np.asarray(Image.open(out)).std() > 10
