"""Kills a worker that stands still: in a job that was given up, in one that makes no progress, or between jobs."""

from __future__ import annotations

import math
from collections.abc import Callable

import structlog

from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock, Timer
from easyanim_server.domain.protocols import Worker

log = structlog.get_logger(__name__)

PATIENCE_UNITS = 10
"""Steps, or decoded frames, that a worker may take where these are slow: it looks up between them."""

LOOKS = 10
"""How often silence is looked for before it counts. Looks are counted and not seconds, for a front that was itself
stopped, by a debugger or with its whole container, has not been listening."""


class Watchdog:
    """Watches one worker from a job's beginning to its end, and while it waits for one. Used from one event loop."""

    def __init__(
        self,
        worker: Worker,
        cancel_seconds: float,
        stall_seconds: float,
        idle_seconds: float = math.inf,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Prepare. All times may be infinite; the first two are `PATIENCE_UNITS` of the job's slowest unit at least.

        Args:
            worker: Who is killed where it stands still; `Worker.run` then raises `WorkerLost`.
            cancel_seconds: How long it may take to leave a job that was given up.
            stall_seconds: How long nothing may be heard from it in a job.
            idle_seconds: How long it may give no sign of life between jobs.
            clock: What times are measured with.
        """
        self._clock = clock
        self._worker = worker
        self._cancel_seconds, self._stall_seconds, self._idle_seconds = cancel_seconds, stall_seconds, idle_seconds
        self._beats: int | None = None
        self._job_id = ""
        self._unit = 0.0
        self._silent_looks = 0
        self._timer: Timer | None = None
        self.fired = ""
        """Why the worker was killed, in a sentence; `rest` does not change it, `watch` and `reset` do."""

    def watch(self, job_id: str, unit_seconds: float) -> None:
        """The worker begins a job, whose units are expected to take so long."""
        self._job_id, self.fired = job_id, ""
        self._unit, self._silent_looks = unit_seconds, 0
        self._call(self._stall_patience / LOOKS, self._look)

    def watch_idle(self) -> None:
        """The worker waits for a job, and says now and then that it does."""
        self._job_id, self.fired, self._silent_looks = "", "", 0
        self._call(self._idle_seconds / LOOKS, self._look_idle)

    def heard(self, unit_seconds: float | None) -> None:
        """The worker said something: how long a unit of its job took, if it knows."""
        self._unit, self._silent_looks = max(self._unit, unit_seconds or 0.0), 0

    def give_up(self) -> None:
        """The worker was told to leave its job; what it says from now on does not count."""
        self.rest()
        seconds = max(self._cancel_seconds, PATIENCE_UNITS * self._unit)
        self._call(seconds, lambda: self._kill(f"the worker did not leave a cancelled job for {seconds:.3g} s"))

    def rest(self) -> None:
        """The worker has left the job, or waits no more for one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reset(self) -> None:
        """Forget why the last worker was killed: another one takes its place."""
        self.fired = ""

    @property
    def _stall_patience(self) -> float:
        return max(self._stall_seconds, PATIENCE_UNITS * self._unit)

    def _call(self, seconds: float, function: Callable[[], None]) -> None:
        if seconds < math.inf:
            self._timer = self._clock.call_later(seconds, function)

    def _look(self) -> None:
        self._silent_looks += 1
        if self._silent_looks > LOOKS:  # the first may come right after the last news
            self._kill(f"nothing was heard of the worker for {self._stall_patience:.3g} s")
        else:
            self._call(self._stall_patience / LOOKS, self._look)

    def _look_idle(self) -> None:
        beats = self._worker.beats
        self._silent_looks = self._silent_looks + 1 if beats == self._beats else 0
        self._beats = beats
        if self._silent_looks > LOOKS:
            self._kill(f"the worker waited for a job and gave no sign of life for {self._idle_seconds:.3g} s")
        else:
            self._call(self._idle_seconds / LOOKS, self._look_idle)

    def _kill(self, why: str) -> None:
        self.fired = f"{why}, so it was killed"
        log.error("worker is stuck; killing it", job_id=self._job_id or None, why=why)
        self._worker.kill()
