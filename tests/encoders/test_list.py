"""``medsoft encoders``: what there is, for what, and whether the weights are here."""

import pytest
from safetensors.torch import save_file

from medsoft.encoders.build import create_model
from medsoft.encoders.recipes import Recipe, own_recipe, recipes
from medsoft.storage.hashing import sha256
from medsoft.storage.weights_folder import VARIABLE, Weights, WeightsFolder

HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of weights with an encoder that brought its recipe."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    arguments = {"depth": 1, "embed_dim": 16, "num_heads": 2}
    recipe = Recipe("mine", "vit_tiny_patch16_224", HALF, HALF, 32, 32, "cls", arguments=arguments, images=("oct",))
    file = tmp_path / "mine.safetensors"
    save_file(create_model(recipe).state_dict(), file)
    facts = (file.name, sha256(file), file.stat().st_size)
    WeightsFolder(tmp_path).add("mine", Weights(*facts, "MIT", "here", "mine", own_recipe(recipe)))


def test_all_encoders_are_listed(medsoft):
    code, out, _ = medsoft("encoders")
    assert code == 0
    assert all(name in out for name in recipes())  # no name is cut off: it is what one types


def test_the_list_has_one_line_for_each_encoder_within_100_columns(medsoft, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    _, out, _ = medsoft("encoders")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    listed = {line.split()[0]: line for line in lines[1 : 1 + len(recipes())]}
    assert list(listed) == list(recipes())
    for name, recipe in recipes().items():
        assert recipe.licence in listed[name], "nothing is cut off at this width"
    monkeypatch.setenv("COLUMNS", "60")
    assert all(name in medsoft("encoders")[1] for name in ("torchxrayvision-densenet121", "efficientnet-lite0"))


def test_only_those_for_some_images_or_whose_weights_are_here(medsoft, folder):
    _, out, _ = medsoft("encoders", "--images=oct")
    assert all(name in out for name in ("retfound-oct", "mine", "efficientnet-lite0"))
    assert "panderm" not in out
    _, out, _ = medsoft("encoders", "--here=true")
    assert "mine" in out
    assert "uni" not in out.replace("unit", "")


def test_one_encoder_is_described(medsoft, folder):
    _, out, _ = medsoft("encoders", "torchxrayvision-densenet121")
    for said in ("radiograph", "6.95 M", "1 channel(s)", "classifier., op_threshs", "Apache-2.0"):
        assert said in out
    assert "equal features (torchxrayvision" in out
    _, of_volumes, _ = medsoft("encoders", "merlin")
    for said in ("224 x 224 x 160 voxels", "window (-1000 to 1000)", "1.5 x 1.5 x 3 mm"):
        assert said in of_volumes
    assert "yours; not here" in out
    assert "yours; here" in medsoft("encoders", "mine")[1]


def test_an_unknown_encoder_is_one_message(medsoft):
    code, _, err = medsoft("encoders", "retfond")
    assert (code, "did you mean retfound" in err) == (2, True)
    code, _, err = medsoft("encoders", "uni", "--here=true")
    assert (code, "leave them out" in err) == (2, True)
    assert medsoft("encoders", "--images=dreams")[0] == 2
