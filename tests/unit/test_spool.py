"""A job's spool: nothing that matters is lost, and readers cost little."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from easyanim_server.domain.errors import EasyAnimError, JobCancelled, ResultExpired
from easyanim_server.domain.events import Accepted, Chunk, Completed, Event, Phase, Progress, Queued, Restarted
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs.spool import Spool
from tests.fakes.worker import DONE

JOB = Job("1", "a cat", "", Bucket(64, 64, 5), steps=3, guidance=1.0, seed=0)


def progress(phase: Phase, completed: int, **fields: Any) -> Progress:
    return Progress(phase, completed, 3, **{"unit_seconds": None, "elapsed": 0.0, "eta": None, **fields})


@pytest.fixture
def spool() -> Iterator[Spool]:
    spool = Spool(JobRecord(JOB, time.monotonic()), Accepted(JOB, 1, False))
    yield spool
    spool.close()


async def read_all(spool: Spool) -> list[Event]:
    return [event async for event in spool.read(heartbeat=5.0)]


async def test_stale_progress_gives_way_to_newer_progress_of_its_phase_alone(spool: Spool) -> None:
    spool.put(Queued(0, None))
    for phase in (Phase.DENOISE, Phase.DECODE):
        for completed in range(4):
            spool.put(progress(phase, completed))
    spool.put(DONE)

    events = await read_all(spool)
    said = [(event.phase, event.completed) for event in events if isinstance(event, Progress)]
    assert said == [(Phase.DENOISE, 3), (Phase.DECODE, 3)]
    assert events[-1] == DONE


async def test_bytes_come_whole_and_in_order_to_several_readers(spool: Spool) -> None:
    parts = [bytes([number]) * 100_000 for number in range(8)]
    readers = [asyncio.create_task(read_all(spool)) for _ in range(2)]
    for number, part in enumerate(parts):
        await spool.write(Chunk(number * 100_000, part))
        await asyncio.sleep(0.001)
    spool.put(DONE)

    for reader in readers:
        chunks = [event for event in await reader if isinstance(event, Chunk)]
        assert b"".join(chunk.data for chunk in chunks) == b"".join(parts)
        assert all(len(chunk.data) <= 256 * 1024 for chunk in chunks)


async def test_a_late_reader_gets_everything_from_the_beginning(spool: Spool) -> None:
    await spool.write(Chunk(0, b"whole file"))
    spool.put(DONE)
    assert [type(event) for event in await read_all(spool)] == [Accepted, Chunk, Completed]


async def test_an_error_comes_after_what_was_said_before_it(spool: Spool) -> None:
    await spool.write(Chunk(0, b"half a file"))
    spool.fail(JobCancelled())
    spool.fail(EasyAnimError("a second error is not the cause"))

    seen = []
    with pytest.raises(JobCancelled):
        async for event in spool.read(heartbeat=5.0):
            seen.append(type(event))
    assert seen == [Accepted, Chunk]


async def test_silence_repeats_the_latest_news_with_fresh_times(spool: Spool) -> None:
    began = time.monotonic()
    spool.put(progress(Phase.TEXT_ENCODE, 3))
    spool.put(progress(Phase.DENOISE, 1, elapsed=2.0, eta=4.0))
    reader = spool.read(heartbeat=0.05)
    events = [await anext(reader) for _ in range(5)]

    repeated = [event for event in events if isinstance(event, Progress) and event.phase is Phase.DENOISE]
    assert len(repeated) == 3
    assert [event.elapsed for event in repeated] == sorted(event.elapsed for event in repeated)
    assert 2.1 <= repeated[-1].elapsed <= 2.0 + time.monotonic() - began
    assert repeated[-1].eta == pytest.approx(6.0 - repeated[-1].elapsed)
    await reader.aclose()  # type: ignore[attr-defined]


async def test_time_does_not_run_backwards_where_news_come_late(spool: Spool) -> None:
    spool.put(progress(Phase.DENOISE, 1, elapsed=2.0))
    reader = spool.read(heartbeat=0.05)
    repeated = [await anext(reader) for _ in range(3)][-1]
    spool.put(progress(Phase.DENOISE, 2, elapsed=2.01))
    late = await anext(reader)
    spool.put(progress(Phase.DENOISE, 3, elapsed=9.0))
    usual = await anext(reader)

    assert 2.05 <= repeated.elapsed <= late.elapsed < usual.elapsed == 9.0  # type: ignore[union-attr]
    await reader.aclose()  # type: ignore[attr-defined]


async def test_a_reader_that_is_cancelled_as_news_arrives_leaves(spool: Spool) -> None:
    reader = asyncio.create_task(read_all(spool))
    await asyncio.sleep(0.01)
    spool.put(Queued(0, None))
    reader.cancel()

    done, _ = await asyncio.wait([reader], timeout=1.0)
    reader.cancel()
    assert done, "the cancel was swallowed, and with it the end of the job's work"
    assert reader.cancelled()


async def test_a_restart_voids_what_was_said_before_and_is_told_once(spool: Spool) -> None:
    again = Restarted(2, "WORKER_LOST", "the worker process ended")
    early = spool.read(heartbeat=5.0)
    spool.put(progress(Phase.DECODE, 1, elapsed=9.0))
    await spool.write(Chunk(0, b"half a file"))
    seen: list[Event] = [await anext(early) for _ in range(3)]
    assert seen[2] == Chunk(0, b"half a file")

    spool.restart(again)
    spool.put(progress(Phase.DECODE, 3))
    await spool.write(Chunk(0, b"whole file"))
    spool.put(DONE)

    rest = [again, progress(Phase.DECODE, 3), Chunk(0, b"whole file"), DONE]
    assert [event async for event in early] == rest
    assert (await read_all(spool))[1:] == rest


async def test_a_reader_that_waits_hears_of_a_restart_and_then_of_silence(spool: Spool) -> None:
    spool.put(progress(Phase.DENOISE, 2))
    reader = spool.read(heartbeat=0.05)
    seen = [await anext(reader) for _ in range(4)]
    assert seen[3].completed == 2, "repeated"  # type: ignore[union-attr]

    spool.restart(Restarted(2, "WORKER_LOST", ""))
    spool.put(Queued(0, None))
    assert [type(await anext(reader)) for _ in range(4)] == [Restarted, Queued, Queued, Queued]
    await reader.aclose()  # type: ignore[attr-defined]


async def test_a_disk_that_is_full_in_mid_chunk_is_an_error(spool: Spool) -> None:
    await spool.write(Chunk(0, bytes(600)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # the next write is cut, as on a disk that fills up
    try:
        with pytest.raises(OSError, match="too large"):
            await spool.write(Chunk(600, bytes(600)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_the_file_is_gone_with_its_spool(spool: Spool) -> None:
    gc.collect()  # what other tests left open would be closed in between
    before = psutil.Process().num_fds()
    await spool.write(Chunk(0, b"x"))
    assert psutil.Process().num_fds() == before + 1
    file = spool._file
    spool.close()
    await file.write(b"y", 1)  # the worker has not heard of it yet; the write comes before the close or after it

    async def gone() -> None:
        while psutil.Process().num_fds() > before:
            await asyncio.sleep(0.005)

    await asyncio.wait_for(gone(), 10)


async def test_a_disk_that_stands_still_holds_up_no_event_loop(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    moving = threading.Event()
    write, read = os.pwrite, os.pread

    def late(function: Any) -> Any:
        return lambda *arguments: (moving.wait(20), function(*arguments))[1]

    monkeypatch.setattr(os, "pwrite", late(write))
    monkeypatch.setattr(os, "pread", late(read))
    writing = asyncio.create_task(spool.write(Chunk(0, b"late")))
    await asyncio.sleep(0.05)
    assert not writing.done()
    moving.set()
    await writing

    moving.clear()
    reading = asyncio.create_task(read_all(spool))
    spool.put(DONE)
    await asyncio.sleep(0.05)
    assert not reading.done()
    moving.set()
    assert (await reading)[1:] == [Chunk(0, b"late"), DONE]


async def test_unread_bytes_have_the_age_of_the_last_read(spool: Spool) -> None:
    assert spool.unread_since is None
    await spool.write(Chunk(0, bytes(300_000)))
    first = spool.unread_since
    assert first is not None
    reader = spool.read(heartbeat=5.0)
    for _ in range(2):  # accepted, a chunk that may still be on its way
        await anext(reader)
    assert spool.unread_since == first
    await anext(reader)
    assert spool.unread_since is not None
    assert spool.unread_since > first
    spool.put(DONE)
    await anext(reader)
    assert spool.unread_since is None
    await reader.aclose()


async def test_a_file_that_was_dropped_ends_in_the_error_and_frees_its_space(spool: Spool) -> None:
    await spool.write(Chunk(0, bytes(300_000)))
    spool.put(DONE)
    reader = spool.read(heartbeat=5.0)
    for _ in range(2):
        await anext(reader)
    held = psutil.Process().num_fds()
    await asyncio.wrap_future(spool.drop(ResultExpired("not read")))

    assert psutil.Process().num_fds() == held - 1
    with pytest.raises(ResultExpired):
        await anext(reader)
