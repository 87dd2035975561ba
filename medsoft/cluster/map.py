"""Maps a function over Dask workers, and repeats what a lost worker was doing.

A task that kills its worker even when it is alone has no result, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from medsoft.errors import InputError, RunError

if TYPE_CHECKING:
    from distributed import Client, Future

Result = TypeVar("Result")
Task = tuple[Any, ...]

POLL_SECONDS = 0.1

SUBMITTED_AT_ONCE = 500


def each(
    client: Client, function: Callable[..., Result], tasks: Sequence[Task], look: Callable[[], None]
) -> Iterator[list[tuple[int, Result | None]]]:
    """Call ``function(*task)`` for every task in worker processes.

    A task whose worker dies is done again by another. One that was there when several workers died is done once more
    at the end, alone, so that slides are not blamed for what their neighbour in the process did.

    Args:
        client: of the cluster.
        function: importable by the workers; doing a task twice must do no harm.
        tasks: arguments, ready for pickling.
        look: called while results are waited for; what it raises ends the work.

    Yields:
        Numbers and results of the tasks that have ended since, as they end; None for a task that kills its worker
        even when it is alone.

    Raises:
        InputError: the workers have another medsoft.
        RunError: the cluster is gone.
        Exception: what a task raised; the others are given up.
    """
    blamed: list[int] = []
    for done in _completed(client, function, dict(enumerate(tasks)), look):
        blamed += [number for number, result in done if isinstance(result, _Killed)]
        yield [(number, result) for number, result in done if not isinstance(result, _Killed)]
    for number in blamed:
        for done in _completed(client, function, {number: tasks[number]}, look):
            yield [(number, None if isinstance(result, _Killed) else result) for number, result in done]


class _Killed:
    """In place of a result: the task's worker died."""


def _completed(
    client: Client, function: Callable[..., Result], tasks: dict[int, Task], look: Callable[[], None]
) -> Iterator[list[tuple[int, Result | _Killed]]]:
    from distributed import as_completed

    futures: dict[Future, int] = {}
    try:
        # No names of slides in the keys: they stand in the cluster's logs. One message for many tasks: ten thousand of
        # them, sent while nothing is read, can fill the connection until it is given up.
        for begin in range(0, len(tasks), SUBMITTED_AT_ONCE):
            numbers = list(islice(tasks, begin, begin + SUBMITTED_AT_ONCE))
            columns = zip(*(tasks[number] for number in numbers), strict=True)
            futures.update(zip(client.map(function, *columns, pure=False), numbers, strict=True))
        # Results are fetched at once, many at a time: a worker that dies takes along what still lies there.
        completed = as_completed(futures, with_results=True, raise_errors=False)
        while not completed.is_empty():
            look()
            batch = completed.next_batch(block=False)
            if not batch:
                if client.status != "running":  # one that connects again has lost its tasks, and may not say so
                    raise _lost_scheduler()
                time.sleep(POLL_SECONDS)
                continue
            yield [(futures[future], _result(future, result)) for future, result in batch]
            for future, _ in batch:
                future.release()
    finally:
        client.cancel(list(futures), force=True)


def _result(future: Future, fetched: Any) -> Any:
    """The result that was fetched, or what is to be said in its place."""
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    if future.status == "finished":
        return fetched
    try:
        return future.result()
    except KilledWorker:
        return _Killed()
    except FutureCancelledError:
        raise _lost_scheduler() from None
    except (ImportError, AttributeError) as error:
        if "medsoft" not in str(error):
            raise
        raise InputError(f"the workers have no medsoft, or another version of it: {error}") from None


def _lost_scheduler() -> RunError:
    """What is to be said where the scheduler is gone."""
    return RunError(
        "the connection to the cluster's scheduler is lost; finished work is kept. Start the same command again "
        "to go on"
    )
