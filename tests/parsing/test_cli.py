"""The command line: verbs, options, configurations, and what is said of a mistake in them."""

import importlib.machinery
import importlib.util
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from medsoft import __version__
from medsoft.cli import main as cli
from medsoft.encoders.choice import BEGINS_PRETRAINED
from medsoft.errors import InputError, RunError
from medsoft.parsing.configurations import find_configuration, shipped_configurations
from tests.builders.images import write_images

CONFIGURATIONS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
# Those of volumes run a step in the tests of volumes, on volumes.
OF_IMAGES = [file for file in CONFIGURATIONS if "\n  transforms:" in file.read_text()]

# Of a verb of classes, one that has many packages, and one of ours that has them all.
PAGES = [["fit", "--help"], ["predict", "--help", "all"], ["benchmark", "attention", "--help"]]

HELP = """\
medsoft: train, evaluate and run compute-efficient transformers on medical images.

usage: medsoft VERB [options]    (medsoft VERB --help shows the common options, --help all shows every option)

  fit                    train a model; predict and score its validation and test parts
  validate               predict and score the validation part with a trained model
  test                   predict and score the test part, or a separate test table
  predict                predict every row of a table; labels are not needed
  crossval               nested cross-validation by patient: train and report every fold
  plan                   say what is in a table, which models fit it and this machine, and what they would take
  auto                   compare models within a budget of time, take the best, and report once
  pretrain               train a backbone without labels, from an encoder or from views of the same image
  data check             summarise a sample table, and report all its problems
  data split             split a sample table into parts or folds, by patient and stratified
  data index             make a sample table from a folder of DICOM files; find identifying elements
  data masks             draw masks from outlines (GeoJSON, labelme, COCO) for a segmentation
  data crop              cut images to their masks, for a classification
  data show              draw what the model will see, before and after augmentation
  data phantom fundus    draw phantom fundus images, to try things out without data
  data phantom slides    draw phantom slides
  data phantom volumes   draw phantom volumes
  encode                 turn images or volumes into features, one file each
  slides tile            find the tissue of slides and cover it with tiles; draws pictures to check
  slides segment         map the classes of a segmentation model over slides, with outlines and areas
  slides encode          turn the tiles of slides into features, one file per slide
  slides predict         go from slides to predictions and heatmaps in one step
  slides heatmap         draw what each tile contributes to a class of a trained model
  slides export          write feature files in the layout of another tool
  evaluate               compute metrics with confidence intervals, thresholds and calibration
  compare                compare models on the same samples, with confidence intervals
  view                   look at a run, slides, images or volumes in the browser; keep notes and verdicts
  export                 make a bundle from a run: everything that prediction needs, in one folder
  encoders               list pretrained encoders: for what, and whether their weights are here
  weights add            add a file to the folder of weights, with its hash and licence
  weights list           list the folder of weights (MEDSOFT_WEIGHTS)
  weights verify         hash the weights again and compare them with the manifest
  weights convert        convert a softmax vision transformer into one without softmax
  benchmark attention    measure time and memory of attention mechanisms as N grows
  benchmark backbones    measure time and memory of backbones as images grow
  benchmark tiles        measure tiles read per second, against a bare OpenSlide loop
  benchmark engines      measure what computes encoders fastest on this CPU
  benchmark aggregators  measure time and memory of slide aggregators as bags grow
  runs                   list runs: task, data, main metric, size and date
  clean                  free what no finished run needs, after asking
  completion             print a completion script for bash, zsh or fish
  doctor                 print versions, devices and readers, and what is missing

First steps:  medsoft data phantom fundus --out phantoms
              medsoft fit --config fundus --data.table phantoms/labels.csv --data.positive lesions
Exit codes:   0 success; 2 the call, configuration or data is wrong (reported before work starts);
              3 finished, but some inputs failed (errors.csv lists them); 1 ended early; 130 stopped.
              Finished work is kept.
Logs:         fit, crossval, auto, pretrain, validate, test, predict and slides take --log-format json,
              --log-file FILE.
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


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["data"], ["fti"], *PAGES])
def test_what_needs_no_work_imports_nothing_heavy(words):
    """The cause of a quick answer, and not the clock: a bare torch takes seconds."""
    code = f"import sys; from medsoft.cli.main import main; main({words}); print('\\n'.join(sys.modules))"
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
    for module, name in (verb.function.split(":") for verb in cli.VERBS.values()):
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
        assert "the verbs of medsoft data are check, split, index, masks, crop, show, phantom" in err


def test_help_of_a_group_lists_its_verbs(medsoft):
    code, out, _ = medsoft("slides", "--help")
    assert code == 0
    verbs = ["tile", "segment", "encode", "predict", "heatmap", "export"]
    assert [line.split()[1] for line in out.splitlines()[2:]] == verbs


def options_listed(text: str) -> dict[str, str]:
    """Options of a help text to all that is said of them, without line breaks."""
    entries = [entry.partition("\n\n")[0] for entry in re.split(r"\n(?=  --)", text)[1:]]
    return {entry.split()[0].lstrip("-"): " ".join(entry.split()[1:]) for entry in entries}


def test_help_lists_every_option_with_type_default_and_a_sentence(medsoft):
    from medsoft.classifiers.base import TableClassifier
    from medsoft.classifiers.fine_tuning import FineTunedClassifier
    from medsoft.classifiers.image import Classifier
    from medsoft.data.datasets.base import TableDataModule
    from medsoft.data.datasets.image_module import ImageDataModule
    from medsoft.data.transforms.fundus import Fundus
    from medsoft.parsing.lightning_cli import SET_BY_MEDSOFT, WITHOUT_USE

    listed = options_listed(medsoft("fit", "--config", "fundus", "--help", "all")[1])
    set_elsewhere = {"self", "data.transforms", "data.seed", "data.stage", "model.spec"}
    expected = {"seed_everything", "name", "out", "resume", "monitor", "patience", "ema_decay", "save_every_n_steps"}
    expected |= {"ood_quantile", "batch_size", "workers", "device", "config", "log_format", "log_file"}
    for group, made in {"transforms": Fundus, "data": ImageDataModule, "model": Classifier, "trainer": Trainer}.items():
        expected |= {f"{group}.{name}" for name in inspect.signature(made).parameters}
    expected |= {f"data.{name}" for name in inspect.signature(TableDataModule).parameters}
    for base in (TableClassifier, FineTunedClassifier):
        expected |= {f"model.{name}" for name in inspect.signature(base).parameters}
    expected -= {"data.rows", "model.training"}
    expected -= set_elsewhere | {f"trainer.{name}" for name in SET_BY_MEDSOFT | WITHOUT_USE}
    assert expected <= listed.keys()
    for said in listed.values():
        found = re.fullmatch(r"(.+?) \(([^()]+); (required|default: .*)\)", said)
        assert found, said
        assert len(found[1].split()) >= 3, said
    assert not set_elsewhere & listed.keys()
    assert listed["data.batch_size"] == "Images per step. (a whole number; default: 16)"  # fundus's own
    assert listed["data.table"].endswith("(text; required)")


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_help_of_the_other_verbs_leaves_out_what_belongs_to_fit(medsoft, verb):
    listed = options_listed(medsoft(verb, "--help", "all")[1])
    assert {"checkpoint", "data.batch_size", "trainer.precision"} <= listed.keys()
    assert not {"resume", "monitor", "patience", "ema_decay", "save_every_n_steps", "ood_quantile"} & listed.keys()


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_is_short_and_says_how_to_see_the_rest(medsoft, verb):
    code, short, err = medsoft(*verb.split(), "--help")
    assert (code, err) == (0, "")
    every = medsoft(*verb.split(), "--help", "all")[1]
    assert len(options_listed(short)) <= 18
    assert options_listed(short).keys() <= options_listed(every).keys()
    left = len(options_listed(every)) - len(options_listed(short))
    assert (f"{left} more options: medsoft {verb} --help all" in short) == (left > 0)


def test_help_is_of_the_classes_and_with_the_values_of_a_configuration(medsoft):
    listed = options_listed(medsoft("fit", "--config", "histo", "--help", "all")[1])
    assert listed["data.features"]
    assert listed["name"].endswith("default: histo)")
    assert not any(name.startswith("transforms.") for name in listed)
    assert "model.aggregator" in options_listed(medsoft("fit", "--config", "histo", "--help")[1])
    listed = options_listed(medsoft("fit", "--use.transforms=histology", "--help", "all")[1])
    assert "transforms.stain_jitter" in listed
    assert "transforms.spacing_mm" in options_listed(medsoft("data", "show", "--config=volume", "--help", "all")[1])


def test_help_of_classes_of_ones_own_is_made_from_them(ends, medsoft, tmp_path, monkeypatch):
    (tmp_path / "own_recipe.py").write_text(
        "from medsoft.data.transforms.plain import Plain\n\n"
        "class Own(Plain):\n    def __init__(self, glow: int = 3):\n"
        '        """Args:\n            glow: How much.\n        """\n        super().__init__()\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["fit", "--use.transforms=own_recipe.Own", "--help", "all"]
    assert options_listed(ends(*words, "--trust"))["transforms.glow"].endswith("(a whole number; default: 3)")
    code, _, err = medsoft(*words)
    assert (code, "--trust" in err) == (2, True)


def test_another_help_than_there_is_gets_one_line(medsoft):
    said = "--help model: use --help for the common options, or --help all for every option"
    assert medsoft("fit", "--help=model") == (2, "", f"medsoft: error: {said}\n")


def test_the_table_of_help_is_up_to_date():
    path = Path(__file__).parents[2] / "scripts" / "help_table"
    loader = importlib.machinery.SourceFileLoader("help_table", str(path))
    script = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(script)
    assert script.TABLE.read_text(encoding="utf-8") == script.text(), "out of date: run scripts/help_table"


@pytest.fixture
def read(monkeypatch):
    """Read a command line of a verb that trains or applies a model, and make nothing."""
    from medsoft.parsing.lightning_cli import CommandLine

    monkeypatch.setattr(CommandLine, "instantiate_classes", lambda self: None)
    return lambda verb, *words: CommandLine(verb, [*words, "--data.table=t.csv"])


def test_options_have_the_names_that_they_have_in_every_verb(read):
    config = read("fit", "--batch-size", "5", "--workers=2", "--device=cuda:1").config
    assert (config.data.batch_size, config.data.num_workers) == (5, 2)
    assert (config.trainer.accelerator, config.trainer.devices) == ("cuda", [1])
    config = read("predict", "--device", "cpu", "--data.batch-size=3", "--model.weight-decay=0.5").config
    assert (config.trainer.accelerator, config.trainer.devices) == ("cpu", "1")
    assert (config.data.batch_size, config.model.weight_decay) == (3, 0.5)
    assert read("fit", "--device=auto", "--trainer.devices=2").config.trainer.devices == "2"
    assert read("fit", "--data.batch_size=3", "--batch_size=4").config.data.batch_size == 4


def test_a_key_of_a_mapping_is_set_beside_the_others(read):
    words = ["--model.backbone_args={depth: 2, num_heads: 4}", "--model.backbone_args.num_heads", "8"]
    assert read("fit", *words).config.model.backbone_args == {"depth": 2, "num_heads": 8}


def test_a_flag_may_stand_alone(read):
    config = read("crossval", "--leave-one-site-out", "--report", "false", "--data.balanced_sampling").config
    assert (config.leave_one_site_out, config.report, config.data.balanced_sampling) == (True, False, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--device=gpu"], "--device gpu: auto, cpu, cuda, cuda:1 or mps; several with --trainer.devices"),
        (["--device=cpu:1"], "--device cpu:1: auto, cpu"),
        (["--ckpt_path=x"], "--ckpt_path is now called --checkpoint"),
        (["--ckpt-path", "x"], "--ckpt_path is now called --checkpoint"),
        (["--batch_size"], "option --data.batch_size needs a value"),
        (["--trust=maybe"], "--trust maybe: must be true or false"),
    ],
)
def test_a_wrong_word_gets_one_line(medsoft, words, says):
    code, _, err = medsoft("predict", "--data.table=t.csv", *words)
    assert code == 2
    assert err.startswith(f"medsoft: error: {says}")
    assert err.count("\n") == 1


def test_an_old_name_in_a_configuration_is_answered_too(read, tmp_path):
    (tmp_path / "mine.yaml").write_text("ckpt_path: runs/a")
    with pytest.raises(InputError, match="ckpt_path is now called --checkpoint"):
        read("predict", f"--config={tmp_path / 'mine.yaml'}")


def test_an_old_name_is_answered_only_where_the_verb_has_the_new_one(medsoft):
    code, _, err = medsoft("export", "runs/a", "--ckpt_path=x")
    assert (code, "now called" in err, "unknown option --ckpt_path" in err) == (2, False, True)


def test_the_configuration_of_a_run_of_version_0_1_is_read(read, tmp_path):
    (tmp_path / "config.yaml").write_text("pictures: false\n")
    assert read("fit", f"--config={tmp_path / 'config.yaml'}").config.figures is False


@pytest.mark.parametrize("words", [["--help"], ["data", "--help"], ["--version"], ["fit", "--help"]])
def test_a_reader_that_goes_away_is_no_error(words, monkeypatch, capsys):
    """As with ``medsoft --help | head``."""

    def gone(*args, **more):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert cli.main(words) == 141


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
    assert (code, err) == (2, "medsoft: error: unknown option --stage; --help all lists all options\n")
    code, _, err = medsoft("fit", f"--data.table={table}", "--data.seed=3")
    assert (code, err) == (
        2,
        "medsoft: error: --data.seed cannot be set: it always has the value of --seed_everything\n",
    )


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
        (
            "use: {data: nowhere.Data}",
            "use.data: nowhere.Data is none of medsoft's own (image, bag, volume, masks, boxes, volume_masks)",
        ),
        (
            "use: {data: imagee}",
            "there is no data 'imagee': one of image, bag, volume, masks, boxes, volume_masks; did you mean image?",
        ),
        ("trust: true", "trust can only be given on the command line, never in a file"),
        ("use: fundus", "use must be a mapping"),
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
    if file.stem in BEGINS_PRETRAINED:
        words.append("--model.encoder=none")  # which would bring a training of its own
    if file.stem == "probe":
        words.remove("--model.lr=0.0123")
    if file.stem in ("segmentation", "segmentation_volume", "detection"):
        words.remove("--data.positive=2,3")
    printed = ends("fit", f"--config={file.stem}", *words, "--print_config")
    saved = tmp_path / "saved.yaml"
    saved.write_text(printed)
    assert ends("fit", f"--config={saved}", "--print_config") == printed
    values = yaml.safe_load(printed)
    assert (values["data"]["table"], values["monitor"]) == ("somewhere.csv", "brier")
    assert values["model"].get("lr") == (None if file.stem == "probe" else 0.0123)
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
    monkeypatch.setattr("medsoft.workflows.fit.fit", raising(error))
    got, _, err = medsoft("fit")
    assert got == code
    assert err.startswith(f"medsoft: error: {says}")
    assert err.count("\n") == 1


def test_a_fault_of_medsoft_itself_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("medsoft.workflows.fit.fit", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
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


def test_all_misspelt_options_of_a_call_are_told_at_once(tmp_path, medsoft, table):
    (tmp_path / "mine.yaml").write_text("trainer: {max_epoch: 3}\ndata: {exma: x}")
    words = ["--data.lable=x", "--model.lrr", "3", "word", "--config", tmp_path / "mine.yaml"]
    code, _, err = medsoft("fit", f"--data.table={table}", *words)
    assert (code, err.count("\n")) == (2, 1)
    for said in (
        "--data.lable (the nearest is data.label)",
        "--model.lrr (the nearest is model.lr)",
        "trainer.max_epoch (the nearest is trainer.max_epochs)",
        "data.exma (the nearest is data.exam)",
        "'word' belongs to no option",
    ):
        assert said in err


def test_all_misspelt_options_of_other_verbs_are_told_at_once(medsoft, table):
    code, _, err = medsoft("data", "check", table, "--lable=x", "--pateint", "p")
    assert (code, err.count("\n")) == (2, 1)
    assert "--lable (the nearest is label)" in err
    assert "--pateint (the nearest is patient)" in err


@pytest.mark.parametrize(
    ("config", "option", "belongs"),
    [
        ("fundus", "--data.laterality=x", "volumes (--config volume)"),
        ("fundus", "--data.features=x", "slides (--config histo)"),
        ("fundus", "--model.aggregator=mean", "slides (--config histo) and volumes as bags of slices"),
        ("fundus", "--transforms.spacing_mm=1", "volumes (--config volume)"),
        ("fundus", "--transforms.stain_jitter=1", "the histology recipe (use: {transforms: histology})"),
        ("histo", "--transforms.crop_to_disc=true", "the fundus recipe (use: {transforms: fundus})"),
        ("histo", "--model.backbone=resnet18", "pictures and volumes"),
        ("volume", "--data.voi=true", "pictures (--config fundus, chest_xray and others)"),
        ("fundus", "--data.mask_threshold=1", "masks (--config segmentation)"),
        ("fundus", "--folds=5", "medsoft crossval"),
        ("fundus", "--checkpoint=x", "medsoft validate, test and predict"),
    ],
)
def test_an_option_of_another_kind_says_where_it_belongs(medsoft, config, option, belongs):
    code, _, err = medsoft("fit", "--config", config, "--data.table=t.csv", option)
    name = option.partition("=")[0]
    assert code == 2
    assert err.startswith(f"medsoft: error: unknown option {name}: it belongs to {belongs}")


def test_a_task_that_there_is_not_gets_the_list(medsoft, table):
    code, _, err = medsoft("fit", f"--data.table={table}", "--data.task=grading")
    kinds = (
        "binary, multiclass, multilabel, ordinal, regression, survival, segmentation, segmentation_volume, detection, "
        "multitask"
    )
    said = f"option data.task: 'grading' is not of its type: one of {kinds}"
    assert (code, err) == (2, f"medsoft: error: {said}\n")
    assert kinds in " ".join(medsoft("fit", "--help", "all")[1].split())


def test_another_backbone_leaves_out_the_arguments_that_it_does_not_take(read):
    line = read("fit", "--config", "fundus", "--model.backbone=resnet18")
    assert line.config.model.backbone_args is None
    assert line.notes == ["model.backbone_args of --config fundus: depth left out, which resnet18 does not take"]
    line = read("fit", "--config", "fundus", "--model.backbone=vit_softmax_tiny_patch16_224")
    assert line.config.model.backbone_args == {"depth": 6}
    assert "depth 6 also for vit_softmax_tiny_patch16_224" in line.notes[0]
    line = read("fit", "--config", "histo", "--model.aggregator=mean")
    assert line.config.model.aggregator_args == {"dim": 256, "drop": 0.1}
    assert "attention, num_heads, depth left out, which mean does not take" in line.notes[0]
    line = read("fit", "--config", "histo", "--model.aggregator=abmil", "--model.aggregator_args.dim=64")
    assert line.config.model.aggregator_args["dim"] == 64
    assert "depth" not in line.config.model.aggregator_args
    assert read("fit", "--config", "fundus").notes == []
    own = ["--model.backbone=resnet18", "--model.backbone_args={depth: 3}"]
    assert read("fit", "--config", "fundus", *own).config.model.backbone_args == {"depth": 3}
