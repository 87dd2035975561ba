"""Counts the operations and bytes of a call without running it, for a roofline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_FORMULAS = {operator.__name__: formula for operator, formula in flop_registry.items()}
"""By name: PyTorch's table has no entries of their own for operators in place, such as ``baddbmm_``."""


@dataclass(frozen=True)
class Counts:
    """What a call does.

    Attributes:
        flops: floating-point operations of matrix products, convolutions and fused attention, a multiplication and
            an addition being two; what is done element by element is not counted.
        bytes: read and written by PyTorch's operators one after the other, each tensor once an operator, as if no cache
            kept anything from one to the next. ``torch.compile`` fuses operators and moves less.
    """

    flops: int
    bytes: int


def count(make: Callable[[], Callable[[], object]]) -> Counts:
    """Count a call on tensors without memory, so that any size takes the same short time.

    Args:
        make: makes the inputs and returns the call, of which alone is counted; weights may be real.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        call = make()
        with _Counting() as counting:
            call()
    return Counts(counting.flops, counting.bytes)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func._overloadpacket.__name__.removesuffix("_"))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        if _moves_data(func):
            read = _tensors((args, kwargs))
            written = _tensors(out)
            if written:
                self.bytes += sum(map(_bytes, read)) + sum(map(_bytes, written))
        return out


def _moves_data(func: Any) -> bool:
    """Neither a view nor memory that is only reserved."""
    name = func._overloadpacket.__name__
    return not (func.is_view or name == "_unsafe_view" or name.startswith(("empty", "new_empty")))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """Of the numbers that differ: a tensor that was expanded has more elements than memory."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
