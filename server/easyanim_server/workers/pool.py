"""All workers of one front, each kept up by a supervisor of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from easyanim_server.domain.model import WorkerInfo
from easyanim_server.workers.supervisor import Supervisor


class WorkerPool:
    """A fixed set of supervised workers. Used from one event loop."""

    def __init__(self, supervisors: Sequence[Supervisor]) -> None:
        """Prepare; `run` starts the workers.

        Args:
            supervisors: One for each worker, at least one.
        """
        if not supervisors:
            raise ValueError("a pool needs at least one worker")
        self._supervisors = tuple(supervisors)

    @property
    def ready_count(self) -> int:
        """Workers that can take a job, or are in one."""
        return sum(item.ready for item in self._supervisors)

    @property
    def detail(self) -> str:
        """One sentence on what the first worker that is not ready does; empty where all are."""
        return next((item.detail for item in self._supervisors if not item.ready), "")

    @property
    def info(self) -> WorkerInfo | None:
        """What the first worker brought along that was ever ready; None before that."""
        return next((item.info for item in self._supervisors if item.info is not None), None)

    async def run(
        self,
        welcome: Callable[[WorkerInfo], Awaitable[None]],
        serve: Callable[[Supervisor], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> None:
        """Keep all workers up until cancelled; see `Supervisor.run`.

        Raises:
            EasyAnimError: a worker cannot be started with these settings.
        """
        running = [asyncio.create_task(item.run(welcome, serve, on_change)) for item in self._supervisors]
        try:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def stop(self) -> None:
        """End all workers; after `run` has ended."""
        await asyncio.gather(*(item.stop() for item in self._supervisors))
