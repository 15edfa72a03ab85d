"""Kills a worker that does not leave a job that was given up."""

from __future__ import annotations

import asyncio
import math

import structlog

from easyanim_server.events import Progress, Queued
from easyanim_server.job import Job
from easyanim_server.protocols import Worker

log = structlog.get_logger(__name__)

PATIENCE_UNITS = 10
"""Steps, or decoded frames, that a worker may take to leave a job where these are slow: it looks up between them."""


class Watchdog:
    """Watches one worker from the cancelling of a job to its end. Used from one event loop."""

    def __init__(self, worker: Worker, seconds: float) -> None:
        """Prepare.

        Args:
            worker: Who is killed where it does not obey; `Worker.run` then raises `WorkerLost`.
            seconds: How long it may take, or `PATIENCE_UNITS` of the job's units where that is longer; may be infinite.
        """
        self._worker = worker
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self.fired = False
        """Whether the worker was killed; `rest` does not change it."""

    def watch(self, job: Job, latest: Queued | Progress | None) -> None:
        """The worker was told to leave a job, whose latest news say how long its units take."""
        unit = latest.unit_seconds if isinstance(latest, Progress) else None
        seconds = max(self._seconds, PATIENCE_UNITS * (unit or 0.0))
        if seconds < math.inf:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._fire, job, seconds)

    def rest(self) -> None:
        """The worker has left the job."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self, job: Job, seconds: float) -> None:
        self.fired = True
        log.error("worker is stuck in a cancelled job; killing it", job_id=job.id, seconds=seconds)
        self._worker.kill()
