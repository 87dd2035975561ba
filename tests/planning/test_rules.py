"""The rules: which candidates a table gets, how many folds, and that the page of the reference lists them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from medsoft.errors import InputError
from medsoft.planning.candidates import Candidate, FeatureSet, configuration_of
from medsoft.planning.facts import Pictures, TableFacts
from medsoft.planning.rules import (
    RULES,
    KnownEncoder,
    Situation,
    larger_size,
    number_of_folds,
    propose,
    suggestions,
    why_not,
)

ENCODER = KnownEncoder("net", 224, 32, any_size=True)


def facts(groups: int = 400, rarest: int = 100, side: int = 500, unit: str = "image") -> TableFacts:
    pictures = Pictures(n=1, sides=[(side - 100, side)], channels=Counter({3: 1}), bits=Counter({8: 1}))
    classes = {"no": (groups - rarest, groups - rarest), "yes": (rarest, rarest)}
    return TableFacts("t.csv", unit, "binary", groups, 90, groups, "patient", classes, 90, pictures)


def names(groups: int = 400, encoders: tuple[KnownEncoder, ...] = (ENCODER,), **more: object) -> list[str]:
    return [one.name for one in propose(Situation(facts(groups, **more), encoders, has_gpu=False))]  # type: ignore[arg-type]


def test_a_middling_table_gets_heads_and_fine_tuning():
    assert names() == ["probe", "probe_large", "tokens_seqnorm", "tokens_gated", "finetuned", "hybrid"]


def test_few_patients_get_probes_alone():
    assert names(40) == ["probe", "probe_large"]


def test_many_patients_get_training_from_scratch_too():
    assert names(1000)[-1] == "scratch"


def test_without_an_encoder_there_is_training_from_scratch():
    assert names(40, ()) == ["scratch"]


def test_where_heads_cannot_read_a_table_there_is_training_from_scratch_beside_what_cannot_run():
    situation = Situation(facts(40), (ENCODER,), has_gpu=False, without_features="two volumes a row")
    assert [one.name for one in propose(situation)] == ["probe", "probe_large", "scratch"]


def test_small_pictures_get_no_larger_size():
    assert "probe_large" not in names(side=240)
    assert larger_size(ENCODER, facts(side=240)) is None
    assert larger_size(ENCODER, facts(side=4288)) == 512
    assert larger_size(replace(ENCODER, any_size=False), facts(side=4288)) is None


def test_two_encoders_are_compared_where_there_is_a_gpu():
    both = (ENCODER, KnownEncoder("other", 224, 16, any_size=False))
    found = propose(Situation(facts(), both, has_gpu=True))
    assert [one.name for one in found][:2] == ["probe_net", "probe_other"]


def test_heads_of_one_size_share_features():
    found = {one.name: one for one in propose(Situation(facts(), (ENCODER,), has_gpu=False))}
    assert found["probe_large"].features == found["tokens_seqnorm"].features == found["tokens_gated"].features


def test_a_hybrid_reads_larger_pictures_where_there_are_some_and_the_encoders_own_size_elsewhere():
    sizes = {}
    for side in (240, 4288):
        (found,) = [one for one in propose(Situation(facts(side=side), (ENCODER,), False)) if one.name == "hybrid"]
        assert found.options["model"] == {"backbone": "hybrid", "backbone_args": None, "encoder": "net"}
        sizes[side] = found.options.get("transforms")
    assert sizes == {240: None, 4288: {"size": 512}}
    typed = propose(Situation(facts(side=4288), (ENCODER,), False, has_size=True))
    assert "transforms" not in next(one for one in typed if one.name == "hybrid").options


def test_a_hybrid_of_a_modality_has_the_arguments_of_neither_its_network_nor_another_size():
    (found,) = [one for one in propose(Situation(facts(), (ENCODER,), False)) if one.name == "hybrid"]
    given = {"name": "fundus", "model": {"backbone": "vit", "backbone_args": {"patch_size": 8}, "lr": 1.0}}
    given |= {"transforms": {"size": 96, "mean": [0.5]}}
    config = configuration_of(found, given, {"model": {"lr": 0.1, "encoder": "other"}}, frozenset(), None)
    assert config["model"] == {"backbone": "hybrid", "backbone_args": None, "encoder": "net", "lr": 0.1}
    assert config["transforms"] == {"size": larger_size(ENCODER, facts()), "mean": [0.5]}


def test_every_rule_is_in_the_reference_with_its_reason():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "plan.md").read_text(encoding="utf-8")
    for rule in RULES.values():
        assert f"| `{rule.name}` | {rule.when} | {rule.reason} |" in page


@pytest.mark.parametrize(("rarest", "folds"), [(100, 5), (10, 5), (9, 3), (3, 3)])
def test_rare_classes_get_fewer_folds(rarest, folds):
    assert number_of_folds(facts(rarest=rarest)) == folds


def test_a_class_with_two_patients_is_one_message():
    with pytest.raises(InputError, match=r"class .yes. has 2 of the patients to develop on.*Merge classes"):
        number_of_folds(facts(rarest=2))


def test_a_table_of_five_patients_is_one_message():
    with pytest.raises(InputError, match="5 patients to develop on are too few"):
        number_of_folds(facts(groups=5, rarest=2))


def test_a_small_test_part_suggests_nesting():
    assert "--nested" in suggestions(facts(), 5, nested=False)[0]
    assert not suggestions(facts(), 5, nested=True)
    assert "rest on few" in suggestions(facts(rarest=9), 5, nested=True)[0]


def test_a_candidate_survives_its_folder():
    candidate = Candidate("a", "b", "c", "probe", {"model": {"C": 1}}, features=FeatureSet("net", 224, tokens=False))
    assert Candidate.from_json(candidate.to_json()) == candidate


def test_a_candidate_on_features_takes_the_table_and_none_of_the_pictures_options():
    given = {
        "use": {"data": "image"},
        "transforms": {"size": 224},
        "data": {"table": "t.csv", "label": "grade", "batch_size": 16},
        "model": {"backbone": "vit"},
        "trainer": {"max_epochs": 40, "accelerator": "cpu"},
        "seed_everything": 3,
    }
    candidate = Candidate(
        "probe", "", "", "probe", {"model": {"C": 1.0}}, features=FeatureSet("net", 224, tokens=False)
    )
    shipped = {"use": {"data": "bag", "model": "probe"}, "trainer": {"max_epochs": 1}, "data": {"batch_size": 256}}
    config = configuration_of(candidate, given, shipped, frozenset({"table", "label"}), Path("features/net"))
    assert config["use"] == {"data": "bag", "model": "probe"}
    assert config["seed_everything"] == 3
    assert config["data"] == {
        "batch_size": 256,
        "table": "t.csv",
        "label": "grade",
        "features": str(Path("features/net").resolve()),
    }
    assert config["trainer"] == {"max_epochs": 1, "accelerator": "cpu"}
    assert config["model"] == {"C": 1.0}
    assert "transforms" not in config


@pytest.mark.parametrize("name", ["tokens_gated", "tokens_gated_efficientnet-lite0"])
def test_what_is_not_proposed_is_explained(name):
    said = why_not(name, facts(groups=48))
    assert said == f"{name} is proposed with: 60 patients or more (here are 48 patients to develop on)"
    assert why_not("magic", facts()) == ""


def test_a_candidate_stops_and_chooses_as_its_own_configuration_says_where_the_command_line_does_not():
    candidate = next(one for one in propose(Situation(facts(), (ENCODER,), False)) if one.name == "tokens_seqnorm")
    given: dict[str, object] = {"data": {}, "patience": None, "monitor": "auto", "seed_everything": 3}
    shipped = {"patience": 6, "monitor": "loss", "name": "tokens"}
    own = configuration_of(candidate, given, shipped, frozenset(), None)
    assert (own["patience"], own["monitor"], own["seed_everything"]) == (6, "loss", 3)
    asked = configuration_of(candidate, given | {"patience": 2, "monitor": "auroc"}, shipped, frozenset(), None)
    assert (asked["patience"], asked["monitor"]) == (2, "auroc")
