"""Count, mean and scatter matrix of tokens: they merge, so that a sequence may be read in parts.

Axes: ``B`` batch, ``N`` tokens, ``D`` width. The scatter matrix is Σ_n (x_n − μ)(x_n − μ)ᵀ, the covariance times N.

Parts merge exactly (Chan, Golub and LeVeque 1983): with δ = μ_b − μ_a,

    N = N_a + N_b        μ = μ_a + δ N_b / N        S = S_a + S_b + δδᵀ N_a N_b / N

Means are subtracted before products are taken: Σ xxᵀ − N μμᵀ would cancel where the mean is large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from medsoft.ops.distributed import sum_over_ranks
from medsoft.ops.tensors import accumulation_dtype, no_autocast


@dataclass(frozen=True)
class Moments:
    """Moments of the tokens seen so far, in float32 (float64 for float64 tokens).

    Attributes:
        count_B: number of real tokens (B,), as floating point.
        mean_BD: their mean; 0 where there is none.
        scatter_BDD: Σ (x − μ)(x − μ)ᵀ over them.
    """

    count_B: Tensor
    mean_BD: Tensor
    scatter_BDD: Tensor

    @classmethod
    def of(cls, x_BND: Tensor, mask_BN: Tensor | None = None) -> Moments:
        """Moments of tokens (B, N, D). Its backward pass keeps ``x`` and nothing else that grows with N.

        Args:
            x_BND: tokens, finite at padded places too (see ``zero_padding``), of any floating-point type.
            mask_BN: True where a token is real; None where all are.
        """
        with no_autocast(x_BND):
            return cls(*_Moments.apply(x_BND, mask_BN))

    @property
    def covariance_BDD(self) -> Tensor:
        """The biased covariance, scatter / count; 0 where there is no token."""
        return self.scatter_BDD / self.count_B.clamp(min=1)[:, None, None]

    def merge(self, other: Moments) -> Moments:
        """Moments of the tokens of both."""
        count = self.count_B + other.count_B
        share = other.count_B / count.clamp(min=1)
        delta = other.mean_BD - self.mean_BD
        mean = self.mean_BD + delta * share[:, None]
        between = _outer(delta * (self.count_B * share)[:, None], delta)
        return Moments(count, mean, self.scatter_BDD + other.scatter_BDD + between)

    def update(self, x_BND: Tensor, mask_BN: Tensor | None = None) -> Moments:
        """Moments with one more part of the sequence."""
        return self.merge(Moments.of(x_BND, mask_BN))

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> Moments:
        """Moments of the tokens of all processes of ``group``, each of which holds a part of every sequence.

        Two sums travel: D + 1 numbers, then D × D. Gradients are those of the sum of the processes' losses.
        """
        sums = torch.cat([self.count_B[:, None], self.count_B[:, None] * self.mean_BD], dim=1)
        sums = sum_over_ranks(sums, group)
        count = sums[:, 0].detach()
        mean = sums[:, 1:] / count.clamp(min=1)[:, None]
        delta = self.mean_BD - mean
        scatter = self.scatter_BDD + _outer(delta * self.count_B[:, None], delta)
        return Moments(count, mean, sum_over_ranks(scatter, group))


def _outer(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    return a_BD.unsqueeze(2) * b_BD.unsqueeze(1)


def chunks(x_BND: Tensor) -> list[slice]:
    """Parts of the token axis whose rows fit a processor's cache together with a copy of themselves.

    A copy of all tokens in float32 without their mean would be as large as the output; these are not.
    """
    B, N, D = x_BND.shape
    if torch.compiler.is_compiling():
        return [slice(0, N)]  # a loop over a length would be unrolled
    elements = 2**18 if x_BND.device.type == "cpu" else 2**26
    size = max(elements // max(B * D, 1), 128)
    return [slice(start, start + size) for start in range(0, N, size)]


def _add_upper_products(scatter_BDD: Tensor, centred_BND: Tensor) -> None:
    """Add Σ xxᵀ to the blocks on and above the diagonal: it is symmetric, and four block rows are 5/8 of the work."""
    D = scatter_BDD.shape[-1]
    rows = max(-(-D // 4), 64)  # narrower products are slower than what they save
    for start in range(0, D, rows):
        left = centred_BND[:, :, start : start + rows].transpose(1, 2)
        scatter_BDD[:, start : start + rows, start:].baddbmm_(left, centred_BND[:, :, start:])


class _Moments(torch.autograd.Function):
    """(x, mask) -> (count, mean, scatter)."""

    @staticmethod
    def forward(ctx: Any, x_BND: Tensor, mask_BN: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        B, _, D = x_BND.shape
        dtype = accumulation_dtype(x_BND)
        count = x_BND.new_zeros(B, dtype=dtype)
        mean = x_BND.new_zeros(B, D, dtype=dtype)
        scatter = x_BND.new_zeros(B, D, D, dtype=dtype)
        for part in chunks(x_BND):
            x = x_BND[:, part].to(dtype)
            if mask_BN is None:
                n = torch.full_like(count, x.shape[1])
                mean_of_part = x.mean(dim=1)
                centred = x - mean_of_part[:, None]
            else:
                real = mask_BN[:, part, None]
                n = real.sum(dim=(1, 2)).to(dtype)
                mean_of_part = torch.where(real, x, 0).sum(dim=1) / n.clamp(min=1)[:, None]
                centred = torch.where(real, x - mean_of_part[:, None], 0)
            delta = mean_of_part - mean
            total = (count + n).clamp(min=1)
            _add_upper_products(scatter, centred)
            scatter.addcmul_((delta * (count * n / total)[:, None])[:, :, None], delta[:, None, :])
            mean += delta * (n / total)[:, None]
            count += n
        scatter = scatter.triu() + scatter.triu(1).transpose(1, 2)
        ctx.save_for_backward(x_BND, mask_BN, count, mean)
        ctx.mark_non_differentiable(count)
        return count, mean, scatter

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad_mean: Tensor, grad_scatter: Tensor) -> tuple[Tensor, None]:
        # dS = Σ dx_n (x_n − μ)ᵀ + (x_n − μ) dx_nᵀ: what comes through μ vanishes, as Σ (x_n − μ) = 0.
        x_BND, mask_BN, count, mean = ctx.saved_tensors
        symmetric = grad_scatter + grad_scatter.transpose(1, 2)
        constant = (grad_mean / count.clamp(min=1)[:, None])[:, None]
        grad = torch.empty_like(x_BND)
        for part in chunks(x_BND):
            centred = x_BND[:, part].to(mean.dtype) - mean[:, None]
            grad_part = torch.baddbmm(constant, centred, symmetric)
            if mask_BN is not None:
                grad_part = torch.where(mask_BN[:, part, None], grad_part, 0)
            grad[:, part] = grad_part
        return grad, None
