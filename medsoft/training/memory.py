"""Running out of memory: one message with advice instead of a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from medsoft.errors import RunError, is_out_of_memory
from medsoft.system.logging import event

KILLED = "killed by signal"
"""PyTorch's words for a process of a data loader that the system ended."""


@contextmanager
def enough_memory(config: Any, training: bool) -> Iterator[None]:
    """Turn an error for want of memory into a RunError that says what to change.

    Args:
        config: the parsed command line.
        training: whether weights are learnt, else they only predict.

    Raises:
        RunError: memory did not suffice, or a process that loads data was ended by the system.
    """
    with enough_memory_or(lambda loader: advice(config, training, loader), training):
        yield


@contextmanager
def enough_memory_or(advise: Callable[[bool], str], training: bool) -> Iterator[None]:
    """The same for any verb.

    Args:
        advise: what to change, in words, given whether a process that loads data was ended by the system.
        training: whether weights are learnt.

    Raises:
        RunError: memory did not suffice, or a process that loads data was ended by the system.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        loader = is_killed_loader(error)
        if not loader and not is_out_of_memory(error):
            raise
        event("memory", "error", training=training, loader=loader)
        what = "a process that loads data was ended by the system, most often for lack of memory"
        raise RunError(f"{what if loader else 'not enough memory'}. {advise(loader)}") from None


def is_killed_loader(error: BaseException) -> bool:
    """Whether an error says that a process that loads data was ended by a signal."""
    return KILLED in str(error) and "DataLoader" in str(error)


def advice(config: Any, training: bool, loader: bool = False) -> str:
    """What to change, with the options as they are now."""
    data, trainer = config.data, config.trainer
    workers = f"lower data.num_workers (now {data.get('num_workers')}), or data.cache none"
    if loader:
        return f"Try: {workers}. Everything saved before is kept"
    of_bags = "max_tiles" in data
    batch = int(data.get("batch_size") or 1)
    tries = []
    if training and batch > 1:
        accumulated = int(trainer.get("accumulate_grad_batches") or 1)
        tries.append(
            f"data.batch_size {batch // 2} with trainer.accumulate_grad_batches {2 * accumulated}, which learns nearly "
            f"the same (now {batch} and {accumulated})"
        )
    elif batch > 1 and not of_bags:
        tries.append(f"data.batch_size {batch // 2} (now {batch})")
    if of_bags and training:
        tries.append("data.max_tiles, such as 20000, or data.tile_fraction 0.5")
    elif of_bags:
        in_pieces = "mean, max, abmil, seqnorm, sima, relu_linear"
        tries.append(f"an aggregator that reads bags in pieces ({in_pieces}) and data.stream_above")
    else:
        tries.append("a smaller transforms.size")
    tries += ["trainer.precision bf16-mixed", workers]
    end = " What was saved is kept: medsoft fit --resume continues from the last checkpoint" if training else ""
    return f"Try, one after the other: {'; '.join(tries)}.{end}"
