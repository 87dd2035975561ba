"""What Dask loads into each worker process: its log does not take an orderly end for a fault."""

from __future__ import annotations

import logging


def dask_setup(worker: object) -> None:
    """Drop the traceback that a thread of Dask leaves where its process ends while it still waits for the word to end.

    Args:
        worker: of Dask, which calls this as it starts.
    """
    logging.getLogger("distributed.nanny").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    closing = record.exc_info is not None and isinstance(record.exc_info[1], TypeError | OSError | EOFError)
    return not (closing and record.getMessage() == "Worker process died unexpectedly")
