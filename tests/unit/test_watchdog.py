"""When a worker counts as stuck, on a real event loop."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from easyanim_server.workers.watchdog import Watchdog

PATIENCE = 0.5
LONG = 3 * PATIENCE


class SimulatedWorker:
    """Notes when it is killed."""

    def __init__(self) -> None:
        self.killed = 0

    def kill(self) -> None:
        self.killed += 1


@pytest.fixture
def worker() -> SimulatedWorker:
    return SimulatedWorker()


def dog(worker: SimulatedWorker, cancel: float = math.inf, stall: float = math.inf) -> Watchdog:
    return Watchdog(worker, cancel, stall)  # type: ignore[arg-type]


async def killed(worker: SimulatedWorker) -> None:
    """Looks are counted and not seconds, so on a busy machine they take longer than their sum."""

    async def look() -> None:
        while not worker.killed:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), 30)


async def test_a_silent_worker_is_killed_once(worker: SimulatedWorker) -> None:
    watchdog = dog(worker, stall=PATIENCE)
    watchdog.watch("1", 0.0)
    await killed(worker)
    await asyncio.sleep(LONG)

    assert worker.killed == 1
    assert watchdog.fired == "nothing was heard of the worker for 0.5 s, so it was killed"


async def test_news_are_a_sign_of_life(worker: SimulatedWorker) -> None:
    watchdog = dog(worker, stall=PATIENCE)
    watchdog.watch("1", 0.0)
    for _ in range(15):
        await asyncio.sleep(PATIENCE / 5)
        watchdog.heard(None)
    watchdog.rest()
    await asyncio.sleep(LONG)

    assert worker.killed == 0


@pytest.mark.parametrize("expected", [True, False], ids=["as expected", "as it turns out"])
async def test_slow_units_have_the_time_of_ten(worker: SimulatedWorker, expected: bool) -> None:
    watchdog = dog(worker, stall=PATIENCE)
    watchdog.watch("1", LONG if expected else 0.0)
    if not expected:
        watchdog.heard(LONG)
    await asyncio.sleep(LONG)
    watchdog.rest()

    assert worker.killed == 0


async def test_a_front_that_was_stopped_itself_blames_nobody(worker: SimulatedWorker) -> None:
    watchdog = dog(worker, stall=PATIENCE)
    watchdog.watch("1", 0.0)
    time.sleep(LONG)  # nothing runs, as under a debugger
    await asyncio.sleep(PATIENCE / 5)
    assert worker.killed == 0

    await killed(worker)


async def test_of_a_job_that_was_given_up_no_news_count(worker: SimulatedWorker) -> None:
    watchdog = dog(worker, cancel=PATIENCE, stall=LONG)
    watchdog.watch("1", 0.0)
    watchdog.give_up()
    for _ in range(15):
        await asyncio.sleep(PATIENCE / 5)
        watchdog.heard(0.01)

    assert worker.killed == 1
    assert watchdog.fired.startswith("the worker did not leave a cancelled job for 0.5 s")


async def test_nobody_is_killed_where_patience_has_no_end(worker: SimulatedWorker) -> None:
    watchdog = dog(worker)
    watchdog.watch("1", 0.0)
    watchdog.give_up()
    await asyncio.sleep(PATIENCE)

    assert worker.killed == 0
