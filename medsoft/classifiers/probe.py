"""The probe: a linear model, or nearest neighbours, on one vector a sample; solved by scikit-learn in one step.

Its network is the mean of a bag's features, standardised, and a linear layer: what follows a training (checkpoints,
predictions, contributions of tiles, bundles, detectors) meets the same network that it knows from slides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.classifiers.probe_solver import Chosen, Examples, choose, prior, solve_linear
from medsoft.classifiers.probe_training import folds_of, loss_of, require_different
from medsoft.classifiers.slide import SlideClassifier
from medsoft.data.datasets.feature_scale import Scale
from medsoft.data.tables.sample_table import SampleTable
from medsoft.errors import InputError, check_range
from medsoft.evaluation.metrics.score import headline, score
from medsoft.evaluation.tables.predictions import make_predictions
from medsoft.models.aggregators.neighbours import Neighbours
from medsoft.specs import BagSpec
from medsoft.task_types import ObjectiveOptions

METHODS = {"softmax": "logistic regression", "sigmoid": "logistic regression", "identity": "ridge regression"}
METHODS |= {"hazard": "Cox regression"}


class Probe(SlideClassifier):
    """A linear model, or nearest neighbours, on the mean of a bag's features.

    Args:
        spec: what the model must know of the bags; comes from the data module.
        head: linear (logistic regression; ridge regression of numbers; Cox's regression of survival) or knn (nearest
            neighbours).
        C: inverse strength of the linear head's penalty (.inf for none); chosen by inner folds among 1e-6 to 10 if not
            given.
        k: number of nearest neighbours; chosen by inner folds if not given.
        inner_folds: number of folds of the training part, grouped by patient and stratified, that choose C or k.
        class_weights: balanced weights each class by the inverse of its frequency in the training part.
    """

    def __init__(
        self,
        spec: BagSpec,
        head: Literal["linear", "knn"] = "linear",
        C: float | None = None,
        k: int | None = None,
        inner_folds: int = 5,
        class_weights: Literal["none", "balanced"] = "none",
    ) -> None:
        if C is not None and not C > 0:
            raise InputError(f"model.C {C:g} must be larger than 0")
        check_range("model.k", 1 if k is None else k, 1)
        check_range("model.inner_folds", inner_folds, 2)
        for name, given, of in (("C", C, "linear"), ("k", k, "knn")):
            if given is not None and head != of:
                raise InputError(f"model.{name} is of model.head {of}, not of {head}")
        if spec.task.parts:
            raise InputError(
                "data.targets: --config probe is solved at once, for one target; train several in steps, with --config "
                "histo or tokens"
            )
        link = spec.task.objective(ObjectiveOptions(target_scale=spec.target_scale)).link
        if link == "hazard" and head == "knn":
            raise InputError(
                "model.head knn has no risk of survival: take model.head linear, which is Cox's regression"
            )
        arguments = {"dim": None} if head == "linear" else {"link": link}
        super().__init__(
            spec,
            aggregator="mean" if head == "linear" else "neighbours",
            aggregator_args=arguments | {"standardise": True},
            class_weights=class_weights,
            regression_loss="mse",
        )
        self.automatic_optimization = False
        self.head_name, self.inner_folds = head, inner_folds
        self.given: float | None = C if head == "linear" else k
        self.solved: dict[str, Any] = {}
        if head == "linear":  # until it is solved, it says nothing
            nn.init.zeros_(self.aggregator.head.weight)
            nn.init.zeros_(self.aggregator.head.bias)

    @property
    def solves_probe(self) -> bool:
        """Always."""
        return True

    @property
    def method(self) -> str:
        """What it is, in words."""
        return METHODS[self.objective.link] if self.head_name == "linear" else "nearest neighbours"

    def configure_optimizers(self) -> Any:
        """One step, which solves the whole."""
        return _Solution(list(self.aggregator.head.parameters()), self._solve)

    def check_training(self, config: Any, data: Any) -> None:
        """Refuse options of a training in steps, which would do nothing.

        Raises:
            InputError: there is one.
        """
        if config.lr_find:
            raise InputError("a probe is solved in one step: leave out lr_find")
        if config.trainer.get("batch"):
            raise InputError("a probe is solved in one step: leave out trainer.batch")
        if config.trainer.max_epochs != 1:
            raise InputError(f"a probe is solved in one step: trainer.max_epochs is 1, not {config.trainer.max_epochs}")
        if self.covariates is not None and self.head_name == "knn":
            raise InputError(
                "data.covariates: few numbers change nothing in distances between many features: leave them out, or "
                "use model.head linear"
            )
        if config.ema_decay is not None:
            raise InputError("a probe is solved in one step, of which there is no moving average: leave out ema_decay")
        if data.balanced_sampling:
            raise InputError("a probe weighs its rows: model.class_weights balanced, and not data.balanced_sampling")

    def on_fit_start(self) -> None:
        """Nothing: what is standardised is learnt where the probe is solved."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Solve it with the first batch; then as for every batch tell the loss that is left."""
        if batch_idx == 0:
            cast(Any, self.optimizers()).step()
            numbers = {name: value for name, value in self.solved.items() if isinstance(value, float)}
            for name, value in numbers.items():
                self.log(name, value, on_step=False, on_epoch=True, batch_size=1)
        with torch.no_grad():
            logits = self.logits(batch)
            self.keep_learnt(logits, batch["target"])
            loss = self.objective.loss(logits, batch["target"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["target"]), sync_dist=True)
        return loss

    def facts(self) -> dict[str, Any]:
        """As of every model on bags, and how it was solved."""
        return {**super().facts(), "backbone": f"probe ({self.method})", "probe": self.solved}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.solved = dict(checkpoint["medsoft"].get("probe") or {})

    def _solve(self) -> None:
        """Choose C or k, solve, take the weights, and say so."""
        trainer: Any = self.trainer
        data = trainer.datamodule
        part: SampleTable = data.part("train")
        dataset = data.dataset("train")
        target = torch.as_tensor(dataset.targets)
        answers = self.objective.answers(target)
        views_MF, row_of_M = dataset.view_vectors()
        beside_NK = self._columns(dataset.covariates, len(part))
        if self.objective.joint:  # a view of a patient would be at risk beside the patient
            views_MF, row_of_M = views_MF[:0], row_of_M[:0]
        examples = Examples(
            np.concatenate([dataset.vectors(), beside_NK], axis=1),
            answers.values_NK.numpy(),
            answers.weights_NK.numpy(),
            np.concatenate([views_MF, beside_NK[row_of_M]], axis=1),
            row_of_M,
            beside_NK.shape[1],
        )
        require_different(part, examples)
        name = "C" if self.head_name == "linear" else "k"
        folds, why = folds_of(part, self.inner_folds)
        loss = loss_of(self.objective, target, folds)
        chosen = choose(name, examples, self.objective.link, folds, loss, self.given, self.objective.outputs)
        self._learn(examples, chosen)
        self.solved = {name: float(chosen.value), "inner_folds": chosen.folds, "rows": len(part)}
        if chosen.loss is not None and chosen.logits_NK is not None:
            self.solved |= {"inner_loss": chosen.loss, **self._inner_score(part, chosen.logits_NK)}
        if trainer.is_global_zero:
            print(self._said(name, chosen, part, len(views_MF), why), flush=True)

    def _learn(self, examples: Examples, chosen: Chosen) -> None:
        linear = self.head_name == "linear"
        every, scale = examples.with_views(shared=linear).standardised()
        width = len(scale.mean_F) - examples.covariates
        self.standardise_by(Scale(scale.mean_F[:width], scale.sd_F[:width]))
        head: Any = self.aggregator.head
        if linear:
            (found,) = solve_linear(every, self.objective.link, [chosen.value])
            bias_K = found.bias_K
            if self.covariates is not None:
                own = Scale(scale.mean_F[width:], scale.sd_F[width:])
                bias_K = bias_K + self.covariates.learn(found.weight_KF[:, width:], own.mean_F, own.sd_F)
            with torch.no_grad():
                head.weight.copy_(torch.from_numpy(found.weight_KF[:, :width]))
                head.bias.copy_(torch.from_numpy(bias_K))
            return
        x, values, weights = map(torch.from_numpy, (every.x_NF, every.values_NK, every.weights_NK))
        average = torch.from_numpy(prior(every, self.objective.link))
        cast(Neighbours, head).learn(x, values, weights, average, int(chosen.value))

    def _columns(self, covariates: np.ndarray | None, rows: int) -> np.ndarray:
        """(N, 2 K) float64: covariates, and whether each is missing; (N, 0) without covariates."""
        if covariates is None:
            return np.zeros((rows, 0))
        values_NK = covariates.astype(np.float64)
        return np.concatenate([values_NK, np.isnan(values_NK).astype(np.float64)], axis=1)

    def _inner_score(self, part: SampleTable, logits_NK: np.ndarray) -> dict[str, float]:
        """The task's own metric of the held-out predictions, computed as that of a predictions table."""
        task = self.spec.task
        self.objective.learn(torch.from_numpy(logits_NK), torch.tensor(part.targets))
        p = self.objective.probabilities(torch.from_numpy(logits_NK)).double().numpy()
        value = headline(score(make_predictions(task, part.frame["id"].tolist(), p, part.targets), task))[task.monitor]
        return {} if value is None else {f"inner_{task.monitor}": float(value)}

    def _said(self, name: str, chosen: Chosen, part: SampleTable, views: int, why: str) -> str:
        rows = f"{len(part)} rows" + (f" and {views} views of them" if views else "")
        beside = "" if self.covariates is None else f" and {len(self.covariates.covariates.names)} covariates"
        text = f"Probe: {self.method} on {self.spec.num_features} standardised features{beside} of {rows}; "
        text += f"{name} = {chosen.value:g}"
        if chosen.loss is None:
            return f"{text}, not chosen by inner folds: {why}"
        how = "given" if self.given is not None else f"the best of {chosen.tried}"
        at_end = " (at the end of the grid)" if chosen.at_end else ""
        scores = ", ".join(f"{key.removeprefix('inner_')} {self.solved[key]:.4f}" for key in self._inner_names)
        return f"{text}, {how}{at_end}, by {chosen.folds} inner folds by {part.grouped_by}{why}: {scores}"

    @property
    def _inner_names(self) -> list[str]:
        return [key for key in self.solved if key.startswith("inner_") and key != "inner_folds"]


class _Solution(torch.optim.Optimizer):
    """An optimiser whose only step is a solution."""

    def __init__(self, parameters: list[nn.Parameter], solve: Callable[[], None]) -> None:
        super().__init__(parameters or [torch.zeros(1)], {})
        self.solve = solve

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.solve()
