"""Peak memory of a call, above what was in use before it.

On a GPU PyTorch's caching allocator keeps the peak itself. On a CPU every tensor, workspaces inside operators and what
autograd saves for the backward pass included, comes from one allocator, which tells PyTorch's profiler of each piece
taken and given back: their running sum has an exact maximum. The resident set of the process has none, because it comes
in pages and keeps some of what was freed; but it holds what a library takes for itself, such as MKL's packed blocks of
a matrix product, which is not counted here.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_extra_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most memory that a call holds at any moment beyond what was held before; its results count.

    Args:
        call: should have run before, so that nothing is set up for the first time.
        device: where it computes.
    """
    return _peak_on_cuda(call, device) if device.type == "cuda" else _peak_on_cpu(call)


def _peak_on_cuda(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(call: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells the terminal that it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = call()  # held until the profile has ended
    del result
    held = peak = 0
    events = profiled.profiler.kineto_results.events() if profiled.profiler else []
    pieces = [event for event in events if event.name() == "[memory]"]
    for piece in sorted(pieces, key=lambda event: event.start_ns()):
        held += piece.nbytes()
        peak = max(peak, held)
    return peak
