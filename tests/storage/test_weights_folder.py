"""A folder of weights: what is added is listed with its hash, found by name wherever weights are taken, and checked."""

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from medsoft.encoders.build import Stated, build_encoder, create_model
from medsoft.encoders.recipes import recipes
from medsoft.errors import InputError
from medsoft.models.weights import load_pretrained
from medsoft.storage.weights_folder import MANIFEST, Weights, WeightsFolder, find_weights, weights_for
from tests.builders.images import TINY

SMALL = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 32}
SAID = ["--licence", "CC0", "--source", "the authors' page"]


@pytest.fixture
def file(tmp_path) -> Path:
    """Weights of a small transformer."""
    torch.manual_seed(0)
    model = timm.create_model("vit_seqnorm_tiny_patch16_224", num_classes=0, **SMALL)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDSOFT_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def added(medsoft, file, folder) -> Path:
    """The folder with the weights ``small``."""
    code, out, err = medsoft("weights", "add", file, "--name", "small", *SAID)
    assert code == 0, err
    assert hashlib.sha256(file.read_bytes()).hexdigest() in out
    return folder


def flip(path: Path, at: int = -1) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_what_is_added_is_copied_and_listed(medsoft, added, file):
    values = json.loads((added / MANIFEST).read_text())["weights"]["small"]
    assert values == {
        "file": "small.safetensors",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "licence": "CC0",
        "source": "the authors' page",
        "recipe": "",
    }
    assert (added / "small.safetensors").read_bytes() == file.read_bytes()
    code, out, _ = medsoft("weights", "list")
    assert code == 0
    assert "small" in out
    assert "CC0" in out
    assert medsoft("weights", "verify")[:2] == (0, "small: as it was added\n")


def test_a_changed_file_is_refused_wherever_it_is_taken(medsoft, added, table):
    flip(added / "small.safetensors")
    code, out, _ = medsoft("weights", "verify")
    assert (code, "was changed: its SHA-256 is" in out) == (3, True)
    for given in ("small", str(added / "small.safetensors")):  # by its path too
        with pytest.raises(InputError, match="was changed"):
            find_weights(given)
    code, _, err = medsoft(
        "fit", f"--data.table={table}", "--data.classes=[dark, light]", *TINY, "--model.pretrained=small"
    )
    assert (code, "was changed" in err) == (2, True)


def test_a_cut_and_a_missing_file_are_told_apart(medsoft, added):
    path = added / "small.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "cut short" in medsoft("weights", "verify", "small")[1]
    path.unlink()
    assert "No such file" in medsoft("weights", "verify")[1]


def test_files_that_nobody_listed_are_told(medsoft, added):
    (added / "strange.bin").write_bytes(b"x")
    code, out, _ = medsoft("weights", "verify")
    assert (code, "not listed, and not checked: strange.bin" in out) == (0, True)
    assert medsoft("weights", "verify", "other")[0] == 2


def test_weights_by_name_train_as_those_by_path(medsoft, added, file, table, tmp_path):
    scaled = ["--transforms.mean=[0.5, 0.5, 0.5]", "--transforms.std=[0.25, 0.25, 0.25]"]
    for given, out in (("small", "name"), (file, "path")):
        words = [f"--data.table={table}", "--data.classes=[dark, light]", "--data.patient=patient", *TINY, *scaled]
        code, _, err = medsoft(
            "fit", *words, "--trainer.max_epochs=1", f"--model.pretrained={given}", f"--out={tmp_path / out}"
        )
        assert code == 0, err
    assert (tmp_path / "name" / "predictions.csv").read_bytes() == (tmp_path / "path" / "predictions.csv").read_bytes()


def test_a_name_that_is_a_file_too_is_not_guessed(added, file):
    Path("small").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"write \./small"):
        find_weights("small")
    assert find_weights("./small") == Path("small")


def test_an_unknown_name_gets_what_there_is(added):
    with pytest.raises(InputError, match=r"no such file, and no weights of this name .* which has small"):
        find_weights("smal")
    assert find_weights("weights/elsewhere.pt") == Path("weights/elsewhere.pt")  # whoever loads it says so


