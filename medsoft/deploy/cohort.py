"""Slides over worker processes: each slide a task, given to whoever is free; a lost worker's slides are done again.

The workers write feature files and heatmaps; ``slides.csv`` and ``errors.csv`` are written here alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from medsoft.deploy.cluster import Cluster, lost_scheduler
from medsoft.deploy.slide_tasks import AnswerOrder, EncodeOrder, answer_slide, encode_slide
from medsoft.errors import InputError
from medsoft.slides.encode import encode_slides
from medsoft.slides.folder import Outcome, SlidesFolder
from medsoft.slides.progress import SlidesProgress
from medsoft.slides.sources import SlideSource
from medsoft.slides.tile_encoder import TileEncoder

if TYPE_CHECKING:
    from distributed import Client, Future

    from medsoft.deploy.slide_model import SlideAnswer, SlideModel

Result = TypeVar("Result")
Task = tuple[Any, ...]

POLL_SECONDS = 0.1

KILLED = "the worker process died with this slide, also when it was alone: out of memory, or a decoder that crashes"
ELSEWHERE: dict[str, Any] = {"device": "cpu", "precision": "auto"}
"""How the encoder is built here where others compute: only to learn what it is."""


def encode_with(
    cluster: Cluster,
    sources: Sequence[SlideSource],
    folder: SlidesFolder,
    order: EncodeOrder,
    encoder: TileEncoder,
    progress: SlidesProgress,
) -> list[Outcome]:
    """``encode_slides`` in this process with ``encoder``, or ``encode_cohort``."""
    if not cluster.workers.is_this_process:
        return encode_cohort(sources, folder, order, cluster, progress)
    reading = order.reading
    return encode_slides(
        sources,
        folder,
        order.settings,
        encoder,
        batch=reading.batch,
        workers=reading.workers,
        max_unreadable=reading.max_unreadable,
        dtype=order.dtype,
        progress=progress,
    )


def encode_cohort(
    sources: Sequence[SlideSource], folder: SlidesFolder, order: EncodeOrder, cluster: Cluster, progress: SlidesProgress
) -> list[Outcome]:
    """As ``medsoft.slides.encode.encode_slides``, with worker processes.

    Args:
        sources: the slides.
        folder: where everything goes; all workers must see it, and the slides, under the same names.
        order: how slides become features.
        cluster: who does it.
        progress: told as it goes on.

    Returns:
        What became of each slide, in their order.

    Raises:
        InputError: the workers cannot do what is asked.
        OSError: the folder cannot be written; what was finished is kept.
        RunError: the cluster is gone; what was finished is kept.
    """
    before, rows = folder.outcomes(), folder.rows()
    tasks = [(order, s, before.get(s.id), rows.get(s.id, {}).get("path")) for s in sources]
    outcomes: dict[int, Outcome] = {}
    for found in _over(cluster, folder, encode_slide, tasks):
        done = [(number, outcome or Outcome("failed", "encode", KILLED)) for number, outcome in found]
        folder.record_all([(sources[number], outcome) for number, outcome in done])
        for number, outcome in done:
            outcomes[number] = outcome
            progress.advance(_encoded_now(outcome))
            progress.done(sources[number], outcome)
    return [outcomes[number] for number in range(len(sources))]


def answer_with(
    cluster: Cluster,
    sources: Sequence[SlideSource],
    outcomes: Mapping[str, Outcome],
    folder: SlidesFolder,
    order: AnswerOrder,
    model: SlideModel,
    progress: SlidesProgress,
) -> dict[str, SlideAnswer]:
    """``answer_slides`` in this process with ``model``, or ``answer_cohort``."""
    from medsoft.deploy.slide_answers import answer_slides

    if cluster.workers.is_this_process:
        return answer_slides(sources, outcomes, model, folder, order.maps, progress)
    return answer_cohort(sources, outcomes, folder, order, cluster, progress)


def answer_cohort(
    sources: Sequence[SlideSource],
    outcomes: Mapping[str, Outcome],
    folder: SlidesFolder,
    order: AnswerOrder,
    cluster: Cluster,
    progress: SlidesProgress,
) -> dict[str, SlideAnswer]:
    """As ``medsoft.deploy.slide_answers.answer_slides``, with worker processes; raises as ``encode_cohort``."""
    answers: dict[str, SlideAnswer] = {}
    tasks = [(order, source, outcomes[source.id]) for source in sources]
    for found in _over(cluster, folder, answer_slide, tasks):
        done = [(number, result or (Outcome("failed", "predict", KILLED), None)) for number, result in found]
        folder.record_all([(sources[number], outcome) for number, (outcome, _) in done])
        for number, (outcome, answer) in done:
            if answer is not None:
                answers[sources[number].id] = answer
            progress.done(sources[number], outcome)
    return answers


def _over(
    cluster: Cluster, folder: SlidesFolder, function: Callable[..., Result], tasks: Sequence[Task]
) -> Iterator[list[tuple[int, Result | None]]]:
    if tasks:
        folder.tidy()
        yield from each(cluster.client, function, tasks, cluster.look)


def _encoded_now(outcome: Outcome) -> int:
    """Tiles that this run has encoded of a slide."""
    return (outcome.tiles or 0) if outcome.status == "encoded" and not outcome.kept else 0


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

    # No names of slides in the keys: they stand in the cluster's logs.
    futures = {client.submit(function, *task, pure=False): number for number, task in tasks.items()}
    try:
        completed = as_completed(futures, raise_errors=False)
        while not completed.is_empty():
            look()
            batch = completed.next_batch(block=False)
            if not batch:
                time.sleep(POLL_SECONDS)
                continue
            yield [(futures[future], _result(future)) for future in batch]
            for future in batch:
                future.release()
    finally:
        client.cancel(list(futures), force=True)


def _result(future: Future) -> Any:
    """The result; waits where it was lost with its worker, and is made again."""
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        return _Killed()
    except FutureCancelledError:
        raise lost_scheduler() from None
    except (ImportError, AttributeError) as error:
        if "medsoft" not in str(error):
            raise
        raise InputError(f"the workers have no medsoft, or another version of it: {error}") from None
