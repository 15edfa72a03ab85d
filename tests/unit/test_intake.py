"""Places for messages that are no jobs yet, and what is refused before it is parsed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from easyanim_server.domain.errors import IntakeFull
from easyanim_server.rpc import intake
from easyanim_server.rpc.intake import Intake
from easyanim_server.rpc.status import to_status


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_place_counts_as_the_largest_message_until_its_size_is_known() -> None:
    places = Intake(25, 10)
    first, second = await places.place(), await places.place()
    assert places.taken == 20
    waiting = asyncio.create_task(places.place())
    await turns()
    assert not waiting.done()
    first.shrink(3)
    third = await waiting
    assert places.taken == 23
    for place in (first, second, third, third):
        place.release()
    assert places.taken == 0


async def test_who_finds_no_place_in_time_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "WAIT_SECONDS", 0.001)
    places = Intake(10, 10)
    await places.place()
    delays = set()
    for _ in range(100):
        with pytest.raises(IntakeFull, match="may take 10 bytes") as refused:
            await places.place()
        status = rpc_status.from_call(cast(grpc.Call, Ended(to_status(refused.value))))
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(info)
        assert status.details[1].Unpack(retry)
        assert info.reason == "INTAKE_FULL"
        assert 1000 <= retry.retry_delay.ToMilliseconds() <= 4000
        delays.add(retry.retry_delay.ToMilliseconds())
    assert len(delays) > 1, "those who were refused together should not come back together"
    assert places.waiting_count == 0


class Ended:
    """A call that ended with a status, as `rpc_status` reads it."""

    def __init__(self, status: Any) -> None:
        self.code = lambda: status.code
        self.details = lambda: status.details
        self.trailing_metadata = lambda: status.trailing_metadata


async def test_the_newest_gets_the_next_place_and_the_oldest_is_refused_where_too_many_wait() -> None:
    places = Intake(10, 10)
    held = await places.place()
    waiting = [asyncio.create_task(places.place()) for _ in range(intake.MOST_WAITING + 1)]
    await turns()
    assert isinstance(waiting[0].exception(), IntakeFull)
    held.release()
    (await waiting[-1]).release()
    await waiting[-2]
    assert not waiting[1].done()
    for task in waiting:
        task.cancel()


async def test_a_caller_who_leaves_while_it_waits_takes_no_place_along() -> None:
    places = Intake(10, 10)
    held = await places.place()
    left = asyncio.create_task(places.place())
    await turns()
    held.release()  # to the one that is waiting
    left.cancel()  # before it knows
    await asyncio.gather(left, return_exceptions=True)
    if not left.cancelled():
        left.result().release()
    assert places.taken == 0
    assert places.waiting_count == 0