def test_without_a_folder_a_path_stays_a_path(monkeypatch, file):
    monkeypatch.delenv("MEDSOFT_WEIGHTS", raising=False)
    assert find_weights(str(file)) == file
    assert weights_for("uni", None) is None
    with pytest.raises(InputError, match="--folder"):
        WeightsFolder.chosen()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "../x", *SAID], "letters, digits"),
        (["--name", "small", *SAID], "already has weights 'small'"),
        (["--name", "x", "--licence", " ", "--source", "here"], "--licence must not be empty"),
        (["--name", "x", *SAID, "--recipe", "unni"], "no recipe"),
        (["--name", "x", *SAID, "--recipe", "efficientnet-lite0"], "come with the package"),
        (["--name", "x", *SAID, "--recipe", "resnet50-imagenet"], "not the weights of this encoder"),
        (["--name", "x", *SAID, "--sha256", "0" * 64], "another file"),
    ],
)
def test_what_cannot_be_added(medsoft, added, file, words, message):
    before = (added / MANIFEST).read_bytes()
    code, _, err = medsoft("weights", "add", file, *words)
    assert (code, message in err) == (2, True), err
    assert (added / MANIFEST).read_bytes() == before
    assert sorted(path.name for path in added.iterdir()) == ["small.safetensors", MANIFEST]


def test_overwriting_leaves_no_old_file(medsoft, added, file, tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    code, _, err = medsoft("weights", "add", tmp_path / "other.pt", "--name", "small", *SAID, "--overwrite", "true")
    assert code == 0, err
    assert sorted(path.name for path in added.iterdir()) == ["small.pt", MANIFEST]


def test_an_encoder_finds_its_weights_by_recipe_or_by_hash(medsoft, folder, tmp_path, capfd):
    torch.manual_seed(1)
    model = create_model(recipes()["resnet50-imagenet"])
    torch.save(model.state_dict(), tmp_path / "r.pth")
    words = ["--name", "r50", "--recipe", "ResNet50-ImageNet"]
    assert medsoft("weights", "add", tmp_path / "r.pth", *words, *SAID)[0] == 0
    digest = hashlib.sha256((tmp_path / "r.pth").read_bytes()).hexdigest()
    assert build_encoder("resnet50-imagenet").sha256 == digest
    assert "Weights of resnet50-imagenet" in capfd.readouterr().out
    assert weights_for("uni", digest) == folder / "r50.pth"
    assert weights_for("uni", None) is None
    assert weights_for("resnet50-imagenet", "0" * 64) is None  # other weights than those of the training

    chosen = WeightsFolder(folder)
    chosen.add("again", chosen.listed["r50"])
    with pytest.raises(InputError, match="choose with --weights"):
        weights_for("resnet50-imagenet", None)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 2, "weights": {}}',
        '{"format": 1, "weights": {"a": {"file": "a"}}}',
        json.dumps({"format": 1, "weights": {"a": vars(Weights("../a", "0", 1, "l", "s"))}}),
        json.dumps({"format": 1, "weights": {"../a": vars(Weights("a", "0", 1, "l", "s"))}}),
    ],
)
def test_a_manifest_that_is_none(folder, content):
    folder.mkdir()
    (folder / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=str(folder / MANIFEST)):
        WeightsFolder(folder)


def test_timms_own_ways_to_fetch_weights_are_refused(medsoft, table):
    words = [f"--data.table={table}", "--data.classes=[dark, light]", *TINY]
    code, _, err = medsoft("fit", *words, "--model.backbone_args={pretrained: true}")
    assert (code, "Nothing is downloaded" in err) == (2, True), err


def test_another_architecture_is_refused_by_name(added):
    model = timm.create_model("resnet10t", num_classes=0)
    with pytest.raises(InputError, match="not of this backbone"):
        load_pretrained(model, "small")
    with pytest.raises(InputError, match="not the weights of this encoder"):
        build_encoder("resnet10t", find_weights("small"), stated=Stated((0.5,) * 3, (0.5,) * 3, 32))
