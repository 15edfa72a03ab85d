"""Who loses a result where there is no room for all: the one who does not read, on a real and very small disk."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import DiskFull, EasyAnimError, ResultDropped, ResultExpired
from easyanim_server.domain.events import CHUNK_BYTES, Chunk, Completed, Progress
from easyanim_server.domain.job import Job
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs import quotas
from easyanim_server.jobs.manager import JobManager
from easyanim_server.jobs.quotas import Limits, caller_of
from easyanim_server.jobs.resultfile import on_disk_thread
from tests.fakes.worker import BUCKET, DONE, SimulatedWorker, pool_of, until

DISK = 4 * 2**20


class WritingWorker(SimulatedWorker):
    """Makes files of as many chunks as a job has steps, at once."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled: list[str] = []

    async def run(self, job: Job, context: CallContext = NO_CALL) -> AsyncIterator[Progress | Chunk | Completed]:
        for number in range(job.steps):
            if job.id in self.cancelled:
                return
            yield Chunk(number * CHUNK_BYTES, bytes([number]) * CHUNK_BYTES)
        yield DONE

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job.id)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "STILL_SECONDS", 0.05)
    monkeypatch.setattr(quotas, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(quotas, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(quotas, "LOOK_SECONDS", 0.02)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of `DISK` bytes for temporary files."""
    options = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(tmp_path)]
    if subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("no permission to mount a file system")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.fixture
async def begun() -> AsyncIterator[Callable[..., Any]]:
    tasks, managers = [], []

    async def begin(worker: SimulatedWorker, **limits: Any) -> JobManager:
        manager = JobManager(pool_of(worker), queue_size=64, limits=Limits(**limits))
        managers.append(manager)
        tasks.append(asyncio.create_task(manager.run()))
        await until(lambda: manager.info)
        return manager

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for manager in managers:
        for record in tuple(manager.records):
            await manager.leave(record)
    await on_disk_thread(lambda: None)


async def submit(manager: JobManager, name: str, chunks: int, caller: str) -> JobRecord:
    return await manager.create(Job(name, "a cat", "", BUCKET, steps=chunks, guidance=1.0, seed=0), caller=caller)


async def read(manager: JobManager, record: JobRecord) -> int:
    """Bytes that a caller gets who reads to the end."""
    size = 0
    try:
        async for event in manager.watch(record, heartbeat=5.0):
            size += len(event.data) if isinstance(event, Chunk) else 0
    finally:
        await manager.leave(record)
    return size


async def unread(manager: JobManager, name: str, chunks: int, caller: str) -> JobRecord:
    """A finished result whose caller reads nothing."""
    record = await submit(manager, name, chunks, caller)
    await until(lambda: record.over)
    return record


def failure(record: JobRecord) -> EasyAnimError:
    assert record.failure is not None
    return record.failure


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("ipv4:10.0.0.7:51234", "ipv4:10.0.0.7"),
        ("ipv6:%5B2001:db8:1:2:3::1%5D:51234", "ipv6:2001:db8:1:2::"),
        ("ipv6:[2001:db8:1:2:ffff::9]:1", "ipv6:2001:db8:1:2::"),
        ("ipv6:[fe80::1%25eth0]:1", "ipv6:fe80::"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:51234", "ipv4:10.0.0.7"),
        ("unix:", "unix"),
        ("unix:/run/easyanim", "unix"),
    ],
)
def test_a_caller_is_an_address_without_its_port(peer: str, caller: str) -> None:
    assert caller_of(peer) == caller


async def test_on_a_full_disk_those_who_read_get_their_files_and_those_who_do_not_lose_theirs(
    small_disk: Path, begun: Callable[..., Any]
) -> None:
    manager = await begun(WritingWorker())
    hostile = [await unread(manager, f"hostile {number}", 7, "one") for number in range(2)]
    honest = [await submit(manager, f"honest {number}", 9, "other") for number in range(3)]

    assert await asyncio.gather(*(read(manager, record) for record in honest)) == [9 * CHUNK_BYTES] * 3
    assert isinstance(failure(hostile[0]), ResultDropped)
    assert failure(hostile[0]).reason == "RESULT_QUOTA"
    assert "the disk is full" in str(failure(hostile[0]))
    await manager.drain(5)  # it waits for nobody who has lost a result, and reads no other
    assert manager.result_bytes == sum(7 * CHUNK_BYTES for record in hostile if record.failure is None)


async def test_new_jobs_are_refused_by_name_while_the_disk_is_nearly_full_and_taken_afterwards(
    small_disk: Path, begun: Callable[..., Any]
) -> None:
    manager = await begun(WritingWorker(), reserve_bytes=2**20)
    foreign = small_disk / "foreign"
    foreign.write_bytes(bytes(DISK - 2**19))

    async def refused() -> DiskFull:
        while True:
            try:
                manager.check_room()
            except DiskFull as error:
                return error
            await asyncio.sleep(0.005)

    error = await asyncio.wait_for(refused(), 10)
    assert (error.reason, error.retry_after > 0) == ("DISK_FULL", True)
    with pytest.raises(DiskFull):
        await submit(manager, "1", 1, "one")
    foreign.unlink()
    await until(lambda: not raises(manager.check_room))
    assert await read(manager, await submit(manager, "2", 2, "one")) == 2 * CHUNK_BYTES


def raises(function: Callable[[], None]) -> bool:
    try:
        function()
    except DiskFull:
        return True
    return False


async def test_results_that_are_not_read_do_not_keep_new_jobs_out(small_disk: Path, begun: Callable[..., Any]) -> None:
    manager = await begun(WritingWorker(), reserve_bytes=2**20)
    lost = await unread(manager, "1", 14, "one")

    await until(lambda: isinstance(lost.failure, ResultDropped))
    await until(lambda: not raises(manager.check_room))


async def test_a_disk_that_others_have_filled_ends_the_job_by_name(small_disk: Path, begun: Callable[..., Any]) -> None:
    worker = WritingWorker()
    manager = await begun(worker)
    (small_disk / "foreign").write_bytes(bytes(DISK - 2**19))
    with pytest.raises(DiskFull):
        await read(manager, await submit(manager, "1", 8, "one"))
    assert worker.cancelled == ["1"]


async def test_of_a_callers_results_over_its_quota_the_longest_unread_goes(begun: Callable[..., Any]) -> None:
    manager = await begun(WritingWorker(), caller_bytes=5 * CHUNK_BYTES)
    other = await unread(manager, "other's", 4, "other")
    first = await unread(manager, "first", 2, "one")
    second = await unread(manager, "second", 2, "one")
    third = await unread(manager, "third", 3, "one")

    assert isinstance(failure(first), ResultDropped)
    assert [record.failure for record in (other, second, third)] == [None] * 3
    assert await read(manager, third) == 3 * CHUNK_BYTES


async def test_all_results_together_have_a_quota_and_readers_keep_theirs(begun: Callable[..., Any]) -> None:
    manager = await begun(WritingWorker(), total_bytes=5 * CHUNK_BYTES)
    hostile = await unread(manager, "hostile", 4, "one")

    assert await read(manager, await submit(manager, "honest", 5, "other")) == 5 * CHUNK_BYTES
    assert isinstance(failure(hostile), ResultDropped)


async def test_a_file_that_alone_is_over_the_quota_ends_its_job_at_once(begun: Callable[..., Any]) -> None:
    worker = WritingWorker()
    manager = await begun(worker, caller_bytes=3 * CHUNK_BYTES)
    with pytest.raises(ResultDropped, match="larger than result_caller_bytes, 786432"):
        await read(manager, await submit(manager, "1", 8, "one"))
    assert worker.cancelled == ["1"]


async def test_bytes_that_nobody_reads_expire_and_those_of_a_slow_reader_do_not(begun: Callable[..., Any]) -> None:
    manager = await begun(WritingWorker(), unread_seconds=0.6)
    abandoned = await unread(manager, "abandoned", 2, "one")
    slow = await unread(manager, "slow", 8, "one")
    began, size = time.monotonic(), 0
    async for event in manager.watch(slow, heartbeat=5.0):
        if isinstance(event, Chunk):
            size += len(event.data)
            await asyncio.sleep(0.15)

    assert time.monotonic() - began > 0.6
    assert size == 8 * CHUNK_BYTES
    await until(lambda: abandoned.failure)
    assert isinstance(failure(abandoned), ResultExpired)
    assert failure(abandoned).reason == "RESULT_EXPIRED"
