"""Which encoder a shipped configuration begins with, and who is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medsoft.encoders import choice
from medsoft.encoders.choice import fitting_encoders, with_default_encoder
from medsoft.encoders.recipes import find_recipe
from medsoft.parsing.lightning_cli import read_words
from medsoft.parsing.words import Words

LITE = find_recipe("efficientnet-lite0")


@pytest.fixture(autouse=True)
def one_encoder(monkeypatch):
    """Weights of one general encoder are here, and of none for volumes."""
    monkeypatch.setattr(choice, "available_encoders", lambda images=None: [] if images == "volume" else [LITE])


def words_of(*typed: str) -> Words:
    return read_words("fit", typed)


@pytest.mark.parametrize("name", ["fundus", "dermoscopy", "chest_xray", "histo_tiles", "histology"])
def test_a_shipped_configuration_begins_with_the_encoder_that_is_here(name):
    words, notes = with_default_encoder(words_of(f"--config={name}", "--model.lr=0.5"))
    assert words.last("model.encoder") == "efficientnet-lite0"
    assert words.last("model.lr") == "0.5"  # what the user says counts more
    assert words.last("trainer.max_epochs") is not None  # as the shipped fine-tuning has it
    assert words.last("name") is None
    assert "efficientnet-lite0" in notes[0]
    assert "--model.encoder none" in notes[0]


@pytest.mark.parametrize(
    "chosen",
    [
        "--model.backbone=resnet18",
        "--model.backbone_args={depth: 2}",
        "--model.pretrained=x.safetensors",
        "--model.encoder=uni",
        "--transforms.channels=1",
        "--transforms.mean=[0.1]",
        "--config=finetune",
        "--use.model=slice_classifier",
    ],
)
def test_whoever_has_chosen_is_left_alone(chosen):
    words = words_of("--config=fundus", chosen)
    assert with_default_encoder(words) == (words, [])


def test_a_configuration_of_the_users_own_that_names_a_network_is_left_alone(tmp_path):
    (tmp_path / "own.yaml").write_text("model: {backbone: resnet18}\n")
    words = words_of("--config=fundus", f"--config={tmp_path / 'own.yaml'}")
    assert with_default_encoder(words) == (words, [])
    (tmp_path / "own.yaml").write_text("model: {lr: 0.1}\n")
    words = words_of("--config=fundus", f"--config={tmp_path / 'own.yaml'}")
    assert with_default_encoder(words)[0].last("model.encoder") == "efficientnet-lite0"


def test_none_means_from_scratch_as_before():
    words, notes = with_default_encoder(words_of("--config=fundus", "--model.encoder=none", "--model.lr=1"))
    assert words == words_of("--config=fundus", "--model.lr=1")
    assert notes == []


def test_without_an_encoder_it_says_what_that_costs(monkeypatch):
    words = words_of("--config=volume")
    found, notes = with_default_encoder(words)
    assert found == words
    assert "Trained from scratch: no encoder of volumes is here" in notes[0]
    monkeypatch.setattr(choice, "available_encoders", lambda images=None: [])
    assert "medsoft[pretrained]" in with_default_encoder(words_of("--config=fundus"))[1][0]


def test_configurations_without_a_network_for_pictures_stay():
    for name in ("histo", "bags", "tokens", "probe", "volume_slices"):
        words = words_of(f"--config={name}")
        assert with_default_encoder(words) == (words, [])


def test_of_volumes_those_that_read_volumes_come_first(monkeypatch):
    whole = replace(LITE, name="whole", dims=3, images=("volume",))
    monkeypatch.setattr(choice, "available_encoders", lambda images=None: [whole] if images == "volume" else [LITE])
    assert [one.name for one in fitting_encoders("volume")] == ["whole", "efficientnet-lite0"]
    assert [one.name for one in fitting_encoders("fundus")] == ["efficientnet-lite0"]


def test_a_single_epoch_freezes_nothing():
    words, _ = with_default_encoder(words_of("--config=fundus", "--trainer.max_epochs=1"))
    assert words.last("model.freeze_epochs") is None
