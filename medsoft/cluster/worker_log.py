"""What Dask loads into each worker process: its log does not take an orderly end for a fault."""

from __future__ import annotations

import logging


def dask_setup(worker: object) -> None:
    """Drop what Dask leaves where the work ends before its time.

    That is the traceback of a thread whose process ends while it still waits for the word to end, and a line for each
    task at hand when all were given up.

    Args:
        worker: of Dask, which calls this as it starts.
    """
    logging.getLogger("distributed.nanny").addFilter(_is_news)
    logging.getLogger("distributed.worker.state_machine").addFilter(_is_no_given_up_task)


def _is_news(record: logging.LogRecord) -> bool:
    closing = record.exc_info is not None and isinstance(record.exc_info[1], TypeError | OSError | EOFError)
    return not (closing and record.getMessage() == "Worker process died unexpectedly")


def _is_no_given_up_task(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return not (said.startswith("Async instruction for ") and said.endswith("ended with CancelledError"))
