"""Settings of Dask that medsoft's schedulers and workers always have."""

from __future__ import annotations

from typing import Any

CLOSED_PAGES: dict[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
"""Dask always serves pages over HTTP, without encryption and to anybody: here they are none."""

QUIET_ENDS: dict[str, Any] = {"distributed.worker.preload": ["medsoft.cluster.worker_log"]}
"""See ``medsoft.cluster.worker_log``."""
