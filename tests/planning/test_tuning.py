"""The search for settings: what it proposes, and that Optuna is optional."""

from __future__ import annotations

import importlib.util

import pytest

from medsoft.errors import InputError
from medsoft.planning.candidates import Candidate, FeatureSet
from medsoft.planning.tuning import RATES, Search, require_optuna

BASE = Candidate(
    "tokens", "", "", "tokens", {"model": {"aggregator": "abmil"}}, features=FeatureSet("net", 224, tokens=True)
)


def test_without_optuna_it_is_one_message(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else found(name))
    with pytest.raises(InputError, match=r"pip install 'medsoft\[optuna\]'"):
        require_optuna()
    with pytest.raises(InputError, match="Optuna"):
        Search(BASE, 1e-3, [], lower_is_better=False)


def test_trials_stay_near_the_candidate_and_have_names_of_their_own():
    pytest.importorskip("optuna")
    search = Search(BASE, 1e-3, [224, 512], lower_is_better=False)
    search.learn({"lr": 1e-3, "weight_decay": 0.05, "size": 224}, 0.8)
    names = set()
    for value in (0.7, None, 0.9):
        candidate, params = search.ask()
        names.add(candidate.name)
        assert 1e-3 * RATES[0] <= params["lr"] <= 1e-3 * RATES[1]
        assert params["size"] in (224, 512)
        assert candidate.options["model"] == {
            "aggregator": "abmil",
            "lr": params["lr"],
            "weight_decay": params["weight_decay"],
        }
        assert candidate.features is not None
        assert candidate.features.size == params["size"]
        assert candidate.source == "tokens"
        search.tell(candidate.name, value)
    assert names == {"tokens_trial_2", "tokens_trial_3", "tokens_trial_4"}


def test_the_search_learns():
    """Of a score that only the learning rate decides, late trials are better than the first, which are drawn."""
    pytest.importorskip("optuna")
    search = Search(BASE, 1e-3, [], lower_is_better=True)
    found = []
    for _ in range(20):
        candidate, params = search.ask()
        value = abs(params["lr"] - 4e-3)
        search.tell(candidate.name, value)
        found.append(value)
    assert sum(found[15:]) < sum(found[:5])
