"""Clinical covariates at the head: their contribution to the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medsoft.errors import InputError
from medsoft.specs import Covariates


class CovariateHead(nn.Module):
    """A linear function of standardised covariates, and of which are missing.

    Added to the logits of a linear head, it is the same as joining the covariates to the image's features. A missing
    value stands at the training part's mean, and its indicator is 1. It begins at 0: the image alone.

    Attributes:
        covariates: names and scale.

    Args:
        covariates: names, and the training part's scale, or None for that until a checkpoint brings it.
        outputs: logits K.
    """

    def __init__(self, covariates: Covariates, outputs: int) -> None:
        super().__init__()
        self.covariates = covariates
        self.linear = nn.Linear(2 * len(covariates.names), outputs, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, values_BN: Tensor) -> Tensor:
        """Values (B, number of covariates), NaN where missing, to what they add to the logits (B, K)."""
        scale = self.covariates.scale
        if scale is None:
            raise RuntimeError("the scale of covariates comes from the training part or from its checkpoint")
        mean_N, sd_N = torch.tensor(scale, dtype=torch.float32, device=values_BN.device).T
        missing_BN = values_BN.isnan()
        standardised_BN = torch.where(missing_BN, 0, (values_BN.float() - mean_N) / sd_N)
        joined = torch.cat([standardised_BN, missing_BN.float()], dim=1)
        added: Tensor = self.linear(joined.to(self.linear.weight.dtype))
        return added.float()

    def learn(self, weight_KM: np.ndarray, mean_M: np.ndarray, sd_M: np.ndarray) -> np.ndarray:
        """Take the solution of a linear model on 2 N standardised columns: the values, then which are missing.

        Args:
            weight_KM: (outputs, 2 N).
            mean_M: of the columns as they were learnt from; of values, of the known ones.
            sd_M: their standard deviations; infinite where a column does not count.

        Returns:
            (outputs,) what the biases must have in addition.
        """
        number = len(self.covariates.names)
        mean_N, sd_N = mean_M[:number], np.where(np.isfinite(sd_M[:number]), sd_M[:number], 1.0)
        scale = tuple(zip(mean_N.tolist(), sd_N.tolist(), strict=True))
        self.covariates = Covariates(self.covariates.names, scale)
        missing_KN = weight_KM[:, number:] / sd_M[number:]
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(np.concatenate([weight_KM[:, :number], missing_KN], axis=1)))
        added_K: np.ndarray = -(missing_KN @ mean_M[number:])
        return added_K

    def state(self) -> dict[str, Any]:
        """For a checkpoint: names and scale as plain values."""
        return {"names": list(self.covariates.names), "scale": [list(pair) for pair in self.covariates.scale or ()]}

    def restore(self, known: dict[str, Any] | None) -> None:
        """Take the scale from a checkpoint.

        Raises:
            InputError: it was trained with other covariates.
        """
        _check_same(tuple(known["names"]) if known else (), self.covariates.names)
        assert known is not None
        self.covariates = Covariates(self.covariates.names, tuple((float(m), float(sd)) for m, sd in known["scale"]))


def restore_covariates(head: CovariateHead | None, known: dict[str, Any] | None) -> None:
    """Take the scale from a checkpoint, where there are covariates.

    Raises:
        InputError: the checkpoint was trained with other covariates than the configuration names.
    """
    if head is not None:
        head.restore(known)
    else:
        _check_same(tuple(known["names"]) if known else (), ())


def _check_same(trained: tuple[str, ...], asked: tuple[str, ...]) -> None:
    if trained != asked:
        raise InputError(
            f"the checkpoint was trained with the covariates {', '.join(trained) or '(none)'}; data.covariates names "
            f"{', '.join(asked) or '(none)'}"
        )
