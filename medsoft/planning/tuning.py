"""A search for learning rate, weight decay and image size with Optuna, which only ever sees inner folds."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medsoft.errors import InputError
from medsoft.planning.candidates import Candidate, FeatureSet, merged

RATES = (0.2, 5.0)
"""Learning rates that are tried, in multiples of the candidate's own."""
DECAYS = (1e-4, 0.3)
MOST_TRIALS = 20
"""Trials in all: with three settings more of them find what is good on these folds by chance."""


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        InputError: it is not; says how to get it.
    """
    if importlib.util.find_spec("optuna") is None:
        raise InputError("--tune true needs Optuna, which is not installed: pip install 'medsoft[optuna]'")


class Search:
    """Proposes settings for one candidate, and learns from what they gave.

    Args:
        base: whose settings are searched.
        lr: its learning rate.
        sizes: images sizes to choose from, its own first; one for none to choose.
        lower_is_better: of the inner score.
        seed: of the sampler.

    Raises:
        InputError: Optuna is not installed.
    """

    def __init__(self, base: Candidate, lr: float, sizes: Sequence[int], lower_is_better: bool, seed: int = 0) -> None:
        require_optuna()
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.base = base
        floats = optuna.distributions.FloatDistribution
        self._space: dict[str, Any] = {
            "lr": floats(lr * RATES[0], lr * RATES[1], log=True),
            "weight_decay": floats(*DECAYS, log=True),
        }
        if len(sizes) > 1:
            self._space["size"] = optuna.distributions.CategoricalDistribution(list(sizes))
        self._study = optuna.create_study(
            direction="minimize" if lower_is_better else "maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=5),
        )
        self._asked: dict[str, Any] = {}
        self._number = 0

    def learn(self, params: Mapping[str, Any], value: float) -> None:
        """Take note of a trial that an earlier call has run."""
        import optuna

        self._study.add_trial(optuna.trial.create_trial(params=dict(params), distributions=self._space, value=value))
        self._number += 1

    def ask(self) -> tuple[Candidate, dict[str, Any]]:
        """The next trial, as a candidate with a name of its own, and its settings."""
        trial = self._study.ask(self._space)
        self._number += 1
        params = dict(trial.params)
        name = f"{self.base.name}_trial_{self._number}"
        self._asked[name] = trial
        return trial_of(self.base, name, params), params

    def tell(self, name: str, value: float | None) -> None:
        """What a trial gave; None where it failed."""
        import optuna

        state = optuna.trial.TrialState.FAIL if value is None else None
        self._study.tell(self._asked.pop(name), value, state=state)


def trial_of(base: Candidate, name: str, params: Mapping[str, Any]) -> Candidate:
    """A candidate with other settings."""
    options: dict[str, Any] = {"model": {"lr": params["lr"], "weight_decay": params["weight_decay"]}}
    features = base.features
    said = f"learning rate {params['lr']:.2g}, weight decay {params['weight_decay']:.2g}"
    if "size" in params:
        said += f", {params['size']} px"
        if features is None:
            options["transforms"] = {"size": params["size"]}
        else:
            features = FeatureSet(features.encoder, int(params["size"]), features.tokens)
    return replace(
        base,
        name=name,
        what=f"{base.name} with {said}",
        why="a trial of the search for settings",
        options=merged(base.options, options),
        features=features,
        source=base.name,
    )
