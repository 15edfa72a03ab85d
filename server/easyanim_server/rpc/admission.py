"""What can be said of a request's admission before anything is done for it."""

from __future__ import annotations

from easyanim_server.errors import QueueFull, ShuttingDown
from easyanim_server.jobs.scheduler import Scheduler, State


def refuse_early(scheduler: Scheduler, queue_size: int) -> None:
    """Refuse a request that `Scheduler.submit` would refuse now, for the same reason and with the same delay.

    A glance that costs nothing. `submit` decides: the queue may change while the request is read.

    Args:
        scheduler: Asked, not changed.
        queue_size: Jobs that may wait in it.

    Raises:
        ShuttingDown: the server drains.
        QueueFull: all places are taken.
    """
    if scheduler.state is State.DRAINING:
        raise ShuttingDown
    if scheduler.waiting_count >= queue_size:
        _, first = next(scheduler.waiting())
        raise QueueFull(queue_size, retry_after=max(1.0, first.eta or 0.0))
